//! Server-sent events, read from bytes that may be split anywhere.
//!
//! Follows the HTML standard's parsing of `text/event-stream`, with a bound on the size of one event.

use std::borrow::Cow;

/// What one event may hold at most where the caller has no better bound: image replies carry megabytes of base64.
pub const EVENT_BYTES_MAX: usize = 32 * 1024 * 1024;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// One event. Borrowed from the bytes that were pushed where it lay whole in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its `event:` field, where it had one.
    pub name: Option<Cow<'a, str>>,
    /// Its `data:` fields, joined with line feeds.
    pub data: Cow<'a, str>,
    /// Its `id:` field, where it had one.
    pub id: Option<Cow<'a, str>>,
}

/// The stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An event is larger than the bound.
    #[error("a server-sent event is larger than {bytes_max} bytes")]
    TooLarge {
        /// The bound.
        bytes_max: usize,
    },
}

/// Reads events from a stream of bytes.
#[derive(Debug)]
pub struct Parser {
    /// What came of an event that is not whole yet.
    held: Vec<u8>,
    /// How much of `held` is known to contain no end of an event.
    looked: usize,
    bytes_max: usize,
    started: bool,
    /// The last byte handed out was a carriage return: a line feed that follows belongs to it.
    after_return: bool,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new(EVENT_BYTES_MAX)
    }
}

impl Parser {
    /// A parser that refuses events above `bytes_max`.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { held: Vec::new(), looked: 0, bytes_max, started: false, after_return: false }
    }

    /// Takes the next bytes and hands every event that became whole to `each`.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`]. The events before it were handed out.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Event<'_>)) -> Result<(), Error> {
        self.frames(bytes, |_, event| {
            if let Some(event) = event {
                each(event);
            }
        })
    }

    /// As [`Parser::push`], with each event's own bytes. Comments and empty lines come without an event.
    pub(crate) fn frames(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&[u8], Option<Event<'_>>),
    ) -> Result<(), Error> {
        if self.held.is_empty() {
            let used = self.read(bytes, &mut each)?;
            self.held.extend_from_slice(bytes.get(used..).unwrap_or_default());
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(bytes);
            let used = self.read(&held, &mut each)?;
            held.drain(..used);
            self.held = held;
        }
        Ok(())
    }

    /// Hands out what is whole in `bytes` and says how many of them that were.
    fn read(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(&[u8], Option<Event<'_>>),
    ) -> Result<usize, Error> {
        let mut at = 0;
        if !self.started {
            if bytes.len() < BOM.len() && BOM.starts_with(bytes) {
                return Ok(0);
            }
            at = if bytes.starts_with(BOM) { BOM.len() } else { 0 };
            self.started = true;
        }
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            if self.after_return && !rest.is_empty() {
                self.after_return = false;
                if rest.first() == Some(&b'\n') {
                    each(b"\n", None);
                    at += 1;
                    continue;
                }
            }
            let Some(end) = self.end_of_event(rest) else {
                if rest.len() > self.bytes_max {
                    return Err(Error::TooLarge { bytes_max: self.bytes_max });
                }
                return Ok(at);
            };
            let frame = rest.get(..end).unwrap_or_default();
            if frame.len() > self.bytes_max {
                return Err(Error::TooLarge { bytes_max: self.bytes_max });
            }
            self.after_return = frame.last() == Some(&b'\r');
            each(frame, parse(frame));
            at += end;
        }
    }

    /// Whether nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How many bytes are held.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Gives up what is held.
    pub(crate) fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Whether bytes of an event that never ended are held: the stream was cut inside it.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.held.iter().any(|it| !it.is_ascii_whitespace())
    }

    /// The stream ended. Hands out an event whose last empty line never came, which real servers leave out;
    /// the standard would drop it.
    pub fn finish(&mut self, mut each: impl FnMut(Event<'_>)) {
        let held = std::mem::take(&mut self.held);
        if let Some(event) = parse(&held) {
            each(event);
        }
    }

    /// Where the first event in `bytes` ends: behind the line end of an empty line.
    fn end_of_event(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut from = std::mem::take(&mut self.looked);
        while let Some(at) = memchr::memchr2(b'\n', b'\r', bytes.get(from..)?).map(|it| it + from) {
            let next = line_end(bytes, at);
            match bytes.get(next) {
                _ if at == 0 => return Some(next),
                Some(b'\n' | b'\r') => return Some(next + 1),
                Some(_) => from = next,
                // Whether a line feed follows the carriage return, or an empty line the line, is not known yet.
                None => {
                    self.looked = at;
                    return None;
                }
            }
        }
        self.looked = bytes.len();
        None
    }
}

/// Behind the line end at `at`.
fn line_end(bytes: &[u8], at: usize) -> usize {
    let pair = bytes.get(at) == Some(&b'\r') && bytes.get(at + 1) == Some(&b'\n');
    at + if pair { 2 } else { 1 }
}

/// Reads one frame. `None`: it holds only comments or nothing.
pub(crate) fn parse(frame: &[u8]) -> Option<Event<'_>> {
    let mut event = Event { name: None, data: Cow::Borrowed(""), id: None };
    let mut has_data = false;
    for line in lines(frame) {
        let (field, value) = match memchr::memchr(b':', line) {
            Some(at) => {
                let value = line.get(at + 1..).unwrap_or_default();
                (line.get(..at).unwrap_or_default(), value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, [].as_slice()),
        };
        match field {
            b"data" if has_data => {
                let data = event.data.to_mut();
                data.push('\n');
                data.push_str(&String::from_utf8_lossy(value));
            }
            b"data" => {
                event.data = String::from_utf8_lossy(value);
                has_data = true;
            }
            b"event" => event.name = Some(String::from_utf8_lossy(value)),
            b"id" => event.id = Some(String::from_utf8_lossy(value)),
            _ => {}
        }
    }
    has_data.then_some(event)
}

fn lines(frame: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = frame;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let line = rest.get(..at);
        rest = rest.get(line_end(rest, at)..).unwrap_or_default();
        line
    })
}

/// Appends one event as bytes. `data` must hold no line end, which JSON text never does.
pub fn write(name: Option<&str>, data: &[u8], out: &mut Vec<u8>) {
    if let Some(name) = name {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests;
