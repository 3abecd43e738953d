use althing_domain::pattern::Pattern;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Fixture, rpc};
use crate::mcp::scope::tests::FakeCaller;
use crate::mcp::server::Target;

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![Just("*".to_owned()), "[ab]/\\*", "[ab]/[xyz]", "\\*/[xyz]", "[ab]\\*"]
}

/// Every way to ask for `tool` that the wire has.
fn calls(flat: &str, plain: &str) -> Vec<Value> {
    let mut calls = Vec::new();
    for name in
        [flat, plain, &flat.replacen('-', "/", 1), &flat.to_uppercase(), &format!(" {flat}")]
    {
        calls.push(json!({ "name": name }));
        calls.push(json!({ "name": name, "arguments": { "n": 1 } }));
    }
    calls
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the law, the group, the filter, the revision and the spelling: what runs is lawful, and what is
    /// listed is what can be called.
    #[test]
    fn no_path_lists_or_calls_what_the_law_does_not_name(
        tools in proptest::collection::vec(pattern(), 0..4),
        group in proptest::option::of(proptest::collection::vec(pattern(), 0..4)),
        filter in proptest::option::of(proptest::collection::vec(pattern(), 1..3)),
        plain in any::<bool>(),
        revision in prop_oneof![Just("2025-03-26"), Just("2025-11-25"), Just("2026-07-28")],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let refs: Vec<&str> = tools.iter().map(String::as_str).collect();
            let mut caller = FakeCaller::new(&refs);
            if let Some(group) = &group {
                let refs: Vec<&str> = group.iter().map(String::as_str).collect();
                caller = caller.with_group("g", &refs);
            }
            let fixture = Fixture::new(caller);
            let target = || group.as_ref().map_or(Target::All, |_| Target::Group("g".to_owned()));
            let path = if plain { "/mcp/g?names=plain" } else { "/mcp/g" };
            let filter_text = filter.as_ref().map(|it| it.join(","));
            let names = |patterns: &[String], tool: &str| patterns.iter().any(|it| Pattern::from(it.as_str()).matches(tool));
            let lawful = |policy: &str| {
                names(&tools, policy)
                    && group.as_ref().is_none_or(|it| names(it, policy))
                    && filter.as_ref().is_none_or(|it| names(it, policy) || names(it, &policy.replace('/', "-")))
            };
            let ask = async |method: &str, mut params: Value| {
                let mut headers = vec![("mcp-protocol-version", revision), ("mcp-method", method)];
                let name = params["name"].as_str().unwrap_or_default().to_owned();
                headers.push(("mcp-name", &name));
                if let Some(filter) = &filter_text {
                    headers.push(("x-althing-tools", filter));
                }
                if revision == "2026-07-28" {
                    params["_meta"] = json!({ "io.modelcontextprotocol/protocolVersion": revision, "io.modelcontextprotocol/clientCapabilities": {} });
                }
                fixture.post_to(path, target(), &headers, rpc(method, &params).to_string()).await
            };
            let listed = ask("tools/list", json!({})).await;
            let mut expected_runs = Vec::new();
            let all = [("a-x", "x", "a/x"), ("a-y", "y", "a/y"), ("b-z", "z", "b/z")];
            let listed_names = listed.names();
            for (flat, plain_name, policy) in all {
                let is_listed = listed_names.contains(&flat) || listed_names.contains(&plain_name);
                assert_eq!(is_listed, lawful(policy), "{policy} listed");
                for call in calls(flat, plain_name) {
                    let answer = ask("tools/call", call.clone()).await;
                    let name = call["name"].as_str().unwrap();
                    let has_run = answer.body["result"].is_object();
                    assert!(has_run || answer.body["error"].is_object(), "{call} {:?}", answer.body);
                    assert!(has_run || !listed_names.contains(&name), "{name} is listed");
                    if has_run {
                        assert!(is_listed && [flat, plain_name].contains(&name), "{call}");
                        expected_runs.push(policy.to_owned());
                    }
                }
            }
            assert_eq!(fixture.ran(), expected_runs);
        });
    }

    #[test]
    fn noise_never_panics_and_is_always_answered(
        body in proptest::collection::vec(any::<u8>(), 0..200),
        version in proptest::option::of("[ -~]{0,12}"),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::all();
            let headers: Vec<_> = version.iter().map(|it| ("mcp-protocol-version", it.as_str())).collect();
            let answer = fixture.post_to("/mcp", Target::All, &headers, body).await;
            assert!(answer.status.as_u16() < 500);
        });
    }
}
