//! Reading what an older version wrote.
//!
//! A stored type never changes: a new shape is a new type with the next version, and names the old one as its
//! [`Versioned::Previous`]. Reading walks that chain down to the version that was written and converts upwards, one
//! step at a time. The first version of a type names [`Never`].

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, Frame};

/// A stored type, and the one it replaced.
pub trait Versioned: Sized {
    /// What it is called in errors.
    const NAME: &'static str;
    /// Written into the frame. 0 is not used.
    const VERSION: u16;
    /// The version before, or [`Never`].
    type Previous: Versioned + Into<Self>;

    /// Decodes a frame of exactly this version. Stored types implement it as `frame.decode()`.
    ///
    /// # Errors
    ///
    /// As [`Frame::decode`].
    fn decode(frame: &Frame<'_>) -> Result<Self, codec::Error>;
}

/// The end of a chain of versions: a type without values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Never {}

impl Versioned for Never {
    const NAME: &'static str = "nothing";
    const VERSION: u16 = 0;
    type Previous = Self;

    fn decode(frame: &Frame<'_>) -> Result<Self, codec::Error> {
        Err(codec::Error::Version { what: Self::NAME, got: frame.version })
    }
}

/// Declares the first version of a stored type.
#[macro_export]
macro_rules! first_version {
    ($type:ty, $name:literal) => {
        impl $crate::migrate::Versioned for $type {
            const NAME: &'static str = $name;
            const VERSION: u16 = 1;
            type Previous = $crate::migrate::Never;

            fn decode(frame: &$crate::codec::Frame<'_>) -> Result<Self, $crate::codec::Error> {
                frame.decode()
            }
        }

        impl From<$crate::migrate::Never> for $type {
            fn from(never: $crate::migrate::Never) -> Self {
                match never {}
            }
        }
    };
}

/// Frames `value` at its version.
///
/// # Errors
///
/// As [`codec::to_frame`].
pub fn write<T: Versioned + Serialize>(value: &T) -> Result<Vec<u8>, codec::Error> {
    codec::to_frame(T::VERSION, value)
}

/// Reads a `T` from a frame that this version or an older one wrote.
///
/// # Errors
///
/// [`codec::Error::Version`] for a version that is newer, or older than the chain; else as [`Frame::read`].
pub fn read<T: Versioned + DeserializeOwned>(bytes: &[u8]) -> Result<T, codec::Error> {
    upgrade(&Frame::read(bytes)?)
}

fn upgrade<T: Versioned>(frame: &Frame<'_>) -> Result<T, codec::Error> {
    let unknown = || codec::Error::Version { what: T::NAME, got: frame.version };
    if frame.version == T::VERSION {
        return T::decode(frame);
    }
    if frame.version > T::VERSION || T::Previous::VERSION == 0 {
        return Err(unknown());
    }
    upgrade::<T::Previous>(frame).map(Into::into)
}

#[cfg(test)]
mod tests;
