//! Who changed what, in a chain that shows where it was tampered with.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::time::UnixMillis;

/// How many entries the state keeps. The chain's head covers those before, too.
pub const ENTRIES_MAX: usize = 10_000;

/// One act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Entry {
    /// Its number, from 1.
    pub number: u64,
    /// The log index of the command.
    pub index: u64,
    /// When.
    pub time: UnixMillis,
    /// Who.
    pub who: String,
    /// What was done: `created`, `updated`, `deleted`, `rotated`, `set`, `written-off`, `refunded`.
    pub action: String,
    /// To what kind of thing, as a route names it.
    pub kind: String,
    /// To which one.
    pub name: String,
    /// SHA-256 of the JSON before. Absent: there was nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Digest>,
    /// SHA-256 of the JSON after. Absent: there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Digest>,
    /// What else there is to say. Never a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// SHA-256 over the entry before's chain and this entry.
    pub chain: Digest,
}

/// What an act was, before it has its place in the chain.
#[derive(Debug, Clone, Default)]
pub(crate) struct Act {
    pub(crate) action: &'static str,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) before: Option<Digest>,
    pub(crate) after: Option<Digest>,
    pub(crate) note: Option<String>,
}

/// The last entries, and the head of the chain.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    entries: imbl::Vector<Entry>,
    head: Digest,
    count: u64,
}

/// The chain does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("audit entry {number} does not follow from the one before it")]
pub struct Broken {
    /// The first entry that does not.
    pub number: u64,
}

impl Audit {
    /// The chain of the last entry; zeros where there is none.
    #[must_use]
    pub const fn head(&self) -> Digest {
        self.head
    }

    /// How many entries there ever were.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The entries that are kept, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> + ExactSizeIterator {
        self.entries.iter()
    }

    pub(crate) fn add(&mut self, (index, time): (u64, UnixMillis), who: &str, act: Act) {
        self.count += 1;
        let Act { action, kind, name, before, after, note } = act;
        let (who, action) = (who.to_owned(), action.to_owned());
        let mut entry = Entry {
            number: self.count,
            index,
            time,
            who,
            action,
            kind,
            name,
            before,
            after,
            note,
            chain: self.head,
        };
        entry.chain = link(self.head, &entry);
        self.restore(entry);
    }

    /// Takes in the next entry as it is.
    pub(crate) fn restore(&mut self, entry: Entry) {
        self.head = entry.chain;
        self.count = entry.number;
        self.entries.push_back(entry);
        if ENTRIES_MAX < self.entries.len() {
            self.entries.pop_front();
        }
    }
}

/// Whether each of `entries` follows from the one before.
///
/// # Errors
///
/// [`Broken`] names the first that does not.
pub fn verify<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Result<(), Broken> {
    let mut before: Option<&Entry> = None;
    for entry in entries {
        if let Some(before) = before
            && (entry.number != before.number + 1 || entry.chain != link(before.chain, entry))
        {
            return Err(Broken { number: entry.number });
        }
        if entry.number == 1 && entry.chain != link(Digest::default(), entry) {
            return Err(Broken { number: 1 });
        }
        before = Some(entry);
    }
    Ok(())
}

/// Each field with its length before it: no two entries run together into the same bytes.
fn link(before: Digest, entry: &Entry) -> Digest {
    let digest = |it: Option<Digest>| it.map_or(Vec::new(), |it| it.0.to_vec());
    let fields: [Vec<u8>; 10] = [
        entry.number.to_le_bytes().to_vec(),
        entry.index.to_le_bytes().to_vec(),
        entry.time.0.to_le_bytes().to_vec(),
        entry.who.clone().into_bytes(),
        entry.action.clone().into_bytes(),
        entry.kind.clone().into_bytes(),
        entry.name.clone().into_bytes(),
        digest(entry.before),
        digest(entry.after),
        entry.note.clone().unwrap_or_default().into_bytes(),
    ];
    let mut bytes = before.0.to_vec();
    for field in fields {
        bytes.extend(u64::try_from(field.len()).unwrap_or(u64::MAX).to_le_bytes());
        bytes.extend(field);
    }
    Digest::of(&[&bytes])
}
