//! Query parameters: each is known, comes once and is what it should be, or the answer is 400 and names it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use althing_domain::time::UnixMillis;
use althing_storage::request_log::Day;

use crate::error::Error;

/// The longest value, in bytes.
const VALUE_BYTES_MAX: usize = 1024;

/// The parameters of one request.
#[derive(Debug)]
pub struct Params(BTreeMap<String, String>);

impl Params {
    /// Reads a query string that may hold the parameters `known`. An empty value counts as not given.
    ///
    /// # Errors
    ///
    /// One that is not known, comes twice or is too long.
    pub fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, Error> {
        let mut found = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !known.contains(&name.as_ref()) {
                let name: String = name.chars().take(64).collect();
                let problem = format!("there is no such parameter; there are {}", known.join(", "));
                return Err(Error::field(name, problem));
            }
            if VALUE_BYTES_MAX < value.len() {
                return Err(Error::field(name, format!("longer than {VALUE_BYTES_MAX} bytes")));
            }
            if found.insert(name.clone().into_owned(), value.into_owned()).is_some() {
                return Err(Error::field(name, "given twice"));
            }
        }
        found.retain(|_, value| !value.is_empty());
        Ok(Self(found))
    }

    /// As text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// As text of one's own.
    #[must_use]
    pub fn owned(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    /// Through `read`, whose failure says what is wrong with it.
    ///
    /// # Errors
    ///
    /// What `read` says, with the parameter's name.
    pub fn with<T, E: fmt::Display>(
        &self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Error> {
        self.text(name)
            .map(|it| read(it).map_err(|problem| Error::field(name, problem)))
            .transpose()
    }

    /// As anything that text can be.
    ///
    /// # Errors
    ///
    /// It is not `expected`.
    pub fn parsed<T: FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>, Error> {
        self.with(name, |text| {
            text.parse().map_err(|_| format!("`{}` is not {expected}", shown(text)))
        })
    }

    /// As one of a few words.
    ///
    /// # Errors
    ///
    /// It is none of them.
    pub fn one_of<T>(
        &self,
        name: &str,
        words: &[&str],
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        self.with(name, |text| {
            read(text)
                .ok_or_else(|| format!("`{}` is not one of {}", shown(text), words.join(", ")))
        })
    }

    /// As a moment: RFC 3339, a day of UTC (`2026-11-25`), or milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// It is none of them.
    pub fn moment_ms(&self, name: &str) -> Result<Option<u64>, Error> {
        self.with(name, |text| {
            if let Some(day) = Day::parse(text) {
                return Ok(day.start_ms());
            }
            if text.bytes().all(|it| it.is_ascii_digit())
                && let Ok(ms) = text.parse()
            {
                return Ok(ms);
            }
            // A `+` that was not escaped came as a space.
            let mended = text.replace(' ', "+");
            UnixMillis::parse_rfc3339(&mended).map(|it| it.0).map_err(|_| {
                format!("`{}` is not a time: write 2026-11-25T12:00:00Z, 2026-11-25 or milliseconds since 1970", shown(text))
            })
        })
    }

    /// `from` and `to`, in order.
    ///
    /// # Errors
    ///
    /// One is not a time, or `to` is not after `from`.
    pub fn period_ms(&self) -> Result<(Option<u64>, Option<u64>), Error> {
        let (from, to) = (self.moment_ms("from")?, self.moment_ms("to")?);
        match (from, to) {
            (Some(from), Some(to)) if to <= from => Err(Error::field("to", "must be after `from`")),
            period => Ok(period),
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().filter(|it| !it.is_control()).take(64).collect()
}
