use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use proptest::prelude::*;

use super::{
    ADMIN_PREFIX, Error, KEY_PREFIX, Kek, KeyHasher, Place, create_token, is_same, is_well_formed,
};

const PLACE: Place<'_> = Place { purpose: "key of a provider", parts: &["openai", "main"] };

fn kek(byte: u8) -> Kek {
    Kek::from_bytes(&[byte; 32]).unwrap()
}

#[test]
fn a_secret_opens_only_where_it_belongs() {
    let (key, _) = kek(1).create_data_key().unwrap();
    let sealed = key.seal(b"sk-vendor", &PLACE).unwrap();
    assert!(!sealed.contains("vendor"));
    assert_eq!(key.open(&sealed, &PLACE).unwrap().as_slice(), b"sk-vendor");
    let elsewhere: [Place<'_>; 6] = [
        Place { purpose: "another use", ..PLACE },
        Place { parts: &["openai", "other"], ..PLACE },
        Place { parts: &["mine", "main"], ..PLACE },
        Place { parts: &["openaimain"], ..PLACE },
        Place { parts: &["openai", "main", ""], ..PLACE },
        Place { parts: &[], ..PLACE },
    ];
    for place in elsewhere {
        assert!(matches!(key.open(&sealed, &place), Err(Error::Refused)), "{place:?}");
    }
    let (other, _) = kek(1).create_data_key().unwrap();
    assert!(matches!(other.open(&sealed, &PLACE), Err(Error::Refused)));
    assert_ne!(
        key.seal(b"sk-vendor", &PLACE).unwrap(),
        key.seal(b"sk-vendor", &PLACE).unwrap(),
        "a nonce is never used again"
    );
    assert_eq!(key.open(&key.seal(b"", &PLACE).unwrap(), &PLACE).unwrap().as_slice(), b"");
}

#[test]
fn sealed_values_of_all_versions_still_open() {
    // Made by this code when each format was new; they must open for ever.
    let key = kek(7).unwrap_data_key(GOLDEN_DATA_KEY).unwrap();
    let place = Place { purpose: "place", parts: &["anywhere"] };
    assert_eq!(key.open(GOLDEN_SEALED_1, &place).unwrap().as_slice(), b"hunter2");
    assert_eq!(key.open(GOLDEN_SEALED_2, &PLACE).unwrap().as_slice(), b"hunter2");
    assert_eq!(key.hasher().hash(b"sk-al-1")[..4], GOLDEN_HASH);
}

#[test]
fn the_version_of_a_sealed_value_cannot_be_changed() {
    let key = kek(7).unwrap_data_key(GOLDEN_DATA_KEY).unwrap();
    let marked = |sealed: &str, version: u8| {
        let mut bytes = STANDARD_NO_PAD.decode(sealed).unwrap();
        bytes[0] = version;
        STANDARD_NO_PAD.encode(bytes)
    };
    // As one of a use it would open at any place.
    let older = marked(&key.seal(b"x", &PLACE).unwrap(), 1);
    assert!(matches!(key.open(&older, &PLACE), Err(Error::Refused)));
    let newer = marked(GOLDEN_SEALED_1, 2);
    let place = Place { purpose: "place", parts: &[] };
    assert!(matches!(key.open(&newer, &place), Err(Error::Refused)));
    assert!(matches!(key.open(&marked(GOLDEN_SEALED_2, 3), &PLACE), Err(Error::Newer(3))));
    // A data key is no value, and a value no data key.
    let (other, wrapped) = kek(7).create_data_key().unwrap();
    let as_a_key = Place { purpose: "althing data key 1", parts: &[] };
    assert!(matches!(kek(7).unwrap_data_key(&marked(&wrapped, 2)), Err(Error::Newer(2))));
    assert!(other.open(&wrapped, &as_a_key).is_err());
}

#[test]
fn a_changed_character_is_noticed() {
    let (key, _) = kek(1).create_data_key().unwrap();
    let sealed = key.seal(b"secret", &PLACE).unwrap();
    for at in 0..sealed.len() {
        let mut bad = sealed.clone().into_bytes();
        bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
        assert!(key.open(std::str::from_utf8(&bad).unwrap(), &PLACE).is_err(), "character {at}");
        assert!(key.open(&sealed[..at], &PLACE).is_err());
    }
}

#[test]
fn a_data_key_opens_only_under_its_cluster_secret() {
    let (key, wrapped) = kek(1).create_data_key().unwrap();
    let again = kek(1).unwrap_data_key(&wrapped).unwrap();
    assert_eq!(again.open(&key.seal(b"x", &PLACE).unwrap(), &PLACE).unwrap().as_slice(), b"x");
    assert_eq!(again.hasher().hash(b"k"), key.hasher().hash(b"k"));
    assert!(matches!(kek(2).unwrap_data_key(&wrapped), Err(Error::Refused)));
}

#[test]
fn the_cluster_secret_is_made_once_and_only_its_owner_reads_it() {
    let tmp = tempfile::tempdir().unwrap();
    assert!(Kek::load(tmp.path()).unwrap().is_none());
    let (key, wrapped) = Kek::create(tmp.path()).unwrap().create_data_key().unwrap();
    let file = tmp.path().join("cluster.secret");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = Kek::load(tmp.path()).unwrap().unwrap().unwrap_data_key(&wrapped).unwrap();
    assert_eq!(again.hasher().hash(b"k"), key.hasher().hash(b"k"));
    for bad in [
        "",
        "short",
        "not base64 at all, but quite long enough for a key of 32 bytes",
        &"A".repeat(53),
        &"A".repeat(200),
    ] {
        fs::write(&file, bad).unwrap();
        assert!(matches!(Kek::load(tmp.path()), Err(Error::Secret { .. })), "{bad}");
    }
}

#[test]
fn nothing_secret_is_in_debug() {
    let (key, _) = kek(65).create_data_key().unwrap();
    assert_eq!(format!("{:?} {:?} {:?}", kek(65), key, key.hasher()), "Kek DataKey KeyHasher");
}

#[test]
fn the_hash_is_hmac_sha_256() {
    // RFC 4231, test case 2.
    let hash = KeyHasher::new(b"Jefe").hash(b"what do ya want for nothing?");
    assert_eq!(hash[..8], [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e]);
    assert!(is_same(&hash, &hash.clone()));
    assert!(!is_same(&hash, &hash[1..]));
    assert!(!is_same(&hash, &[0; 32]));
}

#[test]
fn tokens_differ_and_carry_their_check() {
    let mut seen = BTreeSet::new();
    for prefix in [KEY_PREFIX, ADMIN_PREFIX] {
        for _ in 0..500 {
            let token = create_token(prefix).unwrap();
            assert!(token.starts_with(prefix) && is_well_formed(&token, prefix), "{}", *token);
            assert_eq!(token.len(), prefix.len() + 49);
            assert!(seen.insert(token.to_string()));
        }
    }
    let digits: BTreeSet<char> = seen.iter().flat_map(|token| token[9..].chars()).collect();
    assert_eq!(digits.len(), 62, "every digit is used");
}

#[test]
fn a_mistyped_token_is_told_from_a_wrong_one() {
    let token = create_token(KEY_PREFIX).unwrap().to_string();
    assert!(!is_well_formed(&token, ADMIN_PREFIX));
    for at in 0..token.len() {
        let mut bad = token.clone().into_bytes();
        bad[at] = if bad[at] == b'x' { b'y' } else { b'x' };
        assert!(!is_well_formed(std::str::from_utf8(&bad).unwrap(), KEY_PREFIX), "character {at}");
        assert!(!is_well_formed(&token[..at], KEY_PREFIX));
    }
    let mut swapped = token.clone().into_bytes();
    swapped.swap(10, 11);
    assert!(
        swapped[10] == swapped[11]
            || !is_well_formed(std::str::from_utf8(&swapped).unwrap(), KEY_PREFIX)
    );
}

proptest! {
    #[test]
    fn noise_never_panics(text in "\\PC{0,80}", bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let (key, _) = kek(1).create_data_key().unwrap();
        prop_assert!(key.open(&text, &PLACE).is_err());
        prop_assert!(key.open(&base64::Engine::encode(&STANDARD_NO_PAD, bytes), &PLACE).is_err());
        prop_assert!(!is_well_formed(&text, KEY_PREFIX));
    }
}

const GOLDEN_DATA_KEY: &str =
    "Aedtd5y/ZjJ1YtEyZcX92LRz+lvxbHDlGjBwJsJM8qYKx4xX4M/b/5cFwBAGSeFfAfJN7lbMH7YQ5cpiwQ";
const GOLDEN_SEALED_2: &str = "AqC+yYbyv3X1xwOk8yhOx/ZukMl03fryhQw813we+mhmG7yG";
const GOLDEN_SEALED_1: &str = "AZuyIlZx8/v6rmq7prDvRgy/T8EoBIEPBaQC8odka/jQ3R3a";
const GOLDEN_HASH: [u8; 4] = [63, 155, 20, 147];
