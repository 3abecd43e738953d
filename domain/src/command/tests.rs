use std::path::Path;

use serde_json::json;

use super::{Command, Delete, Expect, FinalLease, NodeAsks, Op, Put, Write};
use crate::budget::Ask;
use crate::digest::Digest;
use crate::money::NanoUsd;
use crate::object::{Kind, Object};
use crate::time::UnixMillis;

fn sample(kind: Kind) -> Object {
    let json = match kind {
        Kind::Provider => json!({
            "name": "local", "dialect": "openai", "base_url": "http://127.0.0.1:9000/v1",
            "keys": [{"name": "main", "value": "env:KEY", "weight": 2, "models": ["*"], "enabled": true}],
            "headers": {"x-org": "sealed:YWJj"}, "timeout": "2m", "models": {"small": "llama"},
            "prices": {"llama": {"input_usd_per_million": "0.15", "output_usd_per_million": "0.6"}},
            "budget": [{"limit_usd": "5", "period": "6h", "mode": "soft", "warn_at": ["0.8"]}]
        }),
        Kind::McpServer => json!({
            "name": "crm", "transport": "http", "url": "https://crm.example/mcp", "tools": ["*"], "prices": {"find": "0.002"},
            "auth": {"type": "oauth", "grant": "client_credentials", "client_id": "id", "client_secret": "sealed:eA"}
        }),
        Kind::ToolGroup => {
            json!({"name": "support", "description": "first line", "tools": ["crm/*"]})
        }
        Kind::Customer => {
            json!({"name": "acme", "budget": {"limit_usd": "500", "period": "month", "time_zone": "Europe/Berlin"}})
        }
        Kind::Team => {
            json!({"name": "web", "customer": "acme", "rate": {"requests": 5, "per": "1m"}})
        }
        Kind::VirtualKey => json!({
            "name": "app", "team": "web", "providers": [{"name": "local", "models": ["*"], "weight": 1}],
            "tools": ["crm/find"], "tool_groups": ["support"], "default_max_tokens": 100, "expires_at": "2030-01-01T00:00:00Z"
        }),
    };
    Object::deserialize_as(kind, json).expect("sample")
}

fn samples() -> Vec<Op> {
    let put = |kind| Put {
        object: sample(kind),
        expect: Expect::Version(7),
        credential: (kind == Kind::VirtualKey).then(|| Digest::of(&[b"secret"])),
    };
    let delete = Delete { kind: Kind::Team, name: "web".into(), expect: Expect::Present };
    let ask = Ask {
        budget: "customer:acme:month".into(),
        epoch: 3,
        used: NanoUsd(5),
        returned: NanoUsd(1),
        want: NanoUsd(9),
        need: NanoUsd(2),
    };
    let last = FinalLease { budget: "customer:acme:month".into(), epoch: 3, used: NanoUsd(5) };
    let mut ops: Vec<Op> = Kind::ALL.iter().map(|kind| Op::Put(put(*kind))).collect();
    ops.extend([
        Op::Delete(delete.clone()),
        Op::Batch(vec![Write::Put(put(Kind::Team)), Write::Delete(delete)]),
        Op::RotateKey {
            name: "app".into(),
            hash: Digest::of(&[b"new"]),
            old_valid_until: Some(UnixMillis(99)),
            expect: Expect::Any,
        },
        Op::SetAdminKey { hash: Digest::of(&[b"admin"]), expect: Expect::Absent },
        Op::SetClusterSecrets { sealed: vec![0, 127, 255], expect: Expect::Any },
        Op::PutOauth { server: "crm".into(), sealed: "sealed:eA".to_owned() },
        Op::DeleteOauth { server: "crm".into() },
        Op::LeaseBatch(vec![NodeAsks { node: 1, incarnation: 2, asks: vec![ask] }]),
        Op::Final { node: 1, incarnation: 2, leases: vec![last] },
        Op::CloseLease { node: 1, incarnation: 2 },
        Op::Tick,
        Op::RotateKey {
            name: "app".into(),
            hash: Digest::of(&[b"new"]),
            old_valid_until: None,
            expect: Expect::Version(7),
        },
        Op::Put(Put {
            object: Object::deserialize_as(
                Kind::VirtualKey,
                json!({"name": "quiet", "record_opt_out": true}),
            )
            .expect("sample"),
            expect: Expect::Absent,
            credential: None,
        }),
    ]);
    ops
}

/// What an earlier build wrote must read for ever. A new command adds a line; a changed line is a broken promise.
#[test]
fn commands_are_written_as_they_always_were() {
    let commands: Vec<Command> = samples()
        .into_iter()
        .map(|op| Command { request_id: u128::MAX - 1, who: "admin".to_owned(), op })
        .collect();
    let text = |bytes: &[u8]| {
        format!(
            "{:02x}{:02x} {}\n",
            bytes[0],
            bytes[1],
            std::str::from_utf8(&bytes[2..]).expect("text")
        )
    };
    let written: String = commands.iter().map(|it| text(&it.encode())).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/commands-1.txt");
    crate::testdata::check(&path, &written);
    for (line, command) in std::fs::read_to_string(&path).expect("golden").lines().zip(&commands) {
        let bytes = [&[1, 0], &line.as_bytes()[5..]].concat();
        assert_eq!(&Command::decode(&bytes).expect("decodes"), command);
    }
}

#[test]
fn what_this_build_cannot_read_is_an_error_that_says_so() {
    let error = |bytes: &[u8]| Command::decode(bytes).expect_err("no command").to_string();
    assert_eq!(error(&[1]), "the entry has 1 bytes, fewer than its header");
    assert_eq!(
        error(&[2, 0, b'{']),
        "the entry has schema 2, and this build reads up to 1: run a newer build"
    );
    assert_eq!(error(&[1, 0, b'{']), "the entry's body does not read");
    assert_eq!(
        error(br#"  {"request_id":"0","who":"","op":"fly"}"#),
        "the entry has schema 8224, and this build reads up to 1: run a newer build"
    );
}

proptest::proptest! {
    #[test]
    fn noise_is_never_a_command_and_never_a_panic(bytes: Vec<u8>) {
        let _ = Command::decode(&bytes);
        let _ = Command::decode(&[&[1, 0], bytes.as_slice()].concat());
    }
}
