use serde_json::json;

use super::Outcome;
use crate::audit;
use crate::budget::BudgetId;
use crate::command::{Command, Delete, Effect, Expect, Op, Put, Refusal, Reply, Write, Written};
use crate::digest::Digest;
use crate::id::Name;
use crate::money::NanoUsd;
use crate::object::{Kind, Object};
use crate::query::Standing;
use crate::state::{At, State};
use crate::time::UnixMillis;
use crate::validate::Problem;

const SECOND: u64 = 1_000;

fn object(kind: Kind, json: &serde_json::Value) -> Object {
    Object::deserialize_as(kind, json).expect("object")
}

fn hash(text: &str) -> Digest {
    Digest::of(&[text.as_bytes()])
}

fn put(kind: Kind, json: &serde_json::Value) -> Put {
    let credential = (kind == Kind::VirtualKey).then(|| hash(json["name"].as_str().expect("name")));
    Put { object: object(kind, json), expect: Expect::Any, credential }
}

fn delete(kind: Kind, name: &str) -> Delete {
    Delete { kind, name: name.into(), expect: Expect::Any }
}

/// A log that grows by itself: each command one index and one second after the last.
struct Law {
    state: State,
    index: u64,
}

impl Law {
    fn new() -> Self {
        Self { state: State::new(), index: 0 }
    }

    fn apply(&mut self, op: Op) -> Outcome {
        self.index += 1;
        let command = Command { request_id: u128::from(self.index), who: "admin".to_owned(), op };
        self.state.apply(At { index: self.index, time: UnixMillis(self.index * SECOND) }, &command)
    }

    fn put(&mut self, kind: Kind, json: &serde_json::Value) -> Outcome {
        self.apply(Op::Put(put(kind, json)))
    }

    fn written(&mut self, op: Op) -> Vec<Written> {
        match self.apply(op).reply {
            Reply::Written(written) => written,
            other => panic!("{other:?}"),
        }
    }

    fn refused(&mut self, op: Op) -> Refusal {
        let (before, audited) = (format!("{:?}", self.state.tables), self.state.audit().count());
        let outcome = self.apply(op);
        assert!(outcome.changes.is_empty());
        assert_eq!(format!("{:?}", self.state.tables), before, "a refusal leaves nothing behind");
        assert_eq!(self.state.audit().count(), audited);
        match outcome.reply {
            Reply::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }
}

fn law() -> Law {
    let mut law = Law::new();
    law.put(Kind::Provider, &json!({"name": "openai"}));
    law.put(
        Kind::Customer,
        &json!({"name": "acme", "budget": {"limit_usd": "500", "period": "month"}}),
    );
    law.put(Kind::Team, &json!({"name": "web", "customer": "acme"}));
    law.put(Kind::ToolGroup, &json!({"name": "support", "tools": ["search/*"]}));
    law.put(Kind::VirtualKey, &app());
    law
}

fn app() -> serde_json::Value {
    json!({
        "name": "app", "team": "web", "tool_groups": ["support"],
        "providers": [{"name": "openai", "models": ["*"], "budget": {"limit_usd": "9", "period": "day"}}],
        "budget": {"limit_usd": "50", "period": "month"}
    })
}

#[test]
fn what_was_written_is_found_by_name_by_secret_and_by_path() {
    let law = law();
    let row = law.state.get(Kind::VirtualKey, "app").expect("row");
    assert_eq!((row.id, row.version, row.created), (5, 5, UnixMillis(5 * SECOND)));
    let now = law.state.now();
    assert_eq!(law.state.key_by_hash(&hash("app"), now).expect("key").spec.name.as_str(), "app");
    assert!(law.state.key_by_hash(&hash("other"), now).is_none());
    let path = law.state.path("app").expect("path");
    assert_eq!(path.customer.expect("customer").spec.name.as_str(), "acme");
    let ids: Vec<_> = path.budgets().iter().map(ToString::to_string).collect();
    assert_eq!(ids, ["customer:acme:month", "virtual-key:app:month"]);
    assert_eq!(path.provider_budgets(0), [BudgetId::from("key-provider:app:openai:day")]);
    assert_eq!(law.state.budgets(now).count(), 3);
    assert_eq!(path.standing(now), Standing::Good);
}

#[test]
fn objects_are_listed_in_the_order_of_their_creation() {
    let mut law = Law::new();
    for name in ["zeta", "alpha", "mid"] {
        law.put(Kind::McpServer, &json!({"name": name, "transport": "stdio", "command": "x"}));
    }
    law.put(Kind::McpServer, &json!({"name": "zeta", "transport": "stdio", "command": "y"}));
    let names: Vec<_> =
        law.state.tables().mcp_servers.iter().map(|it| it.spec.name.to_string()).collect();
    assert_eq!(names, ["zeta", "alpha", "mid"]);
    let second = law.state.get(Kind::McpServer, "zeta").expect("row").id;
    assert_eq!(law.state.tables().rows(Kind::McpServer, second).count(), 2);
}

#[test]
fn a_command_that_comes_twice_is_applied_once_and_answered_alike() {
    let mut law = law();
    let command = |op| Command { request_id: 77, who: "admin".to_owned(), op };
    let first = command(Op::Put(Put {
        expect: Expect::Absent,
        ..put(Kind::Customer, &json!({"name": "new"}))
    }));
    let once = law.state.apply(At { index: 50, time: UnixMillis(0) }, &first);
    let twice = law.state.apply(At { index: 51, time: UnixMillis(0) }, &first);
    assert_eq!((once.index, &once.reply), (twice.index, &twice.reply));
    assert!(twice.changes.is_empty());
    assert_eq!(law.state.get(Kind::Customer, "new").expect("row").version, 50);
}

#[test]
fn time_never_goes_back() {
    let mut law = law();
    let tick = Command { request_id: 0, who: String::new(), op: Op::Tick };
    law.state.apply(At { index: 90, time: UnixMillis(90 * SECOND) }, &tick);
    law.state.apply(At { index: 91, time: UnixMillis(3) }, &tick);
    assert_eq!(law.state.now(), UnixMillis(90 * SECOND));
}

#[test]
fn what_a_write_expects_must_be_there() {
    let mut law = law();
    let with = |expect| Op::Put(Put { expect, ..put(Kind::Customer, &json!({"name": "acme"})) });
    let (kind, name) = (Kind::Customer, Name::from("acme"));
    assert_eq!(law.refused(with(Expect::Absent)), Refusal::Exists { kind, name: name.clone() });
    assert_eq!(
        law.refused(with(Expect::Version(1))),
        Refusal::Version { kind, name, expected: 1, found: 2 }
    );
    assert_eq!(law.written(with(Expect::Version(2)))[0].effect, Effect::Updated);
    let gone = Op::Delete(Delete { expect: Expect::Present, ..delete(Kind::Team, "nobody") });
    assert_eq!(law.refused(gone), Refusal::NotFound { kind: Kind::Team, name: "nobody".into() });
    assert_eq!(law.written(Op::Delete(delete(Kind::Team, "nobody"))), []);
}

#[test]
fn writing_what_is_there_already_changes_nothing() {
    let mut law = law();
    let outcome = law.put(Kind::VirtualKey, &app());
    assert!(outcome.changes.is_empty());
    assert_eq!(law.state.get(Kind::VirtualKey, "app").expect("row").version, 5);
    assert_eq!(law.state.audit().count(), 5);
}

#[test]
fn an_object_must_name_what_exists() {
    let mut law = law();
    let key = json!({"name": "k", "team": "nobody", "customer": "no", "tool_groups": ["none"],
        "providers": [{"name": "open*"}, {"name": "nope"}]});
    let Refusal::Invalid { problems } = law.refused(Op::Put(put(Kind::VirtualKey, &key))) else {
        panic!()
    };
    let paths: Vec<_> = problems.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(paths, ["team", "customer", "providers[1].name", "tool_groups[0]"]);
    assert!(problems[0].message.contains("there is no team `nobody`"));
}

#[test]
fn what_others_refer_to_is_not_deleted() {
    let mut law = law();
    let refusal = law.refused(Op::Delete(delete(Kind::Team, "web")));
    let by = vec!["virtual key app".to_owned()];
    assert_eq!(refusal, Refusal::InUse { kind: Kind::Team, name: "web".into(), by });
    // Once the key pays for itself, the team is free to go.
    law.put(Kind::VirtualKey, &json!({"name": "app"}));
    assert_eq!(law.written(Op::Delete(delete(Kind::Team, "web")))[0].effect, Effect::Deleted);
    assert!(law.state.get(Kind::Team, "web").is_none());
}

#[test]
fn an_mcp_server_whose_tools_are_named_is_not_deleted() {
    let mut law = law();
    law.put(Kind::McpServer, &json!({"name": "fs", "transport": "stdio", "command": "true"}));
    law.put(Kind::ToolGroup, &json!({"name": "reading", "tools": ["fs/list_directory", "*"]}));
    law.put(Kind::VirtualKey, &json!({"name": "k", "tools": ["fs/*"]}));
    law.put(Kind::VirtualKey, &json!({"name": "other", "tools": ["*", "fsx/a", "f*/a"]}));
    let refusal = law.refused(Op::Delete(delete(Kind::McpServer, "fs")));
    let by = vec!["tool group reading".to_owned(), "virtual key k".to_owned()];
    assert_eq!(refusal, Refusal::InUse { kind: Kind::McpServer, name: "fs".into(), by });
    // Who lets go of it in the same batch is no hindrance.
    let writes = vec![
        Write::Delete(delete(Kind::McpServer, "fs")),
        Write::Delete(delete(Kind::ToolGroup, "reading")),
        Write::Put(put(Kind::VirtualKey, &json!({"name": "k"}))),
    ];
    assert_eq!(law.written(Op::Batch(writes)).len(), 3);
    assert!(law.state.get(Kind::McpServer, "fs").is_none());
}

#[test]
fn a_batch_is_all_or_nothing_and_its_order_does_not_matter() {
    let mut law = law();
    let key = json!({"name": "k", "team": "late"});
    let writes = |team: &str| {
        vec![
            Write::Delete(delete(Kind::ToolGroup, "support")),
            Write::Put(put(Kind::VirtualKey, &json!({"name": "app", "team": "web"}))),
            Write::Put(put(Kind::VirtualKey, &key)),
            Write::Put(put(Kind::Team, &json!({"name": team}))),
        ]
    };
    let problem = Problem::new(
        "virtual_keys[k].team",
        "there is no team `late`: create it first, or name one that exists",
    );
    assert_eq!(
        law.refused(Op::Batch(writes("early"))),
        Refusal::Invalid { problems: vec![problem] }
    );
    assert_eq!(law.written(Op::Batch(writes("late"))).len(), 4);
    assert!(law.state.get(Kind::ToolGroup, "support").is_none());
}

#[test]
fn two_keys_never_have_the_same_secret() {
    let mut law = law();
    let same =
        Put { credential: Some(hash("app")), ..put(Kind::VirtualKey, &json!({"name": "other"})) };
    assert_eq!(law.refused(Op::Put(same)), Refusal::CredentialTaken { name: "other".into() });
    let rotate = Op::RotateKey {
        name: "app".into(),
        hash: hash("new"),
        old_valid_until: Some(UnixMillis(60 * SECOND)),
        expect: Expect::Any,
    };
    law.written(rotate);
    let old =
        Put { credential: Some(hash("app")), ..put(Kind::VirtualKey, &json!({"name": "other"})) };
    assert_eq!(law.refused(Op::Put(old)), Refusal::CredentialTaken { name: "other".into() });
}

#[test]
fn a_rotated_key_holds_with_both_secrets_until_the_overlap_ends() {
    let mut law = law();
    let end = UnixMillis(60 * SECOND);
    law.written(Op::RotateKey {
        name: "app".into(),
        hash: hash("new"),
        old_valid_until: Some(end),
        expect: Expect::Any,
    });
    let finds =
        |law: &Law, text: &str, now| law.state.key_by_hash(&hash(text), UnixMillis(now)).is_some();
    assert!(finds(&law, "new", 59 * SECOND) && finds(&law, "app", 59 * SECOND));
    assert!(finds(&law, "new", 60 * SECOND) && !finds(&law, "app", 60 * SECOND));
    let newest = |expect| {
        let (name, hash) = ("app".into(), hash("newest"));
        Op::RotateKey { name, hash, old_valid_until: None, expect }
    };
    let refused = law.refused(newest(Expect::Version(1)));
    assert!(matches!(refused, Refusal::Version { expected: 1, .. }), "{refused:?}");
    law.written(newest(Expect::Any));
    assert!(!finds(&law, "app", 1) && !finds(&law, "new", 1) && finds(&law, "newest", 1));
}

#[test]
fn a_secret_in_clear_never_enters_the_state() {
    let mut law = law();
    let clear =
        json!({"name": "p", "dialect": "openai", "keys": [{"name": "main", "value": "sk-clear"}]});
    let Refusal::Invalid { problems } = law.refused(Op::Put(put(Kind::Provider, &clear))) else {
        panic!()
    };
    assert_eq!(problems[0].path, "keys/main/value");
    let key = json!({"name": "given", "value": "sk-canary"});
    law.put(Kind::VirtualKey, &key);
    let records: Vec<u8> = law.state.to_records().flat_map(|it| it.1).collect();
    assert!(law.state.get(Kind::VirtualKey, "given").is_some());
    assert!(!String::from_utf8_lossy(&records).contains("sk-canary"));
    let command =
        Command { request_id: 1, who: String::new(), op: Op::Put(put(Kind::VirtualKey, &key)) };
    assert!(!String::from_utf8_lossy(&command.encode()).contains("sk-canary"));
}

#[test]
fn a_new_key_needs_a_secret_and_an_old_one_keeps_its_own() {
    let mut law = law();
    let without =
        |json: &serde_json::Value| Op::Put(Put { credential: None, ..put(Kind::VirtualKey, json) });
    let Refusal::Invalid { problems } = law.refused(without(&json!({"name": "k"}))) else {
        panic!()
    };
    assert_eq!(problems[0].path, "value");
    law.written(without(&json!({"name": "app", "enabled": false})));
    assert!(law.state.key_by_hash(&hash("app"), law.state.now()).is_some());
    assert_eq!(
        law.state.path("app").expect("path").standing(UnixMillis(0)),
        Standing::Disabled(crate::budget::Level::VirtualKey)
    );
    law.written(Op::Delete(delete(Kind::VirtualKey, "app")));
    assert!(law.state.key_by_hash(&hash("app"), law.state.now()).is_none());
    assert_eq!(law.state.budgets(law.state.now()).count(), 1, "its budgets go with it");
}

#[test]
fn an_expired_key_is_closed() {
    let mut law = law();
    law.put(Kind::VirtualKey, &json!({"name": "app", "expires_at": "1970-01-01T00:01:00Z"}));
    let path = law.state.path("app").expect("path");
    assert_eq!(path.standing(UnixMillis(59 * SECOND)), Standing::Good);
    assert_eq!(path.standing(UnixMillis(60 * SECOND)), Standing::Expired(UnixMillis(60 * SECOND)));
}

#[test]
fn what_is_set_once_is_not_set_again_by_who_expects_nothing() {
    let mut law = law();
    let set = |expect| Op::SetAdminKey { hash: hash("admin"), expect };
    assert!(law.apply(set(Expect::Absent)).changes.admin_key);
    assert_eq!(
        law.refused(set(Expect::Absent)),
        Refusal::AlreadySet { what: "admin key".to_owned() }
    );
    assert!(law.apply(set(Expect::Any)).changes.admin_key);
    let sealed = vec![1, 2, 3];
    law.apply(Op::SetClusterSecrets { sealed: sealed.clone(), expect: Expect::Absent });
    assert_eq!(law.state.cluster_secrets(), Some(sealed.as_slice()));
}

#[test]
fn tokens_of_a_server_go_with_it() {
    let mut law = law();
    let tokens = || Op::PutOauth { server: "crm".into(), sealed: "sealed".to_owned() };
    assert!(matches!(law.refused(tokens()), Refusal::NotFound { .. }));
    law.put(Kind::McpServer, &json!({"name": "crm", "transport": "http", "url": "https://x/mcp"}));
    law.apply(tokens());
    assert_eq!(law.state.oauth("crm"), Some("sealed"));
    let outcome = law.apply(Op::Delete(delete(Kind::McpServer, "crm")));
    assert!(outcome.changes.oauth.contains("crm"));
    assert_eq!(law.state.oauth("crm"), None);
}

#[test]
fn the_audit_shows_every_write_and_where_it_was_tampered_with() {
    let mut law = law();
    law.written(Op::Delete(delete(Kind::VirtualKey, "app")));
    let mut entries: Vec<_> = law.state.audit().entries().cloned().collect();
    let last = entries.last().expect("entry");
    assert_eq!(
        (last.action.as_str(), last.kind.as_str(), last.name.as_str()),
        ("deleted", "virtual-keys", "app")
    );
    assert_eq!((last.before, last.after), (entries[4].after, None));
    assert_eq!(last.chain, law.state.audit().head());
    assert_eq!(audit::verify(&entries), Ok(()));
    entries[2].who = "somebody else".to_owned();
    assert_eq!(audit::verify(&entries), Err(audit::Broken { number: 3 }));
    entries.remove(2);
    assert_eq!(audit::verify(&entries), Err(audit::Broken { number: 4 }));
}

#[test]
fn a_limit_may_change_and_a_period_may_not_without_starting_anew() {
    let mut law = law();
    let with = |limit: &str, period: &str| json!({"name": "acme", "budget": {"limit_usd": limit, "period": period}});
    let outcome = law.put(Kind::Customer, &with("700", "month"));
    assert!(outcome.changes.budgets.contains("customer:acme:month"));
    let view = law.state.budget("customer:acme:month", law.state.now()).expect("view");
    assert_eq!((view.limit, view.epoch), (NanoUsd(700_000_000_000), 2));
    law.put(Kind::Customer, &with("700", "week"));
    assert!(law.state.budget("customer:acme:month", law.state.now()).is_none());
    assert_eq!(law.state.budget("customer:acme:week", law.state.now()).expect("view").epoch, 7);
}

#[test]
fn a_clone_of_a_large_state_stays_as_it_was() {
    let mut law = Law::new();
    let writes = |from: u64| {
        (from..from + 1_000)
            .map(|it| {
                Write::Put(put(
                    Kind::VirtualKey,
                    &json!({"name": format!("k{it}"), "budget": {"limit_usd": "1"}}),
                ))
            })
            .collect()
    };
    for thousand in 0..20 {
        law.written(Op::Batch(writes(thousand * 1_000)));
    }
    assert_eq!(law.state.tables().virtual_keys.len(), 20_000);
    let before = law.state.clone();
    law.written(Op::Delete(delete(Kind::VirtualKey, "k7")));
    assert!(before.get(Kind::VirtualKey, "k7").is_some(), "a clone is a state of its own");
}
