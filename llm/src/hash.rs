//! A small stable hash, for names that must be the same on every node and every day.

/// FNV-1a over the parts, a separator between them.
pub(crate) fn fnv(parts: &[&[u8]]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut eat = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    for part in parts {
        part.iter().copied().for_each(&mut eat);
        eat(0xff); // Not a byte of UTF-8, so that parts cannot run into each other.
    }
    hash
}
