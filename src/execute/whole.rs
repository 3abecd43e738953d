//! A body that is taken whole, within a bound.

use bytes::{Bytes, BytesMut};

/// What has come of a body. One frame is the common case: it is taken as it is, not copied.
#[derive(Debug, Default)]
pub struct Whole {
    first: Bytes,
    rest: BytesMut,
}

impl Whole {
    /// Takes the next part, after which so many `more` bytes are known to come. False, and nothing is taken, where that
    /// would be more than `bytes_max` in all.
    #[must_use]
    pub fn push(&mut self, data: Bytes, more: u64, bytes_max: usize) -> bool {
        if bytes_max < self.first.len() + self.rest.len() + data.len() {
            return false;
        }
        if self.first.is_empty() && self.rest.is_empty() {
            self.first = data;
            return true;
        }
        if self.rest.is_empty() {
            let more = usize::try_from(more).unwrap_or(0).min(bytes_max);
            self.rest.reserve(self.first.len() + data.len() + more);
            self.rest.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.rest.extend_from_slice(&data);
        true
    }

    /// All of it.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        if self.rest.is_empty() { self.first } else { self.rest.freeze() }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::Whole;

    #[test]
    fn parts_are_put_together_in_order_and_one_alone_is_not_copied() {
        let part = Bytes::from_static(b"one");
        let mut whole = Whole::default();
        assert!(whole.push(Bytes::new(), 0, 9) && whole.push(part.clone(), 0, 9));
        assert_eq!(whole.into_bytes().as_ptr(), part.as_ptr());
        let mut whole = Whole::default();
        for part in ["one", "two", "six"] {
            assert!(whole.push(Bytes::from(part), u64::MAX, 9));
        }
        assert!(!whole.push(Bytes::from("!"), 0, 9), "it is over the bound");
        assert_eq!(whole.into_bytes(), "onetwosix");
    }
}
