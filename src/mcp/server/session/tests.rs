use std::sync::Arc;

use althing_domain::time::UnixMillis;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::{Keys, Kind, Running, Session, Streams};
use crate::mcp::server::Revision;

fn keys() -> Keys {
    Keys::new(&[7; 32], None).unwrap()
}

const NOW: UnixMillis = UnixMillis(1000);

#[test]
fn a_handle_opens_for_whom_and_what_it_was_made_and_not_after_its_time() {
    let keys = keys();
    let handle = keys.seal(Kind::Session, "app", UnixMillis(2000), b"payload").unwrap();
    assert!(handle.bytes().all(|b| (0x21..0x7f).contains(&b)));
    assert_eq!(keys.open(Kind::Session, "app", NOW, &handle).as_deref(), Some(&b"payload"[..]));
    assert_eq!(
        keys.open(Kind::Session, "app", UnixMillis(1999), &handle).as_deref(),
        Some(&b"payload"[..])
    );
    assert_eq!(keys.open(Kind::Session, "app", UnixMillis(2000), &handle), None);
    assert_eq!(keys.open(Kind::Cursor, "app", NOW, &handle), None);
    assert_eq!(keys.open(Kind::Session, "other", NOW, &handle), None);
    assert_eq!(keys.open(Kind::Session, "", NOW, &handle), None);
}

#[test]
fn a_rotated_key_still_opens_and_a_dropped_one_does_not() {
    let handle = keys().seal(Kind::Session, "app", UnixMillis(2000), b"x").unwrap();
    let rotated = Keys::new(&[8; 32], Some(&[7; 32])).unwrap();
    assert!(rotated.open(Kind::Session, "app", NOW, &handle).is_some());
    let later = Keys::new(&[9; 32], Some(&[8; 32])).unwrap();
    assert_eq!(later.open(Kind::Session, "app", NOW, &handle), None);
}

#[test]
fn a_session_survives_its_bytes() {
    let session = Session::new(Revision::V2025_06_18).unwrap();
    assert_eq!(Session::from_bytes(&session.to_bytes()), Some(session));
    assert_eq!(Session::from_bytes(&session.to_bytes()[1..]), None);
    assert_ne!(Session::new(Revision::V2025_06_18), Some(session));
}

#[test]
fn an_ended_session_takes_its_calls_and_streams_with_it() {
    let running = Arc::new(Running::default());
    let (first, second) = ([1; 16], [2; 16]);
    let (call, other) = (CancellationToken::new(), CancellationToken::new());
    let _guard = running.call(first, "1", &call);
    let _guard_of_other = running.call(second, "1", &other);
    let stream = running.stream(first);
    drop(running.stream(second));
    assert_eq!(running.inner.lock().streams.len(), 1, "a stream that is gone is forgotten");
    running.end(first);
    assert!(call.is_cancelled() && stream.ended.is_cancelled() && running.is_ended(first));
    assert!(!other.is_cancelled() && !running.is_ended(second));
    running.cancel(second, "2");
    assert!(!other.is_cancelled());
    running.cancel(second, "1");
    assert!(other.is_cancelled());
}

#[test]
fn a_second_request_of_the_same_id_does_not_take_the_first_ones_place() {
    let running = Arc::new(Running::default());
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    let guard = running.call([1; 16], "1", &first);
    drop(running.call([1; 16], "1", &second));
    running.cancel([1; 16], "1");
    assert!(first.is_cancelled() && !second.is_cancelled());
    drop(guard);
    assert!(running.inner.lock().calls.is_empty());
}

#[test]
fn streams_have_a_bound_by_principal_and_in_all() {
    let streams = Arc::new(Streams::default());
    let one = streams.enter("a", 1, 2).unwrap();
    assert!(streams.enter("a", 1, 2).is_none());
    let two = streams.enter("b", 1, 2).unwrap();
    assert!(streams.enter("c", 1, 2).is_none());
    drop(one);
    assert!(streams.enter("a", 1, 2).is_some());
    drop(two);
    assert_eq!(streams.open.lock().0, 0);
    assert!(streams.open.lock().1.is_empty());
}

proptest! {
    #[test]
    fn an_altered_handle_is_refused(at in 0_usize..1000, bit in 0_u8..6) {
        let keys = keys();
        let handle = keys.seal(Kind::Session, "app", UnixMillis(2000), b"payload").unwrap();
        let mut altered = handle.clone().into_bytes();
        let at = at % altered.len();
        altered[at] ^= 1 << bit;
        if let Ok(altered) = String::from_utf8(altered) {
            prop_assert_eq!(keys.open(Kind::Session, "app", NOW, &altered), None);
        }
    }

    #[test]
    fn noise_is_no_handle(text in ".{0,1100}") {
        prop_assert_eq!(keys().open(Kind::Session, "app", NOW, &text), None);
    }
}
