//! What a legacy client has across its requests, without memory of it on this node: the session is in its own id.
//!
//! Handles (session ids, cursors) are sealed: only a gateway that has the key can make or read one, only the
//! principal that got it can use it, and only as what it was made for. The key changes with time. Every wrong one gets
//! the same answer.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use althing_domain::time::UnixMillis;
use arc_swap::ArcSwapOption;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::Revision;

/// How long a session lives. It holds nothing and every request is judged anew, so this can be long.
pub(super) const SESSION_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long a cursor can be used.
pub(super) const CURSOR_LIFE: Duration = Duration::from_secs(60 * 60);
/// How many ended sessions are remembered; the oldest is forgotten first.
const ENDED_MAX: usize = 100_000;
/// The longest handle that is looked at, in bytes.
const HANDLE_BYTES_MAX: usize = 1024;
const NONCE_BYTES: usize = 12;

/// How long one key seals handles: as long as the longest-lived of them lives, so that one lives to its end under this key and
/// the next. With a key of its own no epoch comes near the number of handles that random nonces are safe for.
const EPOCH: Duration = SESSION_LIFE;
const _: () = assert!(CURSOR_LIFE.as_secs() <= EPOCH.as_secs());

/// The keys that seal handles, one an epoch, all from one secret. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    secret: Arc<hmac::Key>,
    /// Those that were needed last.
    epochs: Arc<ArcSwapOption<Epochs>>,
}

/// The keys that open something in an epoch.
struct Epochs {
    now: u64,
    /// That of the epoch before, of now, and of the next: another node's clock may be a little ahead.
    keys: [LessSafeKey; 3],
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys {
    /// Of a secret of 32 random bytes.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        let secret = Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret));
        Self { secret, epochs: Arc::default() }
    }

    /// The keys for a time; `None` where the library fails.
    fn at(&self, now: UnixMillis) -> Option<Arc<Epochs>> {
        let now = now.0 / u64::try_from(EPOCH.as_millis()).unwrap_or(u64::MAX);
        if let Some(known) = self.epochs.load_full().filter(|it| it.now == now) {
            return Some(known);
        }
        let key = |epoch: u64| {
            let bound = [&b"althing mcp handles "[..], &epoch.to_be_bytes()].concat();
            let bytes = hmac::sign(&self.secret, &bound);
            UnboundKey::new(&AES_256_GCM, bytes.as_ref()).ok().map(LessSafeKey::new)
        };
        let keys = [key(now.wrapping_sub(1))?, key(now)?, key(now.wrapping_add(1))?];
        let made = Arc::new(Epochs { now, keys });
        self.epochs.store(Some(Arc::clone(&made)));
        Some(made)
    }
}

impl Epochs {
    /// The key of now, and the mark by which a handle names it.
    fn current(&self) -> (&LessSafeKey, u8) {
        let [_, current, _] = &self.keys;
        (current, mark(self.now))
    }

    /// The key of the epoch that a handle names, where that is one of these.
    fn named(&self, named: u8) -> Option<&LessSafeKey> {
        let numbers = [self.now.wrapping_sub(1), self.now, self.now.wrapping_add(1)];
        numbers.iter().zip(&self.keys).find(|(it, _)| mark(**it) == named).map(|(_, key)| key)
    }
}

const fn mark(epoch: u64) -> u8 {
    let [.., last] = epoch.to_be_bytes();
    last
}

/// What a handle is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A session id.
    Session,
    /// A list cursor.
    Cursor,
    /// A stream of the HTTP+SSE transport.
    Stream,
}

impl Keys {
    /// Seals `payload` for `principal` and as long as `life`, as printable ASCII. `None` where the library fails.
    pub(super) fn seal(
        &self,
        kind: Kind,
        principal: &str,
        (now, life): (UnixMillis, Duration),
        payload: &[u8],
    ) -> Option<String> {
        let epochs = self.at(now)?;
        let (key, mark) = epochs.current();
        let until = super::later(now, life);
        let mut nonce = [0; NONCE_BYTES];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let mut content = until.0.to_be_bytes().to_vec();
        content.extend_from_slice(payload);
        let aad = associated(kind, principal);
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(&aad),
            &mut content,
        )
        .ok()?;
        let mut sealed = vec![mark];
        sealed.extend_from_slice(&nonce);
        sealed.append(&mut content);
        Some(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// What was sealed; `None` for anything that is not a live handle of that kind and principal.
    pub(super) fn open(
        &self,
        kind: Kind,
        principal: &str,
        now: UnixMillis,
        handle: &str,
    ) -> Option<Vec<u8>> {
        if HANDLE_BYTES_MAX < handle.len() {
            return None;
        }
        let sealed = URL_SAFE_NO_PAD.decode(handle).ok()?;
        let (mark, sealed) = sealed.split_first()?;
        let (nonce, content) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let aad = associated(kind, principal);
        let epochs = self.at(now)?;
        let mut opened = content.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened =
            epochs.named(*mark)?.open_in_place(nonce, Aad::from(&aad), &mut opened).ok()?;
        let (until, payload) = opened.split_first_chunk::<8>()?;
        (now.0 < u64::from_be_bytes(*until)).then(|| payload.to_vec())
    }
}

/// What a handle is bound to without holding it.
fn associated(kind: Kind, principal: &str) -> Vec<u8> {
    let kind: &[u8] = match kind {
        Kind::Session => b"althing mcp session 1\0",
        Kind::Cursor => b"althing mcp cursor 1\0",
        Kind::Stream => b"althing mcp stream 1\0",
    };
    [kind, principal.as_bytes()].concat()
}

/// The random part of a session id.
pub(super) type Id = [u8; 16];

/// A live session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) id: Id,
    pub(super) revision: Revision,
}

impl Session {
    /// A new one; `None` where the system has no randomness.
    pub(super) fn new(revision: Revision) -> Option<Self> {
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).ok()?;
        Some(Self { id, revision })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.id.to_vec();
        bytes.push(self.revision.number());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk::<16>()?;
        let [number] = rest else { return None };
        Some(Self { id: *id, revision: Revision::from_number(*number)? })
    }
}

/// What runs on this node: calls that can be cancelled, streams that can be ended, sessions that are over.
#[derive(Debug, Default)]
pub(super) struct Running {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    calls: HashMap<(Id, String), CancellationToken>,
    /// What ends a session's streams, and how many there are.
    streams: HashMap<Id, (CancellationToken, usize)>,
    ended: HashSet<Id>,
    ended_order: VecDeque<Id>,
}

impl Running {
    /// Notes a call, so that it can be cancelled by the id of its request until the guard is dropped.
    pub(super) fn call(
        self: &Arc<Self>,
        session: Id,
        request: &str,
        cancel: &CancellationToken,
    ) -> CallGuard {
        let key = (session, request.to_owned());
        let mut inner = self.inner.lock();
        // Two requests of one id at once: the second is the client's mistake, and cannot be cancelled by it.
        let is_first = !inner.calls.contains_key(&key);
        if is_first {
            inner.calls.insert(key.clone(), cancel.clone());
        }
        CallGuard { running: Arc::clone(self), key: is_first.then_some(key) }
    }

    /// Cancels a call.
    pub(super) fn cancel(&self, session: Id, request: &str) {
        let call = self.inner.lock().calls.get(&(session, request.to_owned())).cloned();
        if let Some(call) = call {
            call.cancel();
        }
    }

    /// Notes a stream that ends with the session.
    pub(super) fn stream(self: &Arc<Self>, session: Id) -> SessionStream {
        let mut inner = self.inner.lock();
        let (ended, count) = inner.streams.entry(session).or_default();
        *count += 1;
        let ended = ended.clone();
        SessionStream { running: Arc::clone(self), session, ended }
    }

    /// Whether the session was ended here.
    pub(super) fn is_ended(&self, session: Id) -> bool {
        self.inner.lock().ended.contains(&session)
    }

    /// Ends a session: its streams and calls end, and its id is refused from now on.
    pub(super) fn end(&self, session: Id) {
        let mut tokens: Vec<CancellationToken> = Vec::new();
        {
            let mut inner = self.inner.lock();
            if inner.ended.insert(session) {
                inner.ended_order.push_back(session);
            }
            if ENDED_MAX < inner.ended_order.len()
                && let Some(oldest) = inner.ended_order.pop_front()
            {
                inner.ended.remove(&oldest);
            }
            tokens.extend(inner.streams.remove(&session).map(|it| it.0));
            tokens.extend(inner.calls.iter().filter(|it| it.0.0 == session).map(|it| it.1.clone()));
        }
        for token in tokens {
            token.cancel();
        }
    }
}

/// Forgets a call when it is over.
#[derive(Debug)]
pub(super) struct CallGuard {
    running: Arc<Running>,
    key: Option<(Id, String)>,
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.running.inner.lock().calls.remove(&key);
        }
    }
}

/// A stream of a session. Forgotten when it is dropped.
#[derive(Debug)]
pub(super) struct SessionStream {
    running: Arc<Running>,
    session: Id,
    /// Cancelled when the session ends.
    pub(super) ended: CancellationToken,
}

impl Drop for SessionStream {
    fn drop(&mut self) {
        let mut inner = self.running.inner.lock();
        if let Some((_, count)) = inner.streams.get_mut(&self.session) {
            *count -= 1;
            if *count == 0 {
                inner.streams.remove(&self.session);
            }
        }
    }
}

/// How many streams are open, in all and by principal.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: Mutex<(usize, HashMap<String, usize>)>,
}

impl Streams {
    /// Counts one more; `None` at a bound.
    pub(super) fn enter(
        self: &Arc<Self>,
        principal: &str,
        per_principal: usize,
        in_all: usize,
    ) -> Option<StreamGuard> {
        let mut open = self.open.lock();
        let own = open.1.get(principal).copied().unwrap_or(0);
        if per_principal <= own || in_all <= open.0 {
            return None;
        }
        open.0 += 1;
        open.1.insert(principal.to_owned(), own + 1);
        Some(StreamGuard { streams: Arc::clone(self), principal: principal.to_owned() })
    }
}

/// Counts a stream out when it is dropped.
#[derive(Debug)]
pub(super) struct StreamGuard {
    streams: Arc<Streams>,
    principal: String,
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let mut open = self.streams.open.lock();
        open.0 -= 1;
        let left = open.1.get(&self.principal).map_or(0, |it| it - 1);
        if left == 0 {
            open.1.remove(&self.principal);
        } else {
            open.1.insert(self.principal.clone(), left);
        }
    }
}

#[cfg(test)]
mod tests;
