use althing_domain::object::{Kind, Object};
use serde_json::{Value, json};

use super::{Unopened, diff, settings};

fn object(kind: Kind, json: &Value) -> Object {
    Object::deserialize_as(kind, json).expect("object")
}

fn provider(key: &str, timeout: &str) -> Object {
    object(
        Kind::Provider,
        &json!({"name": "openai", "timeout": timeout, "keys": [{"name": "main", "value": key}]}),
    )
}

#[test]
fn what_would_be_added_changed_and_removed_is_told() {
    let file = [provider("env:NEW", "2m"), object(Kind::Team, &json!({"name": "web"}))];
    let law = [
        provider("env:OLD", "1m"),
        object(Kind::Customer, &json!({"name": "acme"})),
        object(Kind::VirtualKey, &json!({"name": "app"})),
    ];
    let text = diff(&file, law, &Unopened).to_string();
    assert_eq!(
        text,
        "\
+ team web
~ provider openai
    keys[0].value: \"env:OLD\" -> \"env:NEW\"
    timeout: \"1m\" -> \"2m\"
- virtual key app
- customer acme
"
    );
}

#[test]
fn the_same_policy_is_no_difference_however_its_secrets_are_kept() {
    let law = [provider("sealed:abc", "1m"), object(Kind::VirtualKey, &json!({"name": "app"}))];
    let file = [
        provider("sk-canary", "1m"),
        object(Kind::VirtualKey, &json!({"name": "app", "value": "sk-canary"})),
    ];
    assert!(diff(&file, law, &Unopened).is_empty());
}

#[test]
fn a_secret_that_is_another_is_told_and_not_shown() {
    struct Opened;
    impl super::Secrets for Opened {
        fn is_same(&self, place: &super::Place<'_>, _: &super::Secret, _: &super::Secret) -> bool {
            assert_eq!(place.path.to_string(), "keys/main/value");
            false
        }
        fn is_same_key(&self, _: &super::Name, _: &super::Secret) -> bool {
            false
        }
    }
    let law = [provider("sealed:abc", "1m"), object(Kind::VirtualKey, &json!({"name": "app"}))];
    let file = [
        provider("sk-canary", "1m"),
        object(Kind::VirtualKey, &json!({"name": "app", "value": "sk-canary"})),
    ];
    let told = diff(&file, law, &Opened);
    assert_eq!(told.changed.len(), 2);
    let text = format!("{told}{}", serde_json::to_string(&told).expect("json"));
    assert!(!text.contains("sk-canary") && !text.contains("sealed:"), "{text}");
    assert!(text.contains("keys.main.value") && text.contains("value: "), "{text}");
}

#[test]
fn settings_that_differ_are_told_by_path() {
    let map = |json: Value| json.as_object().expect("map").clone();
    let running =
        map(json!({"listen": "127.0.0.1:1", "limits": {"body": "32MiB", "header": "32KiB"}}));
    let file = map(json!({"listen": "127.0.0.1:2", "limits": {"body": "1MiB", "header": "32KiB"}}));
    let told: Vec<_> = settings(&running, &file).iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        ["listen: \"127.0.0.1:1\" -> \"127.0.0.1:2\"", "limits.body: \"32MiB\" -> \"1MiB\""]
    );
    assert!(settings(&running, &running).is_empty());
}
