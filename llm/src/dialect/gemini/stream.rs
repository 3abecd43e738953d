//! An upstream's stream, read.

use std::collections::BTreeMap;

use serde_json::json;

use super::error;
use super::part::{self, Calls};
use super::reply::{is_blocked, stop, usage};
use crate::chat::{Block, Event, Stop};
use crate::dialect::{Error, StreamDecoder};
use crate::json::{self, Fields};

/// Reads Gemini's chunks, each a reply of its own with what is new. The stream has no end of its own but the
/// candidates' finish reasons.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    id: Option<String>,
    candidates: BTreeMap<u32, Candidate>,
    has_failed: bool,
}

#[derive(Debug, Default)]
struct Candidate {
    calls: Calls,
    has_called: bool,
    next: u32,
    open: Open,
    is_done: bool,
}

/// The block that more may be added to.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum Open {
    #[default]
    Nothing,
    Text,
    Thought,
}

impl StreamDecoder for Decoder {
    fn push(&mut self, _name: Option<&str>, data: &str, out: &mut Vec<Event>) -> Result<(), Error> {
        if self.has_failed {
            return Ok(());
        }
        let fields = json::body(data.as_bytes()).map_err(json::of_reply)?.or_snake();
        self.chunk(fields, out).map_err(json::of_reply)
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<(), Error> {
        if self.has_failed {
            return Ok(());
        }
        for (choice, candidate) in &mut self.candidates {
            candidate.close(*choice, out);
        }
        let is_done = !self.candidates.is_empty()
            && self.candidates.values().all(|candidate| candidate.is_done);
        self.has_failed = true;
        if !is_done {
            return Err(Error::Reply {
                problem: "the stream ended before a finish reason".to_owned(),
            });
        }
        out.push(Event::Done);
        Ok(())
    }
}

impl Decoder {
    fn chunk(&mut self, mut fields: Fields, out: &mut Vec<Event>) -> Result<(), Error> {
        if let Some(failure) = fields.any("error") {
            let failure = error::read(&json!({ "error": failure }));
            self.has_failed = true;
            out.push(Event::Error {
                kind: failure.kind.unwrap_or_else(|| "INTERNAL".to_owned()),
                message: failure.message.unwrap_or_default(),
            });
            return Ok(());
        }
        let id = fields.text("responseId")?.unwrap_or_default();
        let model = fields.text("modelVersion")?.unwrap_or_default();
        if self.id.is_none() {
            self.id = Some(id.clone());
            out.push(Event::Start { id, model });
        }
        for (at, value) in fields.list("candidates")?.unwrap_or_default().into_iter().enumerate() {
            let candidate = Fields::new(value, format!("candidates[{at}]"))?.or_snake();
            self.candidate(candidate, at, out)?;
        }
        if fields.any("promptFeedback").as_ref().is_some_and(is_blocked)
            && self.candidates.is_empty()
        {
            self.candidates.insert(0, Candidate { is_done: true, ..Candidate::default() });
            out.push(Event::Stop { choice: 0, stop: Stop::ContentFilter });
        }
        if let Some(said) = fields.any("usageMetadata") {
            out.push(Event::Usage(usage(&said)));
        }
        Ok(())
    }

    fn candidate(
        &mut self,
        mut fields: Fields,
        at: usize,
        out: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let index = fields.count("index")?.and_then(|index| u32::try_from(index).ok());
        let choice = index.or_else(|| u32::try_from(at).ok()).unwrap_or(u32::MAX);
        let scope = format!("{}.{choice}", self.id.as_deref().unwrap_or_default());
        let candidate = self.candidates.entry(choice).or_default();
        candidate.calls.scope = scope;
        if let Some(mut said) = fields.object("content")? {
            for (at, value) in said.list("parts")?.unwrap_or_default().into_iter().enumerate() {
                let mut blocks = Vec::new();
                part::decode(
                    value,
                    &said.at(&format!("parts[{at}]")),
                    &mut candidate.calls,
                    &mut blocks,
                )?;
                for block in blocks {
                    candidate.block(choice, block, out);
                }
            }
        }
        let reason =
            fields.text("finishReason")?.filter(|reason| reason != "FINISH_REASON_UNSPECIFIED");
        if let Some(reason) = reason.filter(|_| !candidate.is_done) {
            candidate.close(choice, out);
            candidate.is_done = true;
            out.push(Event::Stop { choice, stop: stop(Some(&reason), candidate.has_called) });
        }
        Ok(())
    }
}

impl Candidate {
    /// Adds a part's block to the open one, or begins its own.
    fn block(&mut self, choice: u32, block: Block, out: &mut Vec<Event>) {
        match block {
            Block::Text { text, .. } => {
                if !text.is_empty() {
                    let index = self.begin(choice, Open::Text, || Block::text(""), out);
                    out.push(Event::Text { choice, index, text });
                }
            }
            Block::Thinking { text, signature, .. } => {
                let empty = || Block::Thinking { text: String::new(), signature: None, id: None };
                let index = self.begin(choice, Open::Thought, empty, out);
                if !text.is_empty() {
                    out.push(Event::Text { choice, index, text });
                }
                if let Some(signature) = signature {
                    out.push(Event::Signature { choice, index, signature });
                    self.close(choice, out);
                }
            }
            Block::ToolUse { id, name, arguments, signature, cache } => {
                self.has_called = true;
                let call = Block::ToolUse { id, name, arguments: String::new(), signature, cache };
                let index = self.whole(choice, call, out);
                out.push(Event::Arguments { choice, index, json: arguments });
                out.push(Event::BlockStop { choice, index });
            }
            whole => {
                let index = self.whole(choice, whole, out);
                out.push(Event::BlockStop { choice, index });
            }
        }
    }

    /// The number of the open block of this kind, which begins now unless it has.
    fn begin(
        &mut self,
        choice: u32,
        kind: Open,
        block: impl FnOnce() -> Block,
        out: &mut Vec<Event>,
    ) -> u32 {
        if self.open == kind {
            return self.next.saturating_sub(1);
        }
        let index = self.whole(choice, block(), out);
        self.open = kind;
        index
    }

    fn whole(&mut self, choice: u32, block: Block, out: &mut Vec<Event>) -> u32 {
        self.close(choice, out);
        let index = self.next;
        self.next = self.next.saturating_add(1);
        out.push(Event::BlockStart { choice, index, block });
        index
    }

    fn close(&mut self, choice: u32, out: &mut Vec<Event>) {
        if std::mem::take(&mut self.open) != Open::Nothing {
            out.push(Event::BlockStop { choice, index: self.next.saturating_sub(1) });
        }
    }
}
