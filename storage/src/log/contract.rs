//! What every engine of the log must do.

use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;

use super::{Bounds, Done, Error, Log, Meta};

/// Whether opening the log again finds what was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Remembers,
    Forgets,
}

/// Opens a log: the first time with a name it is empty, the second time it is what was left.
pub(crate) type Open<'a> = &'a mut dyn FnMut(&str) -> Box<dyn Log>;

pub(crate) fn entries(range: std::ops::Range<u64>) -> Vec<Bytes> {
    range.map(|i| Bytes::from(format!("entry {i}"))).collect()
}

/// Gives the operation a callback and waits for it.
pub(crate) fn wait(op: impl FnOnce(Done) -> Result<(), Error>) -> Result<(), Error> {
    let (tx, rx) = mpsc::sync_channel(1);
    op(Box::new(move |result| tx.send(result).unwrap()))?;
    rx.recv_timeout(Duration::from_secs(20)).unwrap()
}

pub(crate) fn check(open: Open<'_>, engine: Engine) {
    an_empty_log_is_empty(&*open("empty"));
    entries_are_readable_when_append_returns(&*open("append"));
    a_hole_is_refused(&*open("hole"));
    what_is_truncated_is_replaced(&*open("truncate"));
    a_purge_may_go_past_the_end(&*open("purge"));
    callbacks_come_in_order(&*open("order"));
    a_closed_log_takes_nothing(&*open("closed"));
    if engine == Engine::Remembers {
        everything_is_there_again(open);
    }
}

fn an_empty_log_is_empty(log: &dyn Log) {
    assert_eq!(log.bounds(), Bounds::default());
    assert_eq!(log.read(0, 100, 1000).unwrap(), Vec::<Bytes>::new());
    assert_eq!(log.meta(Meta::Vote), None);
    assert_eq!(log.failed(), None);
}

fn entries_are_readable_when_append_returns(log: &dyn Log) {
    log.append(0, &entries(0..5), Box::new(|_| ())).unwrap();
    assert_eq!(log.read(0, 5, 1000).unwrap(), entries(0..5));
    wait(|done| log.append(5, &entries(5..8), done)).unwrap();
    assert_eq!(log.read(3, 7, 1000).unwrap(), entries(3..7));
    assert_eq!(log.read(6, 100, 1000).unwrap(), entries(6..8));
    assert_eq!(log.read(0, 8, 15).unwrap(), entries(0..2), "as many as fit");
    assert_eq!(log.read(0, 8, 1).unwrap(), entries(0..1), "but one at least");
    assert_eq!(log.bounds(), Bounds { first: Some(0), last: Some(7), purged: None, bytes: 56 });
}

fn a_hole_is_refused(log: &dyn Log) {
    wait(|done| log.append(3, &entries(3..5), done)).unwrap();
    let refused = log.append(6, &entries(6..7), Box::new(|_| ()));
    assert_eq!(refused, Err(Error::Gap { last: 4, got: 6 }));
    let again = log.append(4, &entries(4..5), Box::new(|_| ()));
    assert_eq!(again, Err(Error::Gap { last: 4, got: 4 }), "an entry is not overwritten");
    assert_eq!(log.read(2, 5, 1000), Err(Error::Missing(2)));
    assert_eq!(log.read(3, 9, 1000).unwrap(), entries(3..5));
}

fn what_is_truncated_is_replaced(log: &dyn Log) {
    wait(|done| log.append(0, &entries(0..10), done)).unwrap();
    wait(|done| log.truncate_after(Some(20), done)).unwrap();
    assert_eq!(log.bounds().last, Some(9));
    wait(|done| log.truncate_after(Some(4), done)).unwrap();
    assert_eq!(log.bounds().last, Some(4));
    wait(|done| log.append(5, &entries(105..107), done)).unwrap();
    assert_eq!(log.read(4, 10, 1000).unwrap(), [entries(4..5), entries(105..107)].concat());
    wait(|done| log.truncate_after(None, done)).unwrap();
    assert_eq!(log.bounds(), Bounds::default());
    wait(|done| log.append(0, &entries(0..1), done)).unwrap();
    assert_eq!(log.bounds().last, Some(0));
}

fn a_purge_may_go_past_the_end(log: &dyn Log) {
    wait(|done| log.append(0, &entries(0..10), done)).unwrap();
    wait(|done| log.purge(3, Bytes::from_static(b"three"), done)).unwrap();
    assert_eq!(log.read(3, 5, 1000), Err(Error::Missing(3)));
    assert_eq!(log.read(4, 6, 1000).unwrap(), entries(4..6));
    assert_eq!((log.bounds().first, log.bounds().purged), (Some(4), Some(3)));
    wait(|done| log.purge(20, Bytes::from_static(b"twenty"), done)).unwrap();
    assert_eq!(log.bounds(), Bounds { first: None, last: None, purged: Some(20), bytes: 0 });
    assert_eq!(log.meta(Meta::Purged).unwrap(), "twenty");
    let refused = log.append(10, &entries(10..11), Box::new(|_| ()));
    assert_eq!(refused, Err(Error::Gap { last: 20, got: 10 }));
    wait(|done| log.append(21, &entries(21..22), done)).unwrap();
    assert_eq!(log.read(21, 22, 1000).unwrap(), entries(21..22));
}

fn callbacks_come_in_order(log: &dyn Log) {
    let (tx, rx) = mpsc::sync_channel(1000);
    for i in 0..200_u64 {
        let tx = tx.clone();
        let done: Done = Box::new(move |result| tx.send((i, result)).unwrap());
        match i % 3 {
            0 => log.set_meta(Meta::Vote, Bytes::from(i.to_string()), done).unwrap(),
            1 => log.append(i / 3, &entries(0..1), done).unwrap(),
            _ => log.set_meta(Meta::Committed, Bytes::from(i.to_string()), done).unwrap(),
        }
    }
    for i in 0..200 {
        assert_eq!(rx.recv_timeout(Duration::from_secs(20)).unwrap(), (i, Ok(())));
    }
    assert_eq!(log.meta(Meta::Vote).unwrap(), "198");
}

fn a_closed_log_takes_nothing(log: &dyn Log) {
    let (tx, rx) = mpsc::sync_channel(1);
    log.append(0, &entries(0..1), Box::new(move |result| tx.send(result).unwrap())).unwrap();
    log.close();
    assert_eq!(rx.recv_timeout(Duration::from_secs(20)).unwrap(), Ok(()), "closing loses nothing");
    assert_eq!(log.read(0, 1, 1000).unwrap(), entries(0..1));
}

fn everything_is_there_again(open: Open<'_>) {
    let log = open("again");
    log.append(0, &entries(0..1000), Box::new(|_| ())).unwrap();
    log.set_meta(Meta::Vote, Bytes::from_static(b"vote"), Box::new(|_| ())).unwrap();
    log.set_meta(Meta::Committed, Bytes::from_static(b"committed"), Box::new(|_| ())).unwrap();
    log.truncate_after(Some(899), Box::new(|_| ())).unwrap();
    log.purge(99, Bytes::from_static(b"purged"), Box::new(|_| ())).unwrap();
    let bounds = log.bounds();
    drop(log);

    let log = open("again");
    assert_eq!(log.bounds(), bounds);
    assert_eq!(log.read(100, 900, usize::MAX).unwrap(), entries(100..900));
    assert_eq!(log.meta(Meta::Vote).unwrap(), "vote");
    assert_eq!(log.meta(Meta::Committed).unwrap(), "committed");
    assert_eq!(log.meta(Meta::Purged).unwrap(), "purged");
}
