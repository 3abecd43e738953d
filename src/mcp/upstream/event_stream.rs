//! Server-sent events, from bytes as they come.

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its kind; empty where none is named, which means `message`.
    pub(crate) kind: String,
    /// Its data, lines joined.
    pub(crate) data: String,
    /// Its id, where it has one.
    pub(crate) id: Option<String>,
    /// How long to wait before reconnecting, in milliseconds, where it says so.
    pub(crate) retry_ms: Option<u64>,
}

/// An event over the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is over the limit")]
pub(crate) struct TooLarge;

/// Reads events.
#[derive(Debug)]
pub(crate) struct EventStream {
    line: Vec<u8>,
    event: Event,
    has_data: bool,
    is_after_cr: bool,
    is_first: bool,
    bytes_max: usize,
}

impl EventStream {
    /// Takes events of up to `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            line: Vec::new(),
            event: Event::default(),
            has_data: false,
            is_after_cr: false,
            is_first: true,
            bytes_max,
        }
    }

    /// Takes bytes; returns the events that they complete.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<Vec<Event>, TooLarge> {
        let mut events = Vec::new();
        loop {
            if self.is_after_cr {
                self.is_after_cr = bytes.is_empty();
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) else {
                self.keep(bytes)?;
                return Ok(events);
            };
            let (part, rest) = bytes.split_at(end);
            self.keep(part)?;
            self.is_after_cr = rest.first() == Some(&b'\r');
            bytes = rest.get(1..).unwrap_or_default();
            events.extend(self.end_line());
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        if self.bytes_max < self.line.len() + self.event.data.len() + bytes.len() {
            return Err(TooLarge);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        let mut line = line.as_slice();
        if std::mem::take(&mut self.is_first) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            let is_event = std::mem::take(&mut self.has_data)
                || event.id.is_some()
                || event.retry_ms.is_some();
            return is_event.then_some(event);
        }
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = String::from_utf8_lossy(value.strip_prefix(b" ").unwrap_or(value));
        match field {
            b"data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(&value);
            }
            b"event" => self.event.kind = value.into_owned(),
            b"id" if !value.contains('\0') => self.event.id = Some(value.into_owned()),
            b"retry" => self.event.retry_ms = value.parse().ok(),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::{Event, EventStream, TooLarge};

    fn read(text: &[u8], cut: usize) -> Vec<Event> {
        let mut stream = EventStream::new(1000);
        text.chunks(cut).flat_map(|it| stream.push(it).expect("within the bound")).collect()
    }

    #[test]
    fn events_are_the_same_wherever_the_bytes_are_cut() {
        let text = "\u{feff}event: endpoint\r\ndata: /messages?id=1\r\n\r\n: comment\n\ndata:a\ndata: b\nid: 7\n\nid: 8\nretry: 50\ndata\n\nretry: 10\rdata: c\r\rdata: unfinished".as_bytes();
        let whole = read(text, text.len());
        let shown: Vec<(&str, &str, Option<&str>, Option<u64>)> = whole
            .iter()
            .map(|it| (it.kind.as_str(), it.data.as_str(), it.id.as_deref(), it.retry_ms))
            .collect();
        assert_eq!(
            shown,
            [
                ("endpoint", "/messages?id=1", None, None),
                ("", "a\nb", Some("7"), None),
                ("", "", Some("8"), Some(50)),
                ("", "c", None, Some(10)),
            ]
        );
        for cut in 1..text.len() {
            assert_eq!(read(text, cut), whole, "cut at {cut}");
        }
    }

    #[test]
    fn an_event_over_the_bound_is_refused_however_it_comes() {
        let mut stream = EventStream::new(10);
        assert_eq!(stream.push(b"data: 12345678901"), Err(TooLarge));
        let mut stream = EventStream::new(10);
        let lines = "data: 1\n".repeat(20);
        assert!(lines.as_bytes().chunks(1).any(|it| stream.push(it) == Err(TooLarge)));
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in any::<Vec<u8>>(), cut in 1..50_usize) {
            let mut stream = EventStream::new(64);
            for it in noise.chunks(cut) {
                drop(stream.push(it));
            }
        }
    }
}
