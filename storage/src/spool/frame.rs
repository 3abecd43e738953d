//! One record in a spool file: a mark to find it by, its length, a checksum, its bytes.
//!
//! The checksum is salted with a number that only the file knows, so that bytes which a caller put into a body are
//! never taken for a frame when a reader looks for the next good one behind damage.

use crate::record;

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 12;
const MARK: [u8; 4] = [0xa7, b'r', b'c', 0x1a];
/// How many marks behind damage are tried before the rest of a file is given up; each costs a checksum.
const RESYNC_TRIES_MAX: usize = 10_000;

/// What stands at a place of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A frame that is whole and right.
    Frame {
        payload: &'a [u8],
        /// Where the next one begins.
        end: usize,
    },
    /// The beginning of a frame whose end is not there.
    Incomplete,
    /// Anything else.
    Damaged,
}

/// Appends one frame whose payload `fill` writes. Nothing is allocated if `out` has the room.
pub(super) fn write(out: &mut Vec<u8>, salt: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&[0; 8]);
    fill(out);
    let length = u32::try_from(out.len() - start - HEADER_BYTES).unwrap_or(u32::MAX);
    let checksum = checksum(salt, length, out.get(start + HEADER_BYTES..).unwrap_or_default());
    if let Some(header) = out.get_mut(start + 4..start + HEADER_BYTES) {
        let (first, second) = header.split_at_mut(4);
        first.copy_from_slice(&length.to_le_bytes());
        second.copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Looks at `bytes[at..]`.
pub(super) fn at(bytes: &[u8], at: usize, salt: u32) -> Found<'_> {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some((header, body)) = rest.split_first_chunk::<HEADER_BYTES>() else {
        let seen = rest.len().min(MARK.len());
        return if rest.get(..seen) == MARK.get(..seen) {
            Found::Incomplete
        } else {
            Found::Damaged
        };
    };
    let [m0, m1, m2, m3, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    let count = length as usize;
    if [m0, m1, m2, m3] != MARK || record::RECORD_BYTES_MAX < count {
        return Found::Damaged;
    }
    match body.get(..count) {
        None => Found::Incomplete,
        Some(payload)
            if checksum(salt, length, payload) == u32::from_le_bytes([c0, c1, c2, c3]) =>
        {
            Found::Frame { payload, end: at + HEADER_BYTES + count }
        }
        Some(_) => Found::Damaged,
    }
}

/// Where the next whole frame at or after `from` begins.
pub(super) fn next(bytes: &[u8], from: usize, salt: u32) -> Option<usize> {
    let mut tries = 0;
    for (offset, window) in bytes.get(from..)?.windows(MARK.len()).enumerate() {
        if window != MARK {
            continue;
        }
        if matches!(at(bytes, from + offset, salt), Found::Frame { .. }) {
            return Some(from + offset);
        }
        tries += 1;
        if RESYNC_TRIES_MAX <= tries {
            return None;
        }
    }
    None
}

fn checksum(salt: u32, length: u32, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&length.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}
