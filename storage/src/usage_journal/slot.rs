//! A lease's place in the file: 512 bytes, a sector. What it is of, written once, and two copies of its figure,
//! written in turn.

use super::Key;

pub(super) const SLOT_BYTES: usize = 512;
/// The longest id of a budget.
pub const BUDGET_BYTES_MAX: usize = HEAD_BYTES - 24;
/// Checksum, version, length of the id, incarnation, epoch, id.
const HEAD_BYTES: usize = 384;
/// Figure, turn, checksum; the rest of the copy's 64 bytes is unused.
const COPY_BYTES: usize = 20;
const COPIES_AT: [usize; 2] = [384, 448];
const VERSION: u16 = 1;
const MAGIC: [u8; 8] = *b"ALUSAGE\x01";

/// How a process left its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Open,
    Closed,
}

/// Where place `number` begins; place 0 is the file's header.
pub(super) fn offset(number: u64) -> u64 {
    number * SLOT_BYTES as u64
}

/// The part of a place that says what it is of: what its copies need of it.
pub(super) struct Head {
    checksum: u32,
}

/// What a place holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    Free,
    Damaged,
    Lease {
        key: Key,
        charged: u64,
        /// Both copies are right, or one of them was not written yet. If not, the newer one may be missing.
        is_whole: bool,
    },
}

impl Head {
    /// The head of `key`, and the whole place with its first figure. `None`: the id is too long.
    pub(super) fn first(key: &Key, charged: u64) -> Option<(Self, [u8; SLOT_BYTES])> {
        let id = key.budget.as_bytes();
        let length = u16::try_from(id.len()).ok().filter(|_| id.len() <= BUDGET_BYTES_MAX)?;
        let mut body = Vec::with_capacity(HEAD_BYTES);
        body.extend_from_slice(&VERSION.to_le_bytes());
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(&key.incarnation.to_le_bytes());
        body.extend_from_slice(&key.epoch.to_le_bytes());
        body.extend_from_slice(id);
        body.resize(HEAD_BYTES - 4, 0);
        let head = Self { checksum: crc32fast::hash(&body) };
        let mut bytes = [0; SLOT_BYTES];
        let (first, rest) = bytes.split_at_mut(4);
        first.copy_from_slice(&head.checksum.to_le_bytes());
        let (rest, copies) = rest.split_at_mut(HEAD_BYTES - 4);
        rest.copy_from_slice(&body);
        if let Some(copy) = copies.get_mut(..COPY_BYTES) {
            copy.copy_from_slice(&head.copy(0, charged).1);
        }
        Some((head, bytes))
    }

    /// The copy that turn `turn` writes, and where in the place.
    pub(super) fn copy(&self, turn: u64, charged: u64) -> (u64, [u8; COPY_BYTES]) {
        let mut bytes = [0; COPY_BYTES];
        let (figures, checksum) = bytes.split_at_mut(16);
        let (first, second) = figures.split_at_mut(8);
        first.copy_from_slice(&charged.to_le_bytes());
        second.copy_from_slice(&turn.to_le_bytes());
        checksum.copy_from_slice(&copy_checksum(self.checksum, figures).to_le_bytes());
        let [even, odd] = COPIES_AT;
        (if turn.is_multiple_of(2) { even } else { odd } as u64, bytes)
    }
}

/// Of the head too, so that a copy is never taken for one of another lease that had the place before.
fn copy_checksum(head: u32, figures: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(head);
    hasher.update(figures);
    hasher.finalize()
}

pub(super) fn parse(bytes: &[u8]) -> Parsed {
    if bytes.iter().all(|it| *it == 0) {
        return Parsed::Free;
    }
    parse_lease(bytes).unwrap_or(Parsed::Damaged)
}

fn parse_lease(bytes: &[u8]) -> Option<Parsed> {
    let (checksum, body) = bytes.get(..HEAD_BYTES)?.split_first_chunk::<4>()?;
    let checksum = u32::from_le_bytes(*checksum);
    if crc32fast::hash(body) != checksum {
        return None;
    }
    let (version, rest) = body.split_first_chunk::<2>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (incarnation, rest) = rest.split_first_chunk::<8>()?;
    let (epoch, rest) = rest.split_first_chunk::<8>()?;
    if u16::from_le_bytes(*version) != VERSION {
        return None;
    }
    let id = std::str::from_utf8(rest.get(..usize::from(u16::from_le_bytes(*length)))?).ok()?;
    let key = Key {
        budget: id.into(),
        epoch: u64::from_le_bytes(*epoch),
        incarnation: u64::from_le_bytes(*incarnation),
    };
    let copies = COPIES_AT.map(|at| parse_copy(bytes.get(at..at + COPY_BYTES)?, checksum));
    let (turn, charged) = copies.into_iter().flatten().max()?;
    let is_blank =
        |at: usize| bytes.get(at..at + COPY_BYTES).is_some_and(|it| it.iter().all(|it| *it == 0));
    let [even, odd] = copies;
    let is_whole = even.is_some() && (odd.is_some() || (turn == 0 && is_blank(COPIES_AT[1])));
    Some(Parsed::Lease { key, charged, is_whole })
}

/// Turn and figure.
fn parse_copy(bytes: &[u8], head: u32) -> Option<(u64, u64)> {
    let (figures, checksum) = bytes.split_last_chunk::<4>()?;
    if copy_checksum(head, figures) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let (charged, turn) = figures.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*turn.first_chunk::<8>()?), u64::from_le_bytes(*charged)))
}

/// The file's first sector: in which boot of the machine it was written, and how it was left.
pub(super) fn header(boot_id: &str, ending: Ending) -> [u8; SLOT_BYTES] {
    let mut body = MAGIC.to_vec();
    body.push(u8::from(ending == Ending::Closed));
    let boot = boot_id.as_bytes();
    let boot = boot.get(..boot.len().min(64)).unwrap_or_default();
    body.push(u8::try_from(boot.len()).unwrap_or(0));
    body.extend_from_slice(boot);
    body.resize(SLOT_BYTES - 4, 0);
    let mut bytes = [0; SLOT_BYTES];
    let (first, rest) = bytes.split_at_mut(4);
    first.copy_from_slice(&crc32fast::hash(&body).to_le_bytes());
    rest.copy_from_slice(&body);
    bytes
}

pub(super) fn parse_header(bytes: &[u8]) -> Option<(&str, Ending)> {
    let (checksum, body) = bytes.split_first_chunk::<4>()?;
    let (magic, rest) = body.split_first_chunk::<8>()?;
    let ([ending, length], rest) = rest.split_first_chunk::<2>()?;
    if bytes.len() != SLOT_BYTES
        || crc32fast::hash(body) != u32::from_le_bytes(*checksum)
        || *magic != MAGIC
    {
        return None;
    }
    let boot = std::str::from_utf8(rest.get(..usize::from(*length))?).ok()?;
    Some((boot, if *ending == 1 { Ending::Closed } else { Ending::Open }))
}
