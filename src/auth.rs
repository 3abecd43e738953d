//! Who calls: a credential to a caller.
//!
//! A key may come in any of the places that an SDK of the field puts it. Two different keys are refused rather
//! than ranked: a proxy that adds its own must not silently win or lose.

use std::borrow::Cow;
use std::sync::Arc;

use althing_domain::time::UnixMillis;
use http::{HeaderMap, HeaderName, header};

use crate::control::view::{KeyView, Standing, View};
use crate::error::{Code, Error};

/// Headers that carry a key bare.
const KEY_HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("x-bf-vk"),
    HeaderName::from_static("x-althing-key"),
];

/// The longest key that is looked up, in bytes.
const KEY_BYTES_MAX: usize = 1024;

/// Whether callers need a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They do.
    Keys,
    /// They do not; an unknown key counts as none. Loopback listeners only.
    Open,
}

/// The key that a request carries, wherever it is; `None` where there is none.
///
/// # Errors
///
/// [`Code::TwoKeys`] where two differ, [`Code::InvalidKey`] where one cannot be a key.
pub fn presented<'a>(
    headers: &'a HeaderMap,
    query: Option<&'a str>,
) -> Result<Option<Cow<'a, str>>, Error> {
    let mut found: Option<Cow<'a, str>> = None;
    // One walk over what came is less than a look for each name that a key may have.
    for (name, value) in headers {
        if KEY_HEADERS.contains(name) {
            merge(&mut found, Cow::Borrowed(value.to_str().map_err(|_| unreadable())?.trim()))?;
        }
        if *name != header::AUTHORIZATION {
            continue;
        }
        let text = value.to_str().map_err(|_| unreadable())?;
        let token = match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            // A client with an empty key sends the scheme alone, its blank trimmed on the way.
            None if text.eq_ignore_ascii_case("bearer") => "",
            _ => {
                return Err(Error::new(
                    Code::InvalidKey,
                    "`Authorization` must be `Bearer` and a key",
                ));
            }
        };
        merge(&mut found, Cow::Borrowed(token))?;
    }
    if let Some(query) = query {
        for pair in query.split('&') {
            if let Some(value) = pair.strip_prefix("key=") {
                let text = percent_encoding::percent_decode_str(value)
                    .decode_utf8()
                    .map_err(|_| unreadable())?;
                merge(&mut found, text)?;
            }
        }
    }
    match found {
        Some(key) if key.is_empty() => Ok(None),
        Some(key) if KEY_BYTES_MAX < key.len() => Err(unknown()),
        other => Ok(other),
    }
}

fn merge<'a>(found: &mut Option<Cow<'a, str>>, next: Cow<'a, str>) -> Result<(), Error> {
    match found {
        Some(first) if *first != next => Err(Error::of(Code::TwoKeys)),
        _ => {
            *found = Some(next);
            Ok(())
        }
    }
}

/// Finds the caller of a request.
///
/// # Errors
///
/// Those of [`presented`]; [`Code::MissingKey`], [`Code::InvalidKey`], [`Code::KeyExpired`], [`Code::KeyDisabled`].
pub fn caller(
    view: &View,
    mode: Mode,
    headers: &HeaderMap,
    query: Option<&str>,
    now: UnixMillis,
) -> Result<Arc<KeyView>, Error> {
    let Some(key) = presented(headers, query)? else {
        return match mode {
            Mode::Open => Ok(Arc::clone(&view.anonymous)),
            Mode::Keys => Err(Error::new(
                Code::MissingKey,
                "no key was given: send `Authorization: Bearer <virtual key>`, `x-api-key` or `x-goog-api-key`",
            )),
        };
    };
    let Some((key_view, not_after)) = view.key(&key) else {
        return if mode == Mode::Open { Ok(Arc::clone(&view.anonymous)) } else { Err(unknown()) };
    };
    if not_after.is_some_and(|it| it <= now) || key_view.expires_at.is_some_and(|it| it <= now) {
        return Err(Error::of(Code::KeyExpired));
    }
    match key_view.standing {
        Standing::Active => Ok(key_view),
        Standing::Disabled(what) => Err(Error::new(Code::KeyDisabled, what)),
    }
}

fn unreadable() -> Error {
    Error::new(Code::InvalidKey, "the key has characters that no key has")
}

fn unknown() -> Error {
    Error::new(
        Code::InvalidKey,
        "the key is not known here: check it, or ask an administrator for one",
    )
}

#[cfg(test)]
mod tests;
