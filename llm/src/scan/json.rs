//! A checking walk over JSON text. Knows where things are, not what they mean.

use std::borrow::Cow;
use std::ops::Range;

use super::Error;
use super::marks::Marks;

/// How deep objects and arrays may stand in each other, the outermost included.
pub const DEPTH_MAX: u32 = 128;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

/// A field's name as written, without its quotes.
#[derive(Clone, Copy)]
pub(crate) struct Key<'a>(&'a [u8]);

impl<'a> Key<'a> {
    /// As written.
    pub(crate) const fn raw(self) -> &'a [u8] {
        self.0
    }

    pub(super) fn decode(self) -> Cow<'a, str> {
        unescape(self.0)
    }
}

/// A field of an object.
pub(crate) struct Member {
    pub(super) member: Range<usize>,
    pub(crate) value: Range<usize>,
    pub(crate) kind: Kind,
}

/// Where an object's inside begins and ends.
pub(crate) struct Ends {
    pub(super) open: usize,
    pub(super) close: usize,
    /// What was seen between.
    pub(super) marks: Marks,
}

/// Walks the fields of the object that `body` is, nothing but white space around it.
pub(crate) fn members<'a>(
    body: &'a [u8],
    mut each: impl FnMut(Key<'a>, Member) -> Result<(), Error>,
) -> Result<Ends, Error> {
    let mut cursor = Cursor { body, at: 0, marks: Marks::default() };
    cursor.space();
    match cursor.peek() {
        Some(b'{') => cursor.at += 1,
        Some(_) => {
            cursor.value(0)?;
            cursor.end()?;
            return Err(Error::NotAnObject);
        }
        None => return cursor.fail("it is empty"),
    }
    let open = cursor.at;
    cursor.space();
    let mut more = cursor.peek() != Some(b'}');
    while more {
        let start = cursor.at;
        let key = cursor.key()?;
        let from = cursor.at;
        let kind = cursor.value(1)?;
        each(key, Member { member: start..cursor.at, value: from..cursor.at, kind })?;
        cursor.space();
        more = match cursor.peek() {
            Some(b',') => {
                cursor.at += 1;
                cursor.space();
                true
            }
            Some(b'}') => false,
            _ => return cursor.fail("expected `,` or `}`"),
        };
    }
    let close = cursor.at;
    cursor.at += 1;
    cursor.end()?;
    Ok(Ends { open, close, marks: cursor.marks })
}

/// Walks the items of the array that `body` is, nothing but white space around it.
pub(super) fn items<'a>(
    body: &'a [u8],
    mut each: impl FnMut(&'a [u8], Kind) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut cursor = Cursor { body, at: 0, marks: Marks::default() };
    cursor.space();
    cursor.expect(b'[', "expected `[`")?;
    cursor.space();
    let mut more = cursor.peek() != Some(b']');
    while more {
        let from = cursor.at;
        let kind = cursor.value(1)?;
        each(body.get(from..cursor.at).unwrap_or_default(), kind)?;
        cursor.space();
        more = match cursor.peek() {
            Some(b',') => {
                cursor.at += 1;
                cursor.space();
                true
            }
            Some(b']') => false,
            _ => return cursor.fail("expected `,` or `]`"),
        };
    }
    cursor.at += 1;
    cursor.end()
}

/// A string value's text. `raw` is a checked JSON string with its quotes.
pub(super) fn text(raw: &[u8]) -> Cow<'_, str> {
    unescape(raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default())
}

struct Cursor<'a> {
    body: &'a [u8],
    at: usize,
    marks: Marks,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn fail<T>(&self, problem: &'static str) -> Result<T, Error> {
        Err(Error::Syntax { offset: self.at, problem })
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn end(&mut self) -> Result<(), Error> {
        self.space();
        if self.at < self.body.len() { self.fail("there is more after its end") } else { Ok(()) }
    }

    fn expect(&mut self, byte: u8, problem: &'static str) -> Result<(), Error> {
        if self.peek() != Some(byte) {
            return self.fail(problem);
        }
        self.at += 1;
        Ok(())
    }

    /// A name, its colon and the white space up to the value.
    fn key(&mut self) -> Result<Key<'a>, Error> {
        if self.peek() != Some(b'"') {
            return self.fail("expected a field name in double quotes");
        }
        let from = self.at + 1;
        self.string()?;
        let key = Key(self.body.get(from..self.at - 1).unwrap_or_default());
        self.space();
        self.expect(b':', "expected `:`")?;
        self.space();
        Ok(key)
    }

    /// One value, `around` levels deep.
    fn value(&mut self, around: u32) -> Result<Kind, Error> {
        // One bit a level: whether it is an object.
        let mut levels: u128 = 0;
        let mut depth: u32 = 0;
        let mut outer = None;
        loop {
            let kind = self.begin()?;
            let kind_of_whole = *outer.get_or_insert(kind);
            if matches!(kind, Kind::Object | Kind::Array) {
                if around + depth >= DEPTH_MAX {
                    return Err(Error::TooDeep);
                }
                levels = levels << 1 | u128::from(kind == Kind::Object);
                depth += 1;
                self.space();
                let closing = if kind == Kind::Object { b'}' } else { b']' };
                if self.peek() != Some(closing) {
                    if kind == Kind::Object {
                        self.key()?;
                    }
                    continue;
                }
            }
            if self.after(&mut levels, &mut depth)? {
                return Ok(kind_of_whole);
            }
        }
    }

    /// A scalar, or the opening bracket of anything else.
    fn begin(&mut self) -> Result<Kind, Error> {
        match self.peek() {
            Some(b'"') => self.string().map(|()| Kind::String),
            Some(b'{') => {
                self.at += 1;
                Ok(Kind::Object)
            }
            Some(b'[') => {
                self.at += 1;
                Ok(Kind::Array)
            }
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| Kind::Number),
            Some(b't') => self.literal(b"true").map(|()| Kind::Bool),
            Some(b'f') => self.literal(b"false").map(|()| Kind::Bool),
            Some(b'n') => self.literal(b"null").map(|()| Kind::Null),
            Some(_) => self.fail("expected a value"),
            None => self.fail("it ends too early"),
        }
    }

    /// What follows a value: closes levels until one goes on. Says whether all are closed.
    fn after(&mut self, levels: &mut u128, depth: &mut u32) -> Result<bool, Error> {
        while *depth > 0 {
            self.space();
            let object = *levels & 1 == 1;
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.space();
                    if object {
                        self.key()?;
                    }
                    return Ok(false);
                }
                Some(b'}') if object => self.at += 1,
                Some(b']') if !object => self.at += 1,
                _ if object => return self.fail("expected `,` or `}`"),
                _ => return self.fail("expected `,` or `]`"),
            }
            *levels >>= 1;
            *depth -= 1;
        }
        Ok(true)
    }

    fn string(&mut self) -> Result<(), Error> {
        self.at += 1;
        let from = self.at;
        loop {
            let rest = self.body.get(self.at..).unwrap_or_default();
            // Most strings are short: calling a search costs more than looking.
            self.at += match near(rest) {
                Some(length) => length,
                None => self.far(rest)?,
            };
            match self.peek() {
                Some(b'"') => {
                    self.marks.note(self.body.get(from..self.at).unwrap_or_default());
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                _ => return self.fail("a string has a control character; write it as an escape"),
            }
        }
    }

    /// How many bytes of plain text stand before the next quote or escape.
    fn far(&mut self, rest: &[u8]) -> Result<usize, Error> {
        let Some(length) = memchr::memchr2(b'"', b'\\', rest) else {
            self.at = self.body.len();
            return self.fail("a string does not end");
        };
        let plain = rest.get(..length).unwrap_or_default();
        // No early exit, so that the compiler can look at many bytes at once.
        if plain.iter().fold(false, |bad, it| bad | (*it < 0x20)) {
            return self.fail("a string has a control character; write it as an escape");
        }
        Ok(length)
    }

    fn escape(&mut self) -> Result<(), Error> {
        match self.body.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => match self.body.get(self.at + 2..self.at + 6) {
                Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => {
                    self.marks.escape(digits);
                    self.at += 6;
                }
                _ => return self.fail("`\\u` needs four hexadecimal digits"),
            },
            _ => return self.fail("unknown escape in a string"),
        }
        Ok(())
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Error> {
        if self.body.get(self.at..self.at + word.len()) != Some(word) {
            return self.fail("expected a value");
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Result<(), Error> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return self.fail("malformed number"),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.some_digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
    }

    fn some_digits(&mut self) -> Result<(), Error> {
        let from = self.at;
        self.digits();
        if self.at == from { self.fail("malformed number") } else { Ok(()) }
    }
}

/// Where the first byte stands that is no plain text of a string (a quote, a backslash, a control character), if it is
/// near. Looks at eight bytes at once: in each mask the lowest bit that is set is right, those above it may not be.
fn near(bytes: &[u8]) -> Option<usize> {
    const WORDS: usize = 4;
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let below = |word: u64, least: u64| word.wrapping_sub(ONES * least) & !word & HIGH;
    for (at, word) in bytes.chunks_exact(8).take(WORDS).enumerate() {
        let word = u64::from_le_bytes(<[u8; 8]>::try_from(word).unwrap_or_default());
        let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
        let found = below(word, 0x20) | is(b'"') | is(b'\\');
        if found != 0 {
            return Some(at * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    None
}

/// The text of a checked string's inside. A surrogate without its partner becomes U+FFFD.
fn unescape(raw: &[u8]) -> Cow<'_, str> {
    if memchr::memchr(b'\\', raw).is_none() {
        return String::from_utf8_lossy(raw);
    }
    let mut text = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        text.extend_from_slice(rest.get(..at).unwrap_or_default());
        let (decoded, used) = one_escape(rest.get(at..).unwrap_or_default());
        text.extend_from_slice(decoded.encode_utf8(&mut [0; 4]).as_bytes());
        rest = rest.get(at + used..).unwrap_or_default();
    }
    text.extend_from_slice(rest);
    Cow::Owned(String::from_utf8_lossy(&text).into_owned())
}

fn one_escape(raw: &[u8]) -> (char, usize) {
    match raw.get(1) {
        Some(b'b') => ('\u{8}', 2),
        Some(b'f') => ('\u{c}', 2),
        Some(b'n') => ('\n', 2),
        Some(b'r') => ('\r', 2),
        Some(b't') => ('\t', 2),
        Some(b'u') => match (unit(raw.get(2..6)), raw.get(6..8), unit(raw.get(8..12))) {
            (high @ 0xd800..=0xdbff, Some(b"\\u"), low @ 0xdc00..=0xdfff) => {
                let code = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 12)
            }
            (code, ..) => (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 6),
        },
        Some(other) => (char::from(*other), 2),
        None => (char::REPLACEMENT_CHARACTER, 1),
    }
}

fn unit(digits: Option<&[u8]>) -> u32 {
    let digits = digits.and_then(|it| std::str::from_utf8(it).ok());
    digits.and_then(|it| u32::from_str_radix(it, 16).ok()).unwrap_or(0xfffd)
}

#[cfg(test)]
mod tests {
    use super::near;

    #[test]
    fn what_ends_plain_text_is_found_whatever_stands_around_it() {
        let ends = |it: &u8| *it < 0x20 || matches!(it, b'"' | b'\\');
        for byte in 0..=u8::MAX {
            for other in
                [b'a', 0x80, 0xff, 0x7f, b'!', b'#', b'[', b']', 0x20, 0x1f, byte.wrapping_add(1)]
            {
                for at in 0..40 {
                    let mut text = [b'a'; 40];
                    text[at] = byte;
                    text[(at + 1) % 40] = other;
                    // Only the first 32 bytes are looked at.
                    let expected = text.iter().take(32).position(&ends);
                    assert_eq!(near(&text), expected, "{text:?}");
                }
            }
        }
        assert_eq!(near(b"short\""), None, "less than a word is left to the search");
    }
}
