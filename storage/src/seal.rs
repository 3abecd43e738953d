//! Secrets at rest, and tokens.
//!
//! Values are sealed with AES-256-GCM under a data key; data keys are wrapped by the cluster secret ([`Kek`]), which lies in the data directory
//! and never in the log. Sealing draws a random nonce, so it happens on the node that proposes, never in `apply`.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::{constant_time, hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use zeroize::{Zeroize, Zeroizing};

use crate::codec::crc32c_of;
use crate::dir;

/// Where the cluster secret lies in a data directory.
const KEK_FILE: &str = "cluster.secret";
/// The first byte of everything sealed: the version of the format. This one is bound to a use. Data keys have it still, and values
/// that earlier builds sealed.
const OF_USE: u8 = 1;
/// Bound to a use and to the one place that it was sealed for.
const OF_PLACE: u8 = 2;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// What a data key is bound to when it is wrapped.
const WRAP_AAD: &[u8] = b"althing data key 1";
/// A sealed value is at most this long in text: secrets are keys and passwords, at most a certificate chain.
const SEALED_TEXT_MAX: usize = 1 << 20;

/// Starts a virtual key that we made.
pub const KEY_PREFIX: &str = "sk-al-";
/// Starts an admin key.
pub const ADMIN_PREFIX: &str = "al-admin-";
/// 43 digits of base 62 carry 256 bits.
const BODY_CHARS: usize = 43;
const CHECK_CHARS: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Why something cannot be sealed or opened. Never says anything of the secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It was sealed with another key, for another place, or was changed.
    #[error(
        "the sealed value cannot be opened: it was sealed with another key or for another place, or it is damaged"
    )]
    Refused,
    /// It is no sealed value.
    #[error("this is not a sealed value")]
    Malformed,
    /// It was sealed by a newer version of althing.
    #[error("the value was sealed by a newer version of althing (format {0})")]
    Newer(u8),
    /// The operating system gives no random numbers, or the cryptographic library fails.
    #[error("the cryptographic library failed")]
    Crypto,
    /// The cluster secret is not what it should be.
    #[error(
        "the cluster secret {file} is not 32 bytes in base64; restore it from a backup: without it the stored secrets cannot be opened"
    )]
    Secret { file: String },
    /// The cluster secret cannot be read or written.
    #[error(transparent)]
    Dir(#[from] dir::Error),
    /// The cluster secret cannot be read.
    #[error("cannot read the cluster secret {file}")]
    Read { file: String, source: io::Error },
}

/// What a sealed value is bound to: it opens for the same use at the same place, and nowhere else.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// What it is for. All that a value of [`OF_USE`] is bound to.
    pub purpose: &'a str,
    /// Which object holds it, and where in it.
    pub parts: &'a [&'a str],
}

impl Place<'_> {
    /// Each part with its length, so that no two places read alike.
    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = b"althing sealed 2".to_vec();
        for part in std::iter::once(&self.purpose).chain(self.parts) {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }
}

/// The cluster secret: the key that wraps data keys.
pub struct Kek(Cipher);

impl Kek {
    /// Reads the cluster secret of a data directory.
    ///
    /// # Errors
    ///
    /// [`Error::Secret`] and [`Error::Read`]. `Ok(None)` if there is none yet.
    pub fn load(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(KEK_FILE);
        let file = || path.display().to_string();
        let handle = match fs::File::open(&path) {
            Ok(handle) => handle,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Read { file: file(), source }),
        };
        let mut text = Zeroizing::new(String::with_capacity(256));
        handle
            .take(256)
            .read_to_string(&mut text)
            .map_err(|source| Error::Read { file: file(), source })?;
        let mut key = Zeroizing::new([0; KEY_BYTES + 8]);
        match STANDARD_NO_PAD.decode_slice(text.trim(), key.as_mut_slice()) {
            Ok(KEY_BYTES) => Self::from_bytes(key.get(..KEY_BYTES).unwrap_or_default()).map(Some),
            Ok(_) | Err(_) => Err(Error::Secret { file: file() }),
        }
    }

    /// Makes a cluster secret and stores it, readable by its owner only. Only for a directory that holds nothing yet: what was sealed
    /// with an earlier one is lost.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`] and [`Error::Dir`].
    pub fn create(dir: &Path) -> Result<Self, Error> {
        let key = random_key()?;
        let text = Zeroizing::new(STANDARD_NO_PAD.encode(key.as_slice()));
        dir::write_atomically(dir, KEK_FILE, text.as_bytes())?;
        Self::from_bytes(key.as_slice())
    }

    /// A cluster secret that came from elsewhere.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`] if `key` is not 32 bytes long.
    pub fn from_bytes(key: &[u8]) -> Result<Self, Error> {
        Cipher::new(key).map(Self)
    }

    /// Makes a data key. The text goes into the replicated state.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`].
    pub fn create_data_key(&self) -> Result<(DataKey, String), Error> {
        let key = random_key()?;
        let wrapped = self.0.seal(OF_USE, key.as_slice(), WRAP_AAD)?;
        Ok((DataKey::new(&key)?, wrapped))
    }

    /// Opens a data key that [`Kek::create_data_key`] made.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] under another cluster secret; [`Error::Malformed`].
    pub fn unwrap_data_key(&self, wrapped: &str) -> Result<DataKey, Error> {
        let aad = |version| (version == OF_USE).then(|| WRAP_AAD.to_vec());
        let key = self.0.open(wrapped, aad)?;
        DataKey::new(&key)
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kek")
    }
}

/// Seals values, and knows the hash of keys. One per cluster, until it is rotated.
pub struct DataKey {
    cipher: Cipher,
    hasher: KeyHasher,
}

impl DataKey {
    fn new(key: &[u8]) -> Result<Self, Error> {
        let cipher = Cipher::new(key)?;
        // The key for hashing is derived, so that the two uses stay apart.
        let mut derived =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), b"althing key hash 1")
                .as_ref()
                .to_vec();
        let hasher = KeyHasher::new(&derived);
        derived.zeroize();
        Ok(Self { cipher, hasher })
    }

    /// Seals `secret`. It opens only at the same place.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`].
    pub fn seal(&self, secret: &[u8], place: &Place<'_>) -> Result<String, Error> {
        self.cipher.seal(OF_PLACE, secret, &place.to_bytes())
    }

    /// Opens what [`DataKey::seal`] made, in this build or an earlier one, which bound it to its use alone. The result is wiped
    /// when it is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], [`Error::Malformed`] and [`Error::Newer`].
    pub fn open(&self, sealed: &str, place: &Place<'_>) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.cipher.open(sealed, |version| match version {
            OF_USE => Some(place.purpose.as_bytes().to_vec()),
            OF_PLACE => Some(place.to_bytes()),
            _ => None,
        })
    }

    /// What virtual keys are looked up by.
    #[must_use]
    pub fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey")
    }
}

struct Cipher(RandomizedNonceKey);

impl Cipher {
    fn new(key: &[u8]) -> Result<Self, Error> {
        RandomizedNonceKey::new(&AES_256_GCM, key).map(Self).map_err(|_| Error::Crypto)
    }

    fn seal(&self, version: u8, secret: &[u8], aad: &[u8]) -> Result<String, Error> {
        // Large enough at once, so that no copy of the secret is left behind by growing.
        let mut buffer = Zeroizing::new(Vec::with_capacity(secret.len() + TAG_BYTES));
        buffer.extend_from_slice(secret);
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(aad), &mut *buffer)
            .map_err(|_| Error::Crypto)?;
        let mut sealed = Vec::with_capacity(1 + NONCE_BYTES + buffer.len());
        sealed.push(version);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&buffer);
        Ok(STANDARD_NO_PAD.encode(sealed))
    }

    /// `aad` says what a value of a version is bound to; `None` where that is not known.
    fn open(
        &self,
        sealed: &str,
        aad: impl FnOnce(u8) -> Option<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        if sealed.len() > SEALED_TEXT_MAX {
            return Err(Error::Malformed);
        }
        let bytes = STANDARD_NO_PAD.decode(sealed).map_err(|_| Error::Malformed)?;
        let (version, rest) = bytes.split_first().ok_or(Error::Malformed)?;
        let aad = aad(*version).ok_or(Error::Newer(*version))?;
        let (nonce, ciphertext) =
            rest.split_first_chunk::<NONCE_BYTES>().ok_or(Error::Malformed)?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let opened = self.0.open_in_place(Nonce::from(nonce), Aad::from(aad), &mut buffer);
        let length = opened.map_err(|_| Error::Refused)?.len();
        buffer.truncate(length);
        Ok(buffer)
    }
}

/// Turns a key into what is stored of it: HMAC-SHA-256 under a key of the cluster's. Keyed because given values may be guessable.
#[derive(Clone)]
pub struct KeyHasher(hmac::Key);

impl KeyHasher {
    /// A hasher under `key`.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The hash of `value`.
    #[must_use]
    pub fn hash(&self, value: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        let tag = hmac::sign(&self.0, value);
        for (to, from) in out.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        out
    }
}

impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHasher")
    }
}

/// Compares without telling by its time where the first difference is.
#[must_use]
pub fn is_same(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// Makes a token: `prefix`, 256 random bits, and a checksum by which a mistyped one is told from a wrong one (and by which
/// secret scanners know ours).
///
/// # Errors
///
/// [`Error::Crypto`].
pub fn create_token(prefix: &str) -> Result<Zeroizing<String>, Error> {
    let mut token = Zeroizing::new(String::with_capacity(prefix.len() + BODY_CHARS + CHECK_CHARS));
    token.push_str(prefix);
    let mut pool = Zeroizing::new([0_u8; 64]);
    while token.len() < prefix.len() + BODY_CHARS {
        rand::fill(pool.as_mut_slice()).map_err(|_| Error::Crypto)?;
        // 248 is the largest multiple of 62 in a byte: what lies above would favour the first digits.
        for byte in pool.iter().filter(|byte| **byte < 248) {
            if token.len() < prefix.len() + BODY_CHARS {
                token.push(digit(u32::from(*byte)));
            }
        }
    }
    let check = check_digits(token.as_bytes());
    token.extend(check);
    Ok(token)
}

/// Whether `token` has the form of one that [`create_token`] made with `prefix`. Says nothing of whether it is known.
#[must_use]
pub fn is_well_formed(token: &str, prefix: &str) -> bool {
    let Some(rest) = token.strip_prefix(prefix) else { return false };
    if rest.len() != BODY_CHARS + CHECK_CHARS
        || !rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        return false;
    }
    let (body, check) = token.split_at(token.len() - CHECK_CHARS);
    check.chars().eq(check_digits(body.as_bytes()))
}

fn check_digits(body: &[u8]) -> [char; CHECK_CHARS] {
    let mut rest = crc32c_of(body);
    std::array::from_fn(|_| {
        let next = digit(rest);
        rest /= 62;
        next
    })
}

fn digit(value: u32) -> char {
    char::from(BASE62[(value % 62) as usize])
}

fn random_key() -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut key = Zeroizing::new(vec![0; KEY_BYTES]);
    rand::fill(&mut key).map_err(|_| Error::Crypto)?;
    Ok(key)
}

#[cfg(test)]
mod tests;
