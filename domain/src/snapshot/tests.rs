use std::path::Path;

use serde_json::json;

use super::{Error, Record, VERSION};
use crate::budget::Ask;
use crate::command::{Command, Expect, NodeAsks, Op, Put};
use crate::digest::Digest;
use crate::money::NanoUsd;
use crate::object::{Kind, Object};
use crate::state::{At, State};
use crate::time::UnixMillis;

fn state() -> State {
    let put = |kind, json| {
        let credential = (kind == Kind::VirtualKey).then(|| Digest::of(&[b"secret"]));
        Op::Put(Put {
            object: Object::deserialize_as(kind, json).expect("object"),
            expect: Expect::Any,
            credential,
        })
    };
    let ask = Ask {
        budget: "virtual-key:app:month".into(),
        epoch: 0,
        used: NanoUsd::ZERO,
        returned: NanoUsd::ZERO,
        want: NanoUsd(1_000),
        need: NanoUsd(1_000),
    };
    let ops = [
        put(
            Kind::McpServer,
            json!({"name": "crm", "transport": "http", "url": "https://crm.example/mcp"}),
        ),
        put(Kind::Team, json!({"name": "web"})),
        put(
            Kind::VirtualKey,
            json!({"name": "app", "team": "web", "budget": {"limit_usd": "5", "period": "month"}}),
        ),
        Op::PutOauth { server: "crm".into(), sealed: "sealed:eA".to_owned() },
        Op::SetAdminKey { hash: Digest::of(&[b"admin"]), expect: Expect::Any },
        Op::SetClusterSecrets { sealed: vec![1, 2], expect: Expect::Any },
        Op::LeaseBatch(vec![NodeAsks { node: 1, incarnation: 4, asks: vec![ask] }]),
    ];
    let mut state = State::new();
    for (index, op) in (1..).zip(ops) {
        let command = Command { request_id: u128::from(index) << 70, who: "admin".to_owned(), op };
        state.apply(At { index, time: UnixMillis(1_700_000_000_000 + index) }, &command);
    }
    state
}

fn lines(records: &[Record]) -> String {
    records
        .iter()
        .map(|(kind, body)| format!("{kind} {}\n", std::str::from_utf8(body).expect("text")))
        .collect()
}

#[test]
fn a_snapshot_is_written_as_it_always_was() {
    let records: Vec<_> = state().to_records().collect();
    crate::testdata::check(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/snapshot-1.txt"),
        &lines(&records),
    );
}

#[test]
fn what_is_read_back_is_the_same_and_goes_on_the_same() {
    let mut state = state();
    let mut back = State::from_records(state.to_records()).expect("reads");
    assert_eq!(format!("{state:?}"), format!("{back:?}"), "also what is derived");
    let delete = Op::Delete(crate::command::Delete {
        kind: Kind::Team,
        name: "web".into(),
        expect: Expect::Any,
    });
    let close = Op::CloseLease { node: 1, incarnation: 4 };
    for (index, op) in (20..).zip([delete, close]) {
        let command = Command { request_id: 5, who: "admin".to_owned(), op };
        let at = At { index, time: UnixMillis(1_800_000_000_000) };
        assert_eq!(state.apply(at, &command), back.apply(at, &command));
    }
    assert_eq!(format!("{state:?}"), format!("{back:?}"));
}

#[test]
fn records_that_are_missing_doubled_or_unknown_are_errors() {
    let records: Vec<_> = state().to_records().collect();
    let error = |records: Vec<Record>| State::from_records(records).expect_err("no state");
    assert!(matches!(error(Vec::new()), Error::Header));
    assert!(matches!(error(records[1..].to_vec()), Error::Header));
    assert!(matches!(error(records[..records.len() - 1].to_vec()), Error::Truncated { .. }));
    let mut missing = records.clone();
    missing.remove(2);
    assert!(matches!(error(missing), Error::Count { .. }));
    let mut unknown = records.clone();
    unknown.insert(1, (99, b"{}".to_vec()));
    let text = error(unknown).to_string();
    assert_eq!(
        text,
        format!(
            "record 2 of a snapshot of version {VERSION} is of the unknown kind 99: run a newer build"
        )
    );
    let mut newer = records.clone();
    newer[0].1 = String::from_utf8(newer[0].1.clone())
        .expect("text")
        .replace("\"version\":1", "\"version\":2")
        .into_bytes();
    assert!(matches!(error(newer), Error::Version { found: 2 }));
    let mut broken = records;
    broken[1].1.truncate(3);
    assert!(matches!(error(broken), Error::Record { number: 2, .. }));
}

proptest::proptest! {
    #[test]
    fn noise_is_never_a_panic(records: Vec<(u16, Vec<u8>)>) {
        let _ = State::from_records(records);
    }
}
