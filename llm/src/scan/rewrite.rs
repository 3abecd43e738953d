//! Changes a scanned body in a few places and leaves every other byte as it was.

use smallvec::SmallVec;

use super::{Field, Scan};

/// Changes to a body, made at once by [`Rewrite::apply`].
///
/// Values are given as JSON text and are not checked here. Setting a field twice: the last one counts.
#[derive(Debug, Clone)]
pub struct Rewrite<'s> {
    scan: &'s Scan,
    set: SmallVec<[(Field, Vec<u8>); 4]>,
    removed: SmallVec<[Field; 2]>,
    tools: Vec<u8>,
}

impl<'s> Rewrite<'s> {
    /// No changes yet to the body that `scan` is of.
    #[must_use]
    pub fn new(scan: &'s Scan) -> Self {
        Self { scan, set: SmallVec::new(), removed: SmallVec::new(), tools: Vec::new() }
    }

    /// Whether nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
            && self.tools.is_empty()
            && self.removed.iter().all(|it| self.scan.span(*it).is_none())
    }

    /// Puts `json` in place of `field`'s value, or adds the field.
    pub fn set(&mut self, field: Field, json: impl Into<Vec<u8>>) -> &mut Self {
        self.set.retain(|it| it.0 != field);
        self.set.push((field, json.into()));
        self
    }

    /// Puts `text` in place of `field`'s value, as a JSON string.
    pub fn set_text(&mut self, field: Field, text: &str) -> &mut Self {
        self.set(field, serde_json::Value::from(text).to_string())
    }

    /// Takes `field` out.
    pub fn remove(&mut self, field: Field) -> &mut Self {
        self.removed.push(field);
        self
    }

    /// Appends to the list of tools, or makes one: `items` is JSON values with commas between.
    pub fn append_tools(&mut self, items: &[u8]) -> &mut Self {
        if !self.tools.is_empty() && !items.is_empty() {
            self.tools.push(b',');
        }
        self.tools.extend_from_slice(items);
        self
    }

    /// Asks for usage at the end of the stream, whatever `stream_options` says now.
    pub fn include_usage(&mut self, body: &[u8]) -> &mut Self {
        let old = self.scan.present(Field::StreamOptions).and_then(|it| body.get(it.value.clone()));
        let mut options: serde_json::Map<String, serde_json::Value> =
            old.and_then(|it| serde_json::from_slice(it).ok()).unwrap_or_default();
        options.insert("include_usage".to_owned(), true.into());
        self.set(Field::StreamOptions, serde_json::Value::Object(options).to_string())
    }

    /// The body with all changes made. `body` is the one that was scanned.
    #[must_use]
    pub fn apply(&self, body: &[u8]) -> Vec<u8> {
        let (edits, added) = self.plan(body);
        let grown: usize = edits.iter().map(|it| it.1.len()).sum::<usize>() + added.len() + 1;
        let mut out = Vec::with_capacity(body.len() + grown);
        let mut at = 0;
        for (range, text) in &edits {
            out.extend_from_slice(body.get(at..range.start).unwrap_or_default());
            out.extend_from_slice(text);
            at = range.end;
        }
        out.extend_from_slice(body.get(at..self.scan.close).unwrap_or_default());
        if !added.is_empty() {
            let removed = self.removed.iter().filter(|it| self.scan.span(**it).is_some()).count();
            if self.scan.count > removed {
                out.push(b',');
            }
            out.extend_from_slice(&added);
        }
        out.extend_from_slice(body.get(self.scan.close..).unwrap_or_default());
        out
    }

    /// Replacements in order of place, and the text of new members.
    #[expect(clippy::type_complexity, reason = "private, and a name would hide how plain it is")]
    fn plan(&self, body: &[u8]) -> (SmallVec<[(std::ops::Range<usize>, Vec<u8>); 8]>, Vec<u8>) {
        let mut edits = SmallVec::new();
        let mut added = Vec::new();
        let mut add = |field: Field, json: &[u8]| {
            if !added.is_empty() {
                added.push(b',');
            }
            for part in [b"\"", field.name().as_bytes(), b"\":", json] {
                added.extend_from_slice(part);
            }
        };
        for (field, json) in &self.set {
            match self.scan.span(*field) {
                _ if self.removed.contains(field) => {}
                Some(span) => edits.push((span.value.clone(), json.clone())),
                None => add(*field, json),
            }
        }
        if !self.tools.is_empty() {
            match self
                .scan
                .span(Field::Tools)
                .map(|it| (it, body.get(it.value.start..it.value.end)))
            {
                Some((span, Some(list))) if list.first() == Some(&b'[') => {
                    let inside = list.get(1..list.len().saturating_sub(1)).unwrap_or_default();
                    let comma: &[u8] =
                        if inside.iter().all(u8::is_ascii_whitespace) { b"" } else { b"," };
                    let at = span.value.end - 1;
                    edits.push((at..at, [comma, &self.tools].concat()));
                }
                Some((span, _)) => {
                    edits.push((span.value.clone(), [b"[", self.tools.as_slice(), b"]"].concat()));
                }
                None => add(Field::Tools, &[b"[", self.tools.as_slice(), b"]"].concat()),
            }
        }
        self.removals(body, &mut edits);
        edits.sort_by_key(|it| it.0.start);
        (edits, added)
    }

    /// A member goes with the comma before it, or, where no kept one stands before it, with the one after it.
    fn removals(&self, body: &[u8], edits: &mut SmallVec<[(std::ops::Range<usize>, Vec<u8>); 8]>) {
        let mut gone: SmallVec<[_; 2]> =
            self.removed.iter().filter_map(|it| self.scan.span(*it)).collect();
        gone.sort_by_key(|it| it.ordinal);
        gone.dedup_by_key(|it| it.ordinal);
        for (before, span) in gone.iter().enumerate() {
            let range = if span.ordinal > before {
                let comma =
                    memchr::memrchr(b',', body.get(..span.member.start).unwrap_or_default());
                comma.unwrap_or(span.member.start)..span.member.end
            } else {
                let rest = body.get(span.member.end..self.scan.close).unwrap_or_default();
                let comma = memchr::memchr(b',', rest).map_or(rest.len(), |it| it + 1);
                span.member.start..span.member.end + comma
            };
            edits.push((range, Vec::new()));
        }
    }
}
