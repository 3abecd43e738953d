use std::sync::Arc;
use std::sync::atomic::Ordering;

use althing_domain::command::{Command, Delete, Expect, Op, Put};
use althing_domain::digest::Digest;
use althing_domain::id::Name;
use althing_domain::object::{Kind, Object};
use althing_domain::state::{At, State};
use althing_domain::time::UnixMillis;
use arc_swap::ArcSwap;
use serde_json::{Value, json};

use super::{Changes, Compiler};
use crate::admit::Cells;
use crate::control::view::{Standing, View};
use crate::secret::NodeResolver;

/// A law and what is compiled of it.
struct Law {
    state: State,
    cells: Arc<Cells>,
    compiler: Compiler,
    views: Arc<ArcSwap<View>>,
}

/// Stands for the keyed hash.
fn hash(shown: &[u8]) -> [u8; 32] {
    std::array::from_fn(|at| shown.get(at).copied().unwrap_or(0))
}

impl Law {
    fn new() -> Self {
        let (cells, _) = Cells::new();
        let secrets = Arc::new(NodeResolver::new(Box::new(|_, _| None)));
        let mut compiler = Compiler::new(Arc::clone(&cells), secrets, Arc::new(hash));
        let state = State::new();
        compiler.rebuild(&state);
        let views = compiler.views();
        Self { state, cells, compiler, views }
    }

    fn applied(&mut self, op: Op) -> Changes {
        let index = self.state.index() + 1;
        let command = Command { request_id: u128::from(index), who: String::new(), op };
        let outcome = self.state.apply(At { index, time: UnixMillis(1) }, &command);
        assert!(!outcome.changes.is_empty(), "{:?}", outcome.reply);
        outcome.changes
    }

    fn apply(&mut self, op: Op) {
        let changes = self.applied(op);
        self.compiler.update(&self.state, &changes);
    }

    fn put(&mut self, kind: Kind, json: Value, shown: Option<&str>) {
        self.apply(put(kind, json, shown));
    }

    fn view(&self) -> Arc<View> {
        self.views.load_full()
    }
}

fn put(kind: Kind, json: Value, shown: Option<&str>) -> Op {
    let object = Object::deserialize_as(kind, json).unwrap();
    let credential = shown.map(|it| Digest(hash(it.as_bytes())));
    Op::Put(Put { object, expect: Expect::Any, credential })
}

fn key(name: &str, limit: &str) -> Value {
    json!({ "name": name, "team": "web", "tools": ["a/*"], "budget": { "limit_usd": limit }, "rate": { "requests": 5 } })
}

fn law_of_two() -> Law {
    let mut law = Law::new();
    law.put(Kind::Team, json!({ "name": "web", "budget": { "limit_usd": "9" } }), None);
    law.put(Kind::VirtualKey, key("one", "1"), Some("first"));
    law.put(Kind::VirtualKey, key("two", "2"), Some("second"));
    law
}

#[test]
fn a_key_is_compiled_when_it_is_first_used_and_once() {
    let law = law_of_two();
    assert_eq!(law.cells.len(), (0, 0), "nobody has used a key");
    let before = law.view();
    let (one, not_after) = before.key("first").unwrap();
    assert_eq!((one.name.as_str(), not_after, law.cells.len()), ("one", None, (2, 1)));
    let budgets = one.limits.budgets();
    let settled: Vec<_> = budgets.iter().map(|it| it.view().0.unwrap().limit.0).collect();
    assert_eq!(settled, [9_000_000_000, 1_000_000_000], "what the law says of them is known");
    for view in [&before, &law.view()] {
        assert!(Arc::ptr_eq(&one, &view.key("first").unwrap().0));
        assert!(Arc::ptr_eq(&one, &view.key_named("one").unwrap()));
        assert!(view.key("third").is_none() && view.key_named("three").is_none());
    }
    let two = law.view().key("second").unwrap().0;
    assert!(Arc::ptr_eq(&one.limits.budgets()[0], &two.limits.budgets()[0]), "the team's is one");
    assert!(Arc::ptr_eq(&one.tools, &two.tools), "equal parts are in memory once");
}

#[test]
fn a_change_holds_for_keys_in_use_and_for_those_that_were_never_used() {
    let mut law = law_of_two();
    let early = law.view();
    let one = early.key("first").unwrap().0;
    one.in_flight.fetch_add(1, Ordering::Relaxed);
    law.put(Kind::VirtualKey, key("one", "7"), None);
    let now = law.view().key("first").unwrap().0;
    assert_eq!(now.in_flight.load(Ordering::Relaxed), 1, "its requests still count");
    let cells = [&one, &now].map(|it| &it.limits.budgets()[1]);
    assert!(Arc::ptr_eq(cells[0], cells[1]));
    assert_eq!(cells[0].limit().0, 7_000_000_000);

    law.put(Kind::Team, json!({ "name": "web", "enabled": false }), None);
    let disabled = Standing::Disabled("the key's team is disabled");
    for shown in ["first", "second"] {
        assert_eq!(law.view().key(shown).unwrap().0.standing, disabled);
        assert_eq!(law.view().key(shown).unwrap().0.limits.budgets().len(), 1);
    }
    // Whoever still holds the view of before and uses the key for the first time gets what holds by now.
    let mut law = law_of_two();
    let early = law.view();
    law.put(Kind::VirtualKey, key("two", "5"), None);
    assert_eq!(early.key("second").unwrap().0.limits.budgets()[1].limit().0, 5_000_000_000);
    let name = Name::new("one");
    law.apply(Op::Delete(Delete { kind: Kind::VirtualKey, name, expect: Expect::Any }));
    assert!(early.key("first").is_none() && law.view().key("first").is_none());
    let name = Name::new("two");
    law.apply(Op::Delete(Delete { kind: Kind::VirtualKey, name, expect: Expect::Any }));
    assert!(law.view().key("second").is_none() && law.view().key_named("two").is_none());
    drop(early);
    law.put(Kind::Team, json!({ "name": "web" }), None);
    assert_eq!(law.cells.len(), (0, 0), "nothing is left of them");
}

#[test]
fn a_value_that_went_to_another_key_is_that_keys() {
    let mut law = law_of_two();
    assert_eq!(law.view().key("first").unwrap().0.name.as_str(), "one");
    assert_eq!(law.view().key("second").unwrap().0.name.as_str(), "two");
    // Applied together: the first is compiled from a law that has the second already.
    let changes = [
        put(Kind::VirtualKey, key("one", "1"), Some("other")),
        put(Kind::VirtualKey, key("two", "2"), Some("first")),
    ]
    .map(|op| law.applied(op));
    changes.iter().for_each(|it| law.compiler.update(&law.state, it));
    let named = |shown: &str| law.view().key(shown).map(|it| it.0.name.as_str().to_owned());
    assert_eq!(named("other").as_deref(), Some("one"));
    assert_eq!(named("first").as_deref(), Some("two"));
    assert_eq!(named("second"), None);
    // After a snapshot, too.
    law.compiler.rebuild(&State::new());
    assert!(law.view().key("first").is_none() && law.view().key("other").is_none());
}
