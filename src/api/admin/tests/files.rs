use http::Method;
use serde_json::json;

use super::{CANARY, Node, start};

fn file() -> String {
    format!(
        "
node: {{ name: a }}
providers:
  - {{ name: openai, keys: [{{ name: main, value: {CANARY} }}] }}
customers: [{{ name: acme, budget: {{ limit_usd: \"500\", period: month }} }}]
teams: [{{ name: web, customer: acme }}]
virtual_keys:
  - {{ name: app, team: web, value: sk-bf-{CANARY}, providers: [{{ name: openai, models: [\"*\"] }}] }}
  - {{ name: made, team: web }}
"
    )
}

impl Node {
    pub(super) async fn apply(&self, path: &str, text: &str) -> super::Answer {
        self.ask(Method::POST, path, text, None).await
    }
}

#[tokio::test]
async fn a_file_is_applied_once_and_the_second_time_changes_nothing() {
    let node = Node::new().await;
    let first = node.apply("/api/apply", &file()).await.expect(200);
    assert_eq!(first.body["added"].as_array().map(Vec::len), Some(5));
    let key = first.body["keys"]["made"].as_str().expect("a key that was made").to_owned();
    assert_eq!(node.key_by(&key).as_deref(), Some("made"));
    assert_eq!(node.key_by(&format!("sk-bf-{CANARY}")).as_deref(), Some("app"));

    let second = node.apply("/api/apply", &file()).await.expect(200);
    assert_eq!(
        (&second.body["added"], &second.body["changed"]),
        (&json!([]), &json!([])),
        "{}",
        second.text
    );
    assert_eq!(second.body["index"], first.body["index"]);
    assert_eq!(node.key_by(&key).as_deref(), Some("made"), "a key that was made stays");
    assert!(!second.text.contains(CANARY) && !first.text.contains(CANARY));
}

#[tokio::test]
async fn a_difference_is_shown_field_by_field_and_what_the_file_does_not_name_stays_unless_pruned()
{
    let node = Node::new().await;
    node.apply("/api/apply", &file()).await.expect(200);
    node.post("/api/teams", json!({ "name": "ops" })).await.expect(201);
    let changed = file()
        .replace("\"500\"", "\"900\"")
        .replace(&format!("value: {CANARY}"), "value: another-secret-value");
    let diff = node.apply("/api/diff", &changed).await.expect(200);
    let text = diff.text.clone();
    assert!(text.contains("budget") && text.contains("\"900\""), "{text}");
    assert!(!text.contains("another-secret-value") && !text.contains(CANARY), "{text}");
    let unnamed = json!([{ "kind": "teams", "name": "ops" }]);
    assert_eq!((&diff.body["removed"], &diff.body["kept"]), (&json!([]), &unnamed));
    let pruned = node.apply("/api/diff?prune=1", &changed).await.expect(200);
    assert_eq!((&pruned.body["removed"], pruned.body.get("kept")), (&unnamed, None));

    let rehearsed = node.apply("/api/apply?dry_run=1", &changed).await.expect(200);
    assert_eq!(rehearsed.body["dry_run"], true);
    let applied = node.apply("/api/apply", &changed).await.expect(200);
    assert_eq!(applied.body["kept"], json!([{ "kind": "teams", "name": "ops" }]));
    node.get("/api/teams/ops").await.expect(200);
    node.apply("/api/apply?prune=1", &changed).await.expect(200);
    node.get("/api/teams/ops").await.expect(404);
}

#[tokio::test]
async fn a_file_that_is_wrong_in_several_places_is_refused_whole() {
    let node = Node::new().await;
    let bad = "
customers: [{ name: acme, budgte: 1 }]
teams: [{ name: web, custmer: nobody }]
providers: [{ name: openai, keys: [{ name: main, value: 'env:HOME' }] }]
";
    let answer = node.apply("/api/apply", bad).await.expect(400);
    assert!(
        2 <= answer.body["error"]["problems"].as_array().map_or(0, Vec::len),
        "{}",
        answer.text
    );
    assert!(answer.text.contains("budget"), "{}", answer.text);
    node.get("/api/customers/acme").await.expect(404);

    let not_allowed = "providers: [{ name: openai, keys: [{ name: main, value: 'env:HOME' }] }]";
    let answer = node.apply("/api/apply", not_allowed).await.expect(400);
    assert_eq!(answer.body["error"]["param"], "providers[openai].keys.main.value");
}

#[tokio::test]
async fn settings_of_the_node_are_compared_and_what_is_wrong_with_them_is_named() {
    let node = Node::new().await;
    let same = node.apply("/api/apply", "limits: { body: 32MiB }\nteams: [{ name: web }]").await;
    assert_eq!(same.expect(200).body["settings"], json!([]));
    let others = "limits: { body: 1MiB }\npolicy_lease: 3s\nauth: keys\nadmin: { key: sk-canary }";
    for path in ["/api/diff", "/api/apply", "/api/apply?dry_run=1"] {
        let told = node.apply(path, others).await.expect(200);
        let paths: Vec<_> = told.body["settings"]
            .as_array()
            .expect("settings")
            .iter()
            .map(|it| it["path"].clone())
            .collect();
        assert_eq!(paths, ["admin.key", "limits.body"], "{}", told.text);
        assert!(!told.text.contains("sk-canary"), "{}", told.text);
    }
    let wrong = node.apply("/api/apply", "limits: { boddy: 1MiB, header: much }").await.expect(400);
    let problems = wrong.body["error"]["problems"].as_array().map_or(0, Vec::len);
    assert!(problems == 2 && wrong.text.contains("`body`"), "{}", wrong.text);
}

#[tokio::test]
async fn an_export_applied_to_the_same_law_changes_nothing() {
    let node = Node::new().await;
    node.apply("/api/apply", &file()).await.expect(200);
    for format in ["json", "yaml"] {
        let export = node.get(&format!("/api/export?format={format}")).await.expect(200);
        assert!(!export.text.contains(CANARY));
        let again = node.apply("/api/apply", &export.text).await.expect(200);
        let none = json!([]);
        assert_eq!(
            (&again.body["added"], &again.body["changed"], &again.body["kept"]),
            (&none, &none, &none),
            "{format}"
        );
    }
    node.get("/api/export?format=xml").await.expect(400);
}

#[tokio::test]
async fn texts_that_yaml_could_take_for_something_else_come_back_as_they_were() {
    let node = Node::new().await;
    let texts = [
        "off",
        "no",
        "~",
        "null",
        "0123",
        "1_000",
        "1e3",
        "0x1f",
        ".5",
        "2026-11-25",
        "12:30:45",
        "- a",
        "a: b",
        "# c",
        "a # c",
        "'",
        "\"",
        "\\",
        "two\nlines\n",
        "\ttab ",
        " blanks ",
        "",
        "&a",
        "*a",
        "!t",
        "%d",
        "@",
        "`",
        "{a}",
        "[a]",
        "|",
        ">",
        "?",
        "\u{85}\u{2028}\u{feff}",
        "\u{1f980}",
        "\r\n",
        "---",
        "...",
        "<<",
        "=",
        "\u{7f}\u{1b}",
    ];
    for (at, text) in texts.iter().enumerate() {
        let group = json!({ "name": format!("g{at}"), "description": text, "tools": ["a/*"] });
        node.post("/api/tool-groups", group).await.expect(201);
    }
    let models: serde_json::Map<_, _> =
        texts.iter().filter(|it| !it.is_empty()).map(|it| ((*it).to_owned(), json!(it))).collect();
    let provider = json!({ "name": "openai", "models": models, "headers": { "x-a": "off" } });
    node.post("/api/providers", provider).await.expect(201);
    for format in ["yaml", "json"] {
        let export = node.get(&format!("/api/export?format={format}")).await.expect(200);
        let again = node.apply("/api/diff", &export.text).await.expect(200);
        let none = json!([]);
        assert_eq!((&again.body["added"], &again.body["changed"]), (&none, &none), "{format}");
    }
}

#[tokio::test]
async fn the_nodes_own_file_is_proposed_at_start() {
    let node = Node::new().await;
    let objects = althing_config::policy_from_text(&file(), &["openai"]).expect("a file");
    let differs =
        |objects: &[_]| start::differs(&node.admin, &super::Law::state(node.law.as_ref()), objects);
    assert_eq!(differs(&objects).unlike.len(), 5);
    let applied = start::apply_file(&node.admin, objects.clone(), "file:althing.yaml")
        .await
        .expect("applied");
    assert_eq!(applied.keys.len(), 1);
    assert_eq!(differs(&objects), start::Difference::default());
    node.post("/api/teams", json!({ "name": "ops" })).await.expect(201);
    node.patch("/api/teams/web", json!({ "enabled": false })).await.expect(200);
    let unlike = vec!["teams/web (enabled)".to_owned()];
    assert_eq!(differs(&objects), start::Difference { unlike, unnamed: 1 });
}

#[tokio::test]
async fn an_admin_key_is_made_once_and_a_reset_ends_the_old_one() {
    let node = Node::new().await;
    let law = node.law.as_ref();
    assert!(matches!(start::ensure_admin_key(law, None).await, Ok(start::AdminKey::Known)));
    start::reset_admin_key(law).await.expect("another key");
    node.get("/api/status").await.expect(401);
}

#[tokio::test]
async fn the_nodes_own_file_may_name_any_secret_also_for_a_key() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("key");
    std::fs::write(&path, format!("sk-bf-{CANARY}\n")).expect("written");
    let text = &format!("virtual_keys: [{{ name: app, value: 'file:{}' }}]", path.display());
    let node = Node::new().await;
    let refused = node.apply("/api/apply", text).await.expect(400);
    assert_eq!(refused.body["error"]["param"], "virtual_keys[app].value");

    let objects = althing_config::policy_from_text(text, &[]).expect("a file");
    let allow = node.admin.allow.clone().with_references_of(&objects);
    let admin = super::Admin { allow, ..node.admin_parts() };
    start::apply_file(&admin, objects, "file").await.expect("applied");
    assert_eq!(node.key_by(&format!("sk-bf-{CANARY}")).as_deref(), Some("app"));
}
