//! The state as a list of records, and back.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::audit;
use crate::budget::Account;
use crate::digest::{Digest, hex_bytes, hex_u128};
use crate::id::Name;
use crate::object::Row;
use crate::state::{Answer, Credential, State};
use crate::time::UnixMillis;

/// The version of the records that this build writes, and the newest that it reads.
pub const VERSION: u16 = 1;

mod kind {
    pub(super) const HEADER: u16 = 1;
    pub(super) const OBJECT: u16 = 2;
    pub(super) const CREDENTIALS: u16 = 3;
    pub(super) const ACCOUNT: u16 = 4;
    pub(super) const INCARNATION: u16 = 5;
    pub(super) const OAUTH: u16 = 6;
    pub(super) const ANSWER: u16 = 7;
    pub(super) const AUDIT: u16 = 8;
    pub(super) const END: u16 = 9;
}

/// A record: its kind, and JSON.
pub type Record = (u16, Vec<u8>);

/// Records that are no state of this build.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The header is missing or comes twice.
    #[error("the snapshot does not begin with its header")]
    Header,
    /// Written by a newer build.
    #[error(
        "the snapshot has version {found}, and this build reads up to {VERSION}: run a newer build"
    )]
    Version {
        /// The version found.
        found: u16,
    },
    /// A kind that this build does not know.
    #[error(
        "record {number} of a snapshot of version {version} is of the unknown kind {kind}: run a newer build"
    )]
    Kind {
        /// The place of the record, from 1.
        number: u64,
        /// The kind found.
        kind: u16,
        /// What the header says.
        version: u16,
    },
    /// A record that does not read.
    #[error("record {number} of the snapshot does not read")]
    Record {
        /// The place of the record, from 1.
        number: u64,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Records are missing at its end.
    #[error("the snapshot ends early: {found} of its records are there, and no end")]
    Truncated {
        /// How many are there.
        found: u64,
    },
    /// Records are missing or came twice.
    #[error("the snapshot has {found} records, and should have {expected}")]
    Count {
        /// How many are there.
        found: u64,
        /// How many there should be.
        expected: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u16,
    index: u64,
    now: UnixMillis,
    last_id: u64,
    admin_key: Option<Digest>,
    cluster_secrets: Option<Sealed>,
}

#[derive(Serialize, Deserialize)]
struct Sealed(#[serde(with = "hex_bytes")] Vec<u8>);

#[derive(Serialize, Deserialize)]
struct Credentials {
    key: Name,
    credentials: Vec<Credential>,
}

#[derive(Serialize, Deserialize)]
struct Incarnation {
    node: u64,
    incarnation: u64,
}

#[derive(Serialize, Deserialize)]
struct Oauth {
    server: Name,
    sealed: String,
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    #[serde(with = "hex_u128")]
    request_id: u128,
    #[serde(flatten)]
    answer: Answer,
}

#[derive(Serialize, Deserialize)]
struct End {
    records: u64,
}

#[expect(clippy::expect_used, reason = "every map has text keys, and no Serialize of ours fails")]
fn record(kind: u16, body: &impl Serialize) -> Record {
    (kind, serde_json::to_vec(body).expect("a record is JSON"))
}

impl State {
    /// The state as records, one at a time: the header first, the end last.
    pub fn to_records(&self) -> impl Iterator<Item = Record> {
        let header = record(
            kind::HEADER,
            &Header {
                version: VERSION,
                index: self.index,
                now: self.now,
                last_id: self.last_id,
                admin_key: self.admin_key,
                cluster_secrets: self.cluster_secrets.as_ref().map(|it| Sealed(it.to_vec())),
            },
        );
        let objects = self.export().map(|it| record(kind::OBJECT, &it));
        let credentials = self.credentials.iter().map(|(key, it)| {
            record(kind::CREDENTIALS, &Credentials { key: key.clone(), credentials: it.to_vec() })
        });
        let accounts = self.accounts.values().map(|it| record(kind::ACCOUNT, it.as_ref()));
        let incarnations = self.incarnations.iter();
        let incarnations = incarnations.map(|(node, it)| {
            record(kind::INCARNATION, &Incarnation { node: *node, incarnation: *it })
        });
        let oauth = self.oauth.iter();
        let oauth = oauth.map(|(server, it)| {
            record(kind::OAUTH, &Oauth { server: server.clone(), sealed: it.to_string() })
        });
        let answers = self.remembered.iter();
        let answers = answers.map(|(request_id, it)| {
            record(kind::ANSWER, &Remembered { request_id, answer: it.clone() })
        });
        let entries = self.audit.entries().map(|it| record(kind::AUDIT, it));
        let records = [header].into_iter().chain(objects).chain(credentials).chain(accounts);
        let records = records.chain(incarnations).chain(oauth).chain(answers).chain(entries);
        Ended { records, count: 0, ended: false }
    }

    /// Reads what [`State::to_records`] wrote, in this build or an older one, and rebuilds what follows from it.
    ///
    /// # Errors
    ///
    /// [`Error`]; nothing is guessed or left out.
    pub fn from_records(records: impl IntoIterator<Item = Record>) -> Result<Self, Error> {
        let mut records = records.into_iter();
        let Some((kind::HEADER, body)) = records.next() else { return Err(Error::Header) };
        let header: Header = read(1, &body)?;
        let version = header.version;
        if version != VERSION {
            return Err(Error::Version { found: version });
        }
        let mut state = Self {
            index: header.index,
            now: header.now,
            last_id: header.last_id,
            admin_key: header.admin_key,
            cluster_secrets: header.cluster_secrets.map(|it| it.0.into()),
            ..Self::default()
        };
        let mut number = 1;
        for (kind, body) in records {
            number += 1;
            if kind == kind::END {
                let expected = read::<End>(number, &body)?.records;
                let found = number - 1;
                return if found == expected {
                    Ok(state)
                } else {
                    Err(Error::Count { found, expected })
                };
            }
            state.take_record(number, kind, &body, version)?;
        }
        Err(Error::Truncated { found: number })
    }

    fn take_record(
        &mut self,
        number: u64,
        kind: u16,
        body: &[u8],
        version: u16,
    ) -> Result<(), Error> {
        match kind {
            kind::OBJECT => self.restore_row(read::<Row>(number, body)?),
            kind::CREDENTIALS => {
                let it: Credentials = read(number, body)?;
                // The key's own name, so that it is in memory once.
                let key = self.tables.virtual_keys.get(it.key.as_str());
                let name = key.map_or(it.key, |key| key.spec.name.clone());
                self.set_credentials(&name, &it.credentials);
            }
            kind::ACCOUNT => self.restore_account(read::<Account>(number, body)?),
            kind::INCARNATION => {
                let it: Incarnation = read(number, body)?;
                self.incarnations.insert(it.node, it.incarnation);
            }
            kind::OAUTH => {
                let it: Oauth = read(number, body)?;
                self.oauth.insert(it.server, Arc::from(it.sealed));
            }
            kind::ANSWER => {
                let it: Remembered = read(number, body)?;
                self.remembered.add(it.request_id, it.answer);
            }
            kind::AUDIT => self.audit.restore(read::<audit::Entry>(number, body)?),
            kind::HEADER => return Err(Error::Header),
            kind => return Err(Error::Kind { number, kind, version }),
        }
        Ok(())
    }
}

fn read<'a, T: Deserialize<'a>>(number: u64, body: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|source| Error::Record { number, source })
}

/// Counts records, and ends them with their number.
struct Ended<I> {
    records: I,
    count: u64,
    ended: bool,
}

impl<I: Iterator<Item = Record>> Iterator for Ended<I> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        if self.ended {
            return None;
        }
        if let Some(record) = self.records.next() {
            self.count += 1;
            return Some(record);
        }
        self.ended = true;
        Some(record(kind::END, &End { records: self.count }))
    }
}

#[cfg(test)]
mod tests;
