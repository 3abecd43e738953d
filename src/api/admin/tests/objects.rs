use althing_domain::command::{Expect, Op, Put};
use althing_domain::object::{Kind, Object};
use http::Method;
use serde_json::{Value, json};

use super::{CANARY, Node};

fn provider() -> Value {
    json!({
        "name": "openai",
        "keys": [{ "name": "main", "value": CANARY }, { "name": "spare", "value": "env:ALLOWED_KEY" }],
        "headers": { "x-org": CANARY },
    })
}

#[tokio::test]
async fn an_object_is_created_shown_changed_and_deleted() {
    let node = Node::new().await;
    let made = node
        .post(
            "/api/customers",
            json!({ "name": "acme", "budget": { "limit_usd": 500, "period": "month" } }),
        )
        .await
        .expect(201);
    assert_eq!(made.body["object"]["budget"][0]["limit_usd"], "500");
    assert!(made.body["index"].is_u64() && made.body["certain_by"].is_string());
    let tag = made.headers["etag"].to_str().expect("an ETag").to_owned();
    assert_eq!(made.headers["althing-index"], made.body["index"].to_string().as_str());

    let shown = node.get("/api/customers/acme").await.expect(200);
    assert_eq!(shown.headers["etag"], tag.as_str());
    let id = shown.body["id"].to_string();
    assert_eq!(node.get(&format!("/api/customers/{id}")).await.expect(200).body, shown.body);

    let changed =
        node.patch("/api/customers/acme", json!({ "rate": { "requests": 10 } })).await.expect(200);
    assert_eq!(changed.body["object"]["rate"]["requests"], 10);
    assert_eq!(changed.body["object"]["budget"][0]["limit_usd"], "500", "the rest stays");
    let removed = node.patch("/api/customers/acme", json!({ "rate": null })).await.expect(200);
    assert_eq!(removed.body["object"].get("rate"), None);

    let stale =
        node.ask(Method::PUT, "/api/customers/acme", r#"{"name":"acme"}"#, Some(&tag)).await;
    assert_eq!((stale.status.as_u16(), stale.code()), (412, "version_mismatch"));
    let now = removed.headers["etag"].to_str().expect("an ETag").to_owned();
    node.ask(Method::PUT, "/api/customers/acme", "{}", Some(&now)).await.expect(200);
    node.ask(Method::DELETE, "/api/customers/acme", "", Some(&now)).await.expect(412);
    assert_eq!(node.delete("/api/customers/acme").await.expect(200).body["object"]["name"], "acme");
    node.get("/api/customers/acme").await.expect(404);
    node.delete("/api/customers/acme").await.expect(404);
}

#[tokio::test]
async fn who_does_not_say_if_match_is_not_refused_for_what_came_in_between() {
    let node = Node::new().await;
    node.post("/api/teams", json!({ "name": "web" })).await.expect(201);
    let other = |enabled| {
        let json = json!({ "name": "web", "enabled": enabled });
        let object = Object::deserialize_as(Kind::Team, json).expect("a team");
        Op::Put(Put { object, expect: Expect::Any, credential: None })
    };
    // Twice in a row somebody else was quicker.
    *node.law.meanwhile.lock() = vec![other(true), other(false)];
    let rate = json!({ "rate": { "requests": 10, "per": "1m" } });
    node.patch("/api/teams/web", rate).await.expect(200);
    *node.law.meanwhile.lock() = vec![other(false)];
    let patched = node.post("/api/teams/web/enable", json!({})).await.expect(200);
    assert_eq!(patched.body["object"]["enabled"], true);
    *node.law.meanwhile.lock() = vec![other(true)];
    node.put("/api/teams/web", json!({ "enabled": false })).await.expect(200);
    assert_eq!(node.get("/api/teams/web").await.body["enabled"], false);

    let tag = node.get("/api/teams/web").await.headers["etag"].to_str().expect("tag").to_owned();
    *node.law.meanwhile.lock() = vec![other(true)];
    node.ask(Method::PATCH, "/api/teams/web", r#"{"enabled":false}"#, Some(&tag)).await.expect(412);
    assert_eq!(node.law.meanwhile.lock().len(), 0);
}

#[tokio::test]
async fn a_key_that_was_changed_since_is_not_rotated() {
    let node = Node::new().await;
    let made = node.post("/api/virtual-keys", json!({ "name": "app" })).await.expect(201);
    let tag = made.headers["etag"].to_str().expect("an ETag").to_owned();
    let key = made.body["key"].as_str().expect("a key").to_owned();
    node.patch("/api/virtual-keys/app", json!({ "description": "another" })).await.expect(200);
    let path = "/api/virtual-keys/app/rotate";
    let stale = node.ask(Method::POST, path, "{}", Some(&tag)).await.expect(412);
    assert_eq!(stale.code(), "version_mismatch");
    assert_eq!(node.key_by(&key).as_deref(), Some("app"), "the key holds");
    let now =
        node.get("/api/virtual-keys/app").await.headers["etag"].to_str().expect("tag").to_owned();
    node.ask(Method::POST, path, "{}", Some(&now)).await.expect(200);
    assert_eq!(node.key_by(&key), None);
}

#[tokio::test]
async fn what_was_read_can_be_written_back_as_it_is_and_keeps_its_secrets() {
    let node = Node::new().await;
    let made = node.post("/api/providers", provider()).await.expect(201);
    assert_eq!(made.body["object"]["keys"][0]["value"], json!({ "set": true }));
    assert_eq!(made.body["object"]["keys"][1]["value"], "env:ALLOWED_KEY");
    assert_eq!(made.body["object"]["headers"]["x-org"], json!({ "set": true }));

    let read = node.get("/api/providers/openai").await.expect(200);
    let back = node.put("/api/providers/openai", read.body.clone()).await.expect(200);
    assert_eq!(back.body["object"], read.body, "nothing changed, not even the version");
    let again = node.put("/api/providers/openai", provider()).await.expect(200);
    assert_eq!(again.body["object"], read.body, "the same value again is no change");

    let mut reordered = read.body.clone();
    reordered["keys"].as_array_mut().expect("keys").reverse();
    node.put("/api/providers/openai", reordered).await.expect(200);
    node.patch("/api/providers/openai", json!({ "timeout": "5s" })).await.expect(200);
    let stored = node.law_secret("openai");
    assert_eq!(stored, CANARY);
    for path in ["/api/providers", "/api/providers/openai", "/api/export", "/api/status"] {
        assert!(!node.get(path).await.text.contains(CANARY), "{path}");
    }
}

#[tokio::test]
async fn a_reference_that_the_node_does_not_allow_is_refused_by_its_path() {
    let node = Node::new().await;
    let bad = json!({ "name": "openai", "keys": [{ "name": "main", "value": "file:/etc/shadow" }], "headers": { "x-a": "env:HOME" } });
    let answer = node.post("/api/providers", bad).await.expect(400);
    let paths: Vec<&str> = answer.body["error"]["problems"]
        .as_array()
        .expect("problems")
        .iter()
        .filter_map(|it| it["path"].as_str())
        .collect();
    assert_eq!(paths, ["keys.main.value", "headers.x-a"]);
    assert!(answer.text.contains("secrets.allow"));
    let forged = json!({ "name": "openai", "headers": { "x-a": "sealed:not-ours" } });
    node.post("/api/providers", forged).await.expect(400);
}

#[tokio::test]
async fn a_sealed_value_is_of_no_use_at_another_place() {
    let node = Node::new().await;
    let key = |name: &str, value: &str| json!([{ "name": name, "value": value }]);
    let provider = json!({ "name": "openai", "keys": key("main", CANARY) });
    node.post("/api/providers", provider).await.expect(201);
    let export = node.get("/api/export?format=json").await.expect(200).body;
    let sealed = export["providers"][0]["keys"][0]["value"].as_str().expect("sealed").to_owned();
    assert!(sealed.starts_with("sealed:"), "{sealed}");
    // An object of its own, with an address of its own, would have it sent there.
    for (path, body) in [
        (
            "/api/providers",
            json!({ "name": "mine", "dialect": "openai", "base_url": "https://mine.example", "keys": key("main", &sealed) }),
        ),
        (
            "/api/providers",
            json!({ "name": "two", "dialect": "openai", "base_url": "https://mine.example", "keys": key("other", &sealed) }),
        ),
        (
            "/api/mcp-servers",
            json!({ "name": "openai", "transport": "http", "url": "https://mine.example", "headers": { "a": sealed } }),
        ),
    ] {
        let answer = node.post(path, body).await.expect(400);
        assert!(answer.text.contains("for another place"), "{}", answer.text);
    }
    let moved = json!({ "headers": { "x-a": sealed } });
    node.patch("/api/providers/openai", moved).await.expect(400);
    // Where it belongs it is taken, also after the object was deleted.
    let again = json!({ "name": "openai", "keys": key("main", &sealed) });
    node.put("/api/providers/openai", again.clone()).await.expect(200);
    node.delete("/api/providers/openai").await.expect(200);
    node.post("/api/providers", again).await.expect(201);
    assert_eq!(node.law_secret("openai"), CANARY);
}

#[tokio::test]
async fn what_an_earlier_build_sealed_is_taken_and_bound_where_it_is_written() {
    let node = Node::new().await;
    let bound_to_nothing: String =
        format!("\n{CANARY}").bytes().rev().map(|it| format!("{it:02x}")).collect();
    let old = format!("sealed:{bound_to_nothing}");
    let file =
        json!({ "providers": [{ "name": "openai", "keys": [{ "name": "main", "value": old }] }] });
    node.apply("/api/apply", &file.to_string()).await.expect(200);
    assert_eq!(node.law_secret("openai"), CANARY);
    let export = node.get("/api/export?format=json").await.expect(200);
    assert!(!export.text.contains(&format!("{old}\"")), "{}", export.text);
    // The old file is no difference for ever.
    let again = node.apply("/api/diff", &file.to_string()).await.expect(200);
    assert_eq!(again.body["changed"], json!([]), "{}", again.text);
}

#[tokio::test]
async fn everything_that_is_wrong_is_told_at_once() {
    let node = Node::new().await;
    let bad =
        json!({ "name": "no-hyphen", "transport": "stdio", "comand": "x", "timeout": "soon" });
    let answer = node.post("/api/mcp-servers", bad).await.expect(400);
    let problems = answer.body["error"]["problems"].as_array().expect("problems");
    assert!(2 <= problems.len(), "{}", answer.text);
    assert!(answer.text.contains("`command`"), "the nearest known field: {}", answer.text);
    assert_eq!(answer.body["error"]["code"], "invalid_field");
    assert_eq!(
        node.post("/api/teams", json!({ "name": "web", "customer": "nobody" }))
            .await
            .expect(400)
            .body["error"]["param"],
        "customer"
    );
    assert_eq!(
        node.ask(Method::POST, "/api/teams", "{\"name\":", None).await.expect(400).code(),
        "invalid_json"
    );
    assert_eq!(
        node.ask(Method::POST, "/api/teams", r#"{"name":"a","name":"b"}"#, None)
            .await
            .expect(400)
            .code(),
        "duplicate_field"
    );
}

#[tokio::test]
async fn a_name_that_is_taken_or_used_by_others_is_a_conflict() {
    let node = Node::new().await;
    node.post("/api/customers", json!({ "name": "acme" })).await.expect(201);
    assert_eq!(
        node.post("/api/customers", json!({ "name": "acme" })).await.expect(409).code(),
        "conflict"
    );
    node.post("/api/teams", json!({ "name": "web", "customer": "acme" })).await.expect(201);
    let refused = node.delete("/api/customers/acme").await.expect(409);
    assert!(refused.text.contains("team web"), "{}", refused.text);
    let renamed = node.patch("/api/customers/acme", json!({ "name": "other" })).await.expect(400);
    assert_eq!(renamed.body["error"]["param"], "name");
}

#[tokio::test]
async fn a_key_is_made_and_shown_once_and_only_its_hash_is_kept() {
    let node = Node::new().await;
    let made =
        node.post("/api/virtual-keys", json!({ "name": "app", "tools": ["*"] })).await.expect(201);
    let key = made.body["key"].as_str().expect("the key").to_owned();
    assert!(key.starts_with("sk-al-"), "{key}");
    assert_eq!(node.key_by(&key).as_deref(), Some("app"));
    for path in ["/api/virtual-keys/app", "/api/virtual-keys", "/api/export"] {
        assert!(!node.get(path).await.expect(200).text.contains(&key), "{path}");
    }
    let changed =
        node.patch("/api/virtual-keys/app", json!({ "description": "the app" })).await.expect(200);
    assert_eq!(changed.body.get("key"), None);
    assert_eq!(node.key_by(&key).as_deref(), Some("app"), "a change keeps the secret");

    let given = format!("sk-bf-{CANARY}");
    let own =
        node.post("/api/virtual-keys", json!({ "name": "own", "value": given })).await.expect(201);
    assert_eq!(own.body.get("key"), None);
    assert_eq!(node.key_by(&given).as_deref(), Some("own"));
    let taken = node
        .post("/api/virtual-keys", json!({ "name": "thief", "value": given }))
        .await
        .expect(409);
    assert!(!taken.text.contains(CANARY));
    node.post("/api/virtual-keys", json!({ "name": "short", "value": "abc" })).await.expect(400);
}

#[tokio::test]
async fn a_rotated_key_holds_twice_for_as_long_as_was_said() {
    let node = Node::new().await;
    let old =
        node.post("/api/virtual-keys", json!({ "name": "app" })).await.expect(201).body["key"]
            .as_str()
            .expect("a key")
            .to_owned();
    let rotated =
        node.post("/api/virtual-keys/app/rotate", json!({ "overlap": "24h" })).await.expect(200);
    let new = rotated.body["key"].as_str().expect("a key").to_owned();
    assert_eq!(
        (node.key_by(&old), node.key_by(&new)),
        (Some("app".to_owned()), Some("app".to_owned()))
    );
    assert!(rotated.body["old_valid_until"].is_string());

    let at_once =
        node.ask(Method::POST, "/api/virtual-keys/app/rotate", "", None).await.expect(200);
    assert_eq!((node.key_by(&old), node.key_by(&new)), (None, None));
    assert_eq!(node.key_by(at_once.body["key"].as_str().expect("a key")).as_deref(), Some("app"));
    node.post("/api/virtual-keys/app/rotate", json!({ "overlap": "900d" })).await.expect(400);
    node.post("/api/virtual-keys/app/rotate", json!({ "overlpa": "1h" })).await.expect(400);
    node.post("/api/virtual-keys/none/rotate", json!({})).await.expect(404);
}

#[tokio::test]
async fn a_rehearsal_says_what_would_change_and_changes_nothing() {
    let node = Node::new().await;
    let would = node.post("/api/teams?dry_run=1", json!({ "name": "web" })).await.expect(200);
    assert_eq!((&would.body["effect"], &would.body["dry_run"]), (&json!("created"), &json!(true)));
    node.get("/api/teams/web").await.expect(404);
    node.post("/api/teams", json!({ "name": "web" })).await.expect(201);
    let would =
        node.patch("/api/teams/web?dry_run=1", json!({ "enabled": false })).await.expect(200);
    assert_eq!(would.body["changes"][0]["path"], "enabled");
    assert_eq!(node.get("/api/teams/web").await.expect(200).body["enabled"], true);
    node.delete("/api/teams/web?dry_run=1").await.expect(200);
    node.get("/api/teams/web").await.expect(200);
    node.post("/api/teams?dry_run=1", json!({ "name": "web" })).await.expect(409);
    node.post("/api/teams?dry_run=maybe", json!({ "name": "x" })).await.expect(400);
}

#[tokio::test]
async fn a_list_comes_in_pages_and_can_be_searched() {
    let node = Node::new().await;
    for number in 0..5 {
        node.post("/api/teams", json!({ "name": format!("Team{number}") })).await.expect(201);
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = node.get(&format!("/api/teams?limit=2{cursor}")).await.expect(200);
        seen.extend(
            page.body["items"].as_array().expect("items").iter().map(|it| it["name"].clone()),
        );
        let Some(next) = page.body["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, ["Team0", "Team1", "Team2", "Team3", "Team4"]);
    let found = node.get("/api/teams?search=tEAM3").await.expect(200);
    assert_eq!(found.body["items"].as_array().map(Vec::len), Some(1));
    node.get("/api/teams?cursor=nonsense").await.expect(400);
}

#[tokio::test]
async fn servers_and_keys_are_switched_off_and_on() {
    let node = Node::new().await;
    node.post(
        "/api/mcp-servers",
        json!({ "name": "files", "transport": "stdio", "command": ["true"] }),
    )
    .await
    .expect(201);
    assert_eq!(
        node.get("/api/mcp-servers/files/tools").await.expect(200).body["items"][0]["policy_name"],
        "files/read"
    );
    assert_eq!(
        node.post("/api/mcp-servers/files/reconnect", json!({})).await.expect(200).body["server"]["state"],
        "ready"
    );
    assert!(node.post("/api/mcp-servers/files/authorize", json!({})).await.expect(200).body["authorize_url"].is_string());
    let off = node.post("/api/mcp-servers/files/disable", json!({})).await.expect(200);
    assert_eq!(off.body["object"]["enabled"], false);
    node.post("/api/mcp-servers/files/reconnect", json!({})).await.expect(409);
    node.post("/api/mcp-servers/files/enable", json!({})).await.expect(200);
    node.post("/api/mcp-servers/none/reconnect", json!({})).await.expect(404);
    node.post("/api/tool-groups/none/enable", json!({})).await.expect(404);
}

#[tokio::test]
async fn budgets_show_where_the_money_is() {
    let node = Node::new().await;
    node.post(
        "/api/virtual-keys",
        json!({ "name": "app", "budget": { "limit_usd": "50", "period": "month" } }),
    )
    .await
    .expect(201);
    let list = node.get("/api/budgets").await.expect(200);
    let budget = &list.body["items"][0];
    assert_eq!(
        (&budget["limit"], &budget["settled"], &budget["outstanding"], &budget["available"]),
        (&json!("50"), &json!("0"), &json!("0"), &json!("50"))
    );
    assert!(budget["resets_at"].as_str().is_some_and(|it| it.ends_with('Z')), "{budget}");
    let one = node.get("/api/budgets/virtual-key:app:month").await.expect(200);
    assert_eq!(&one.body, budget);
    node.get("/api/budgets/none").await.expect(404);
}

impl Node {
    /// The first sealed key of a provider, opened.
    fn law_secret(&self, provider: &str) -> String {
        use secrecy::ExposeSecret;

        let state = super::Law::state(self.law.as_ref());
        let row = state.tables().providers.get(provider).expect("the provider");
        let key = row.spec.keys.iter().find(|it| it.name.as_str() == "main").expect("the key");
        let althing_domain::secret::Form::Sealed(sealed) = key.value.form() else {
            panic!("not sealed")
        };
        let place = super::Place { kind: Kind::Provider, name: provider, field: "keys/main/value" };
        let opened = super::Law::open(self.law.as_ref(), sealed, &place).expect("opens");
        opened.expose_secret().to_owned()
    }
}

#[tokio::test]
async fn a_patch_of_the_one_budget_leaves_what_it_does_not_name_and_of_several_says_which_it_needs()
{
    let node = Node::new().await;
    let budget = json!({ "limit_usd": "1", "period": "month", "time_zone": "Europe/Berlin", "mode": "soft" });
    node.post("/api/teams", json!({ "name": "web", "budget": budget })).await.expect(201);
    let patched = node.patch("/api/teams/web", json!({ "budget": { "limit_usd": "2" } })).await;
    let mut expected = budget.clone();
    expected["limit_usd"] = json!("2");
    assert_eq!(patched.expect(200).body["object"]["budget"], json!([expected]));
    let hard =
        node.patch("/api/teams/web", json!({ "budget": { "mode": null } })).await.expect(200);
    assert_eq!(hard.body["object"]["budget"][0]["mode"], "strict");
    assert_eq!(hard.body["object"]["budget"][0]["period"], "month");

    let several = json!({ "budget": [budget, { "limit_usd": "9", "period": "day" }] });
    node.patch("/api/teams/web", several).await.expect(200);
    let refused = node.patch("/api/teams/web", json!({ "budget": { "limit_usd": "3" } })).await;
    let refused = refused.expect(400);
    assert!(refused.text.contains("there are several"), "{}", refused.text);
    let none = node.patch("/api/teams/web", json!({ "budget": null })).await.expect(200);
    assert_eq!(none.body["object"]["budget"], json!([]));
}
