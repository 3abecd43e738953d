use std::sync::Arc;
use std::time::Duration;

use althing_domain::time::UnixMillis;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::{EPOCH, Keys, Kind, Running, SESSION_LIFE, Session, Streams};
use crate::mcp::server::Revision;

fn keys() -> Keys {
    Keys::new(&[7; 32])
}

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const SECOND: Duration = Duration::from_secs(1);

/// Some time after [`NOW`].
fn after(time: Duration) -> UnixMillis {
    crate::mcp::server::later(NOW, time)
}

#[test]
fn a_handle_opens_for_whom_and_what_it_was_made_and_not_after_its_time() {
    let keys = keys();
    let handle = keys.seal(Kind::Session, "app", (NOW, SECOND), b"payload").unwrap();
    assert!(handle.bytes().all(|b| (0x21..0x7f).contains(&b)));
    let opened = |kind, principal, now| keys.open(kind, principal, now, &handle);
    assert_eq!(opened(Kind::Session, "app", NOW).as_deref(), Some(&b"payload"[..]));
    let last = UnixMillis(NOW.0 + 999);
    assert_eq!(opened(Kind::Session, "app", last).as_deref(), Some(&b"payload"[..]));
    assert_eq!(opened(Kind::Session, "app", after(SECOND)), None);
    assert_eq!(opened(Kind::Cursor, "app", NOW), None);
    assert_eq!(opened(Kind::Session, "other", NOW), None);
    assert_eq!(opened(Kind::Session, "", NOW), None);
    assert_eq!(Keys::new(&[8; 32]).open(Kind::Session, "app", NOW, &handle), None);
}

#[test]
fn a_handle_lives_to_its_end_whenever_in_an_epoch_it_was_made() {
    let keys = keys();
    // Steps that do not divide an epoch, so that its begin, middle and end are met.
    for step in 0..200 {
        let made = after(Duration::from_secs(step * 9_973));
        let handle = keys.seal(Kind::Session, "app", (made, SESSION_LIFE), b"x").unwrap();
        let last = UnixMillis(crate::mcp::server::later(made, SESSION_LIFE).0 - 1);
        for now in [made, last] {
            assert!(keys.open(Kind::Session, "app", now, &handle).is_some(), "step {step}");
        }
        // Of a node that starts anew, and of one whose clock is a minute behind.
        assert!(self::keys().open(Kind::Session, "app", last, &handle).is_some());
        let behind = UnixMillis(made.0 - 60_000);
        assert!(self::keys().open(Kind::Session, "app", behind, &handle).is_some());
    }
}

#[test]
fn what_is_older_than_two_epochs_is_refused_whatever_it_says_itself() {
    let keys = keys();
    let for_ever = (NOW, Duration::from_secs(100 * 365 * 24 * 60 * 60));
    let handle = keys.seal(Kind::Session, "app", for_ever, b"x").unwrap();
    let opens = |epochs: u32| keys.open(Kind::Session, "app", after(EPOCH * epochs), &handle);
    assert_eq!((opens(0).is_some(), opens(1).is_some()), (true, true));
    // 256 epochs on, another key has the same mark.
    for epochs in [2, 3, 255, 256, 257] {
        assert_eq!(opens(epochs), None, "{epochs}");
    }
    assert!(opens(0).is_some(), "a clock that was set right again");
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
        let handle = keys.seal(Kind::Session, "app", (NOW, SECOND), b"payload").unwrap();
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
