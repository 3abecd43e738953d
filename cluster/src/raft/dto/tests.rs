use std::collections::{BTreeMap, BTreeSet};

use althing_storage::migrate;
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    Append, Appended, AskVote, Entry, LogId, SnapshotMeta, Vote, Voted, read_entry, write,
    write_entry,
};
use crate::raft::types::{self, Command, Peer};

fn log_id(index: u64) -> types::LogId {
    types::LogId::new(types::LeaderId { term: 3, node_id: 700 }, index)
}

fn vote() -> types::Vote {
    types::Vote { leader_id: types::LeaderId { term: 4, node_id: 5 }, committed: true }
}

fn membership() -> types::Membership {
    let peer = |name: &str| Peer { name: name.into(), address: "h:1".into() };
    let nodes = BTreeMap::from([(1, peer("a")), (2, peer("b")), (9, peer("c"))]);
    types::Membership::new(vec![BTreeSet::from([1]), BTreeSet::from([1, 2])], nodes).unwrap()
}

fn entries() -> [types::Entry; 3] {
    let command = Command {
        request_id: 1 << 100,
        time_ms: 1_700_000_000_000,
        body: b"body".as_slice().into(),
    };
    [EntryPayload::Blank, EntryPayload::Normal(command), EntryPayload::Membership(membership())]
        .map(|payload| types::Entry { log_id: log_id(300), payload })
}

/// The payload in hex, and whether it comes back.
fn hex<T: migrate::Versioned + Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
    value: &T,
) -> String {
    let bytes = write(value).unwrap();
    assert_eq!(&migrate::read::<T>(&bytes).unwrap(), value);
    assert_eq!(bytes[1..3], [1, 0], "the version");
    bytes[11..].iter().map(|byte| format!("{byte:02x}")).collect()
}

// What is below is on disks and in the messages of older nodes: it may be added to, never changed.

#[test]
fn the_bytes_of_entries_are_those_of_version_one() {
    let [blank, command, membership] = entries().map(|entry| hex(&Entry::from(&entry)));
    assert_eq!(blank, "03fbbc02fb2c0100");
    assert_eq!(
        command,
        "03fbbc02fb2c0101fe00000000000000000000000010000000fd0068e5cf8b01000004626f6479"
    );
    assert_eq!(
        membership,
        "03fbbc02fb2c01020201010201020301016103683a3102016203683a3109016303683a31"
    );
}

#[test]
fn the_bytes_of_small_things_are_those_of_version_one() {
    assert_eq!(hex(&LogId::from(log_id(7))), "03fbbc0207");
    assert_eq!(hex(&Vote::from(vote())), "040501");
    let ask = VoteRequest { vote: vote(), last_log_id: Some(log_id(7)), leadership_transfer: true };
    assert_eq!(hex(&AskVote::from(ask)), "0405010103fbbc020701");
    let voted = VoteResponse { vote: vote(), vote_granted: true, last_log_id: None };
    assert_eq!(hex(&Voted::from(voted)), "0405010100");
    let answers = [
        AppendEntriesResponse::Success,
        AppendEntriesResponse::PartialSuccess(Some(log_id(7))),
        AppendEntriesResponse::Conflict,
        AppendEntriesResponse::HigherVote(vote()),
    ];
    assert_eq!(
        answers.map(|answer| hex(&Appended::from(answer))),
        ["00", "010103fbbc0207", "02", "03040501"]
    );
}

#[test]
fn the_bytes_of_a_snapshots_meta_are_those_of_version_one() {
    let meta = types::SnapshotMeta {
        last_log_id: Some(log_id(7)),
        last_membership: types::StoredMembership::new(Some(log_id(1)), membership()),
    };
    let dto = SnapshotMeta::new(&meta, 99);
    assert_eq!(
        hex(&dto),
        "0103fbbc02070103fbbc02010201010201020301016103683a3102016203683a3109016303683a3163"
    );
    assert_eq!(dto.into_raft().unwrap(), meta);
}

#[test]
fn what_is_written_comes_back() {
    for entry in entries() {
        assert_eq!(read_entry(&write_entry(&entry).unwrap()).unwrap(), entry);
    }
    let request = AppendEntriesRequest {
        vote: vote(),
        prev_log_id: Some(log_id(299)),
        entries: entries().to_vec(),
        leader_commit: None,
    };
    let bytes = write(&Append::from(request.clone())).unwrap();
    let again: AppendEntriesRequest<types::Types> =
        migrate::read::<Append>(&bytes).unwrap().try_into().unwrap();
    assert_eq!(format!("{again:?}"), format!("{request:?}"));
    assert_eq!(types::LogId::from(LogId::from(log_id(7))), log_id(7));
    assert_eq!(types::Vote::from(Vote::from(vote())), vote());
}

#[test]
fn a_membership_without_its_nodes_is_refused() {
    let bad = super::Membership { configs: vec![BTreeSet::from([1, 2])], nodes: BTreeMap::new() };
    assert!(types::Membership::try_from(bad).is_err());
}
