use serde::{Deserialize, Serialize};

use super::{Versioned, read, write};
use crate::codec::{self, Frame, to_frame};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Name1 {
    name: String,
}
crate::first_version!(Name1, "name");

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Name2 {
    first: String,
    last: Option<String>,
}

impl Versioned for Name2 {
    const NAME: &'static str = "name";
    const VERSION: u16 = 2;
    type Previous = Name1;

    fn decode(frame: &Frame<'_>) -> Result<Self, codec::Error> {
        frame.decode()
    }
}

impl From<Name1> for Name2 {
    fn from(old: Name1) -> Self {
        match old.name.split_once(' ') {
            Some((first, last)) => Self { first: first.to_owned(), last: Some(last.to_owned()) },
            None => Self { first: old.name, last: None },
        }
    }
}

#[test]
fn the_old_is_read_as_the_new() {
    let old = write(&Name1 { name: "Snorri Sturluson".into() }).unwrap();
    let new: Name2 = read(&old).unwrap();
    assert_eq!(new, Name2 { first: "Snorri".into(), last: Some("Sturluson".into()) });
    assert_eq!(read::<Name2>(&write(&new).unwrap()).unwrap(), new);
}

#[test]
fn a_newer_version_is_refused_and_named() {
    let newer = to_frame(3, &"whatever").unwrap();
    let error = read::<Name2>(&newer).unwrap_err();
    assert_eq!(error, codec::Error::Version { what: "name", got: 3 });
    let zero = to_frame(0, &"whatever").unwrap();
    assert!(read::<Name2>(&zero).is_err());
    assert!(read::<Name1>(&zero).is_err());
}
