use althing_domain::object::{Kind, Object};

use super::{Config, Overrides, load_text, policy_from_text};
use crate::section::{AuthMode, Bodies, Partition};

const VENDORS: &[&str] = &["openai", "anthropic"];

/// Every section, as the contract shows it.
const FULL: &str = include_str!("../../testdata/full.yaml");

fn load(text: &str) -> Result<Config, Vec<String>> {
    load_with(text, &[])
}

fn load_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let variables: Vec<_> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let texts = |it: Vec<super::Problem>| it.iter().map(ToString::to_string).collect();
    load_text(text, &variables, &Overrides::default(), VENDORS).map_err(texts)
}

fn problems(text: &str) -> Vec<String> {
    load(text).expect_err("problems")
}

#[test]
fn nothing_at_all_is_a_configuration() {
    let config = load("").expect("defaults");
    assert_eq!(config, Config::default());
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.auth, AuthMode::Keys);
    assert_eq!(config.records.bodies, Bodies::Off);
    assert!(matches!(config.partition, Partition::Grace(it) if it.to_string() == "1m"));
    assert_eq!(config.limits.body.to_string(), "32MiB");
    assert_eq!(config.limits.request_timeout.to_string(), "10m");
    assert_eq!(config.records.keep.to_string(), "30d");
}

#[test]
fn the_file_of_the_contract_reads() {
    let config = load(FULL).expect("reads");
    assert_eq!(config.node.name.as_str(), "a");
    assert_eq!(config.tls.as_ref().expect("tls").cert.0.reference(), Some("file:/etc/tls.pem"));
    assert_eq!(config.telemetry.otlp.as_ref().expect("otlp").sample.to_string(), "0.01");
    assert_eq!(config.cluster.as_ref().expect("cluster").seeds.len(), 3);
    let kinds: Vec<_> =
        config.policy.iter().map(|it| format!("{} {}", it.kind(), it.name())).collect();
    assert_eq!(
        kinds,
        [
            "provider openai",
            "provider local",
            "MCP server filesystem",
            "MCP server search",
            "MCP server crm",
            "MCP server legacy",
            "tool group support",
            "customer acme",
            "team web",
            "virtual key app",
        ]
    );
    assert!(config.check_startable().expect_err("a cluster").message.contains("single nodes only"));
}

#[test]
fn json_is_read_as_it_is() {
    let text = "{\n\t\"listen\": \"127.0.0.1:9\",\n\t\"customers\": [{\"name\": \"acme\"}]\n}";
    assert_eq!(load(text).expect("reads").policy[0].kind(), Kind::Customer);
}

#[test]
fn errors_in_five_places_are_told_at_once_with_their_paths() {
    let text = "
listen: 127.0.0.1:99999
limits: { body: 32 apples, bodi: 1MiB, idle_stream: 0s }
records: { bodies: sometimes }
virtual_key: []
virtual_keys:
  - { name: a, budget: { limit_usd: many, period: month } }
  - { name: b, budget: { limit_usd: 5, periode: month }, tols: [], rate: { requests: 0 } }
  - { name: c, tools: [read] }
";
    assert_eq!(
        problems(text),
        [
            "listen: `127.0.0.1:99999` is not an address and port: write one such as 127.0.0.1:8080 or 0.0.0.0:8080",
            "limits.body: `32 apples` is not a size: write a number and a unit, such as 64KiB, 32MiB or 10GiB",
            "limits.bodi: unknown field `bodi`: did you mean `body`?",
            "limits.idle_stream: `0s` is not a length of time such as 500ms, 30s, 5m, 6h or 7d",
            "records.bodies: `sometimes` is none of off, errors, all",
            "virtual_keys[0].budget.limit_usd: `many` is not an amount in US dollars: write digits with at most nine after the point, for example \"12.50\"",
            "virtual_keys[1].budget.periode: unknown field `periode`: did you mean `period`?",
            "virtual_keys[1].tols: unknown field `tols`: did you mean `tools`?",
            "virtual_keys[1].rate.requests: expected a whole number above 0, found integer `0`",
            "virtual_keys[2].tools[0]: `read` is not `server/tool`: write one such as `search/*`, or `*` for all",
            "virtual_key: unknown section: did you mean `virtual_keys`?",
        ]
    );
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(
        problems("mcp_servers: [{ name: x }]"),
        ["mcp_servers[0]: `transport` is missing: give it"]
    );
    assert_eq!(problems("tls: { cert: file:/a }"), ["tls: `key` is missing: give it"]);
    assert_eq!(
        problems("customers: { name: acme }"),
        ["customers: expected a list: each customer is one item of it"]
    );
}

#[test]
fn objects_are_checked_against_each_other() {
    let text = "
teams: [{ name: web, customer: nobody }, { name: web }]
virtual_keys: [{ name: app, team: web, providers: [{ name: openai }], tool_groups: [none] }]
";
    assert_eq!(
        problems(text),
        [
            "teams[1].name: `web` is already the name of teams[0]: names are unique within a kind",
            "teams[0].customer: there is no customer `nobody`: create it first, or name one that exists",
            "virtual_keys[0].providers[0].name: there is no provider `openai`: create it first, or name one that exists",
            "virtual_keys[0].tool_groups[0]: there is no tool group `none`: create it first, or name one that exists",
        ]
    );
}

#[test]
fn what_does_not_read_hides_no_other_mistake_and_draws_none_after_it() {
    let text = "customers: [{ name: acme, budget: 7 }]\nteams: [{ name: web, customer: acme }, { name: web, customer: nobody }]";
    let found = load_text(text, &[], &Overrides::default(), &[]).expect_err("mistakes");
    let paths: Vec<_> = found.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(paths, ["customers[0].budget", "teams[1].name", "teams[1].customer"], "{found:?}");
}

#[test]
fn a_key_given_twice_is_an_error() {
    let told = problems("listen: 127.0.0.1:1\nlisten: 127.0.0.1:2\n");
    assert!(told[0].starts_with("line 2, column 1: ") && told[0].contains("duplicate"), "{told:?}");
}

#[test]
fn what_is_no_yaml_is_told_by_line_and_not_repeated() {
    let told =
        problems("providers:\n  - name: openai\n    keys: [{ name: main, value: sk-canary \n");
    assert!(told[0].starts_with("line "), "{told:?}");
    assert!(!told[0].contains("sk-canary"), "{told:?}");
    assert_eq!(
        problems("just text"),
        ["a configuration is a map of sections, such as `listen: 127.0.0.1:8080`"]
    );
}

#[test]
fn no_error_repeats_a_secret() {
    let wrong = [
        "providers: [{ name: openai, keys: sk-canary }]",
        "providers: [{ name: openai, keys: [sk-canary] }]",
        "providers: [{ name: openai, keys: [{ name: main, value: [sk-canary] }] }]",
        "providers: [{ name: openai, headers: sk-canary }]",
        "admin: sk-canary",
        "admin: { key: { value: sk-canary } }",
        "mcp_servers: [{ name: x, transport: stdio, command: x, env: sk-canary }]",
        "virtual_keys: [{ name: x, value: { v: sk-canary } }]",
        "mcp_servers: [{ name: x, transport: http, url: 'https://user:sk-canary@x/mcp' }]",
        "providers: [{ name: openai, headers: { authorization: \"sk-canary\\r\\nx: y\" } }]",
        "providers: [{ name: openai, headers: { authorization: *canary } }]",
    ];
    for text in wrong {
        let told = problems(text).join("\n");
        assert!(!told.contains("sk-canary"), "{text}: {told}");
    }
}

#[test]
fn variables_go_over_the_file_and_may_be_numbers_and_lists() {
    let variables = [
        ("ALTHING__ADMIN__KEY", "12345"),
        ("ALTHING__BROWSERS__ORIGINS", "[https://a.example]"),
        ("ALTHING__LIMITS__REQUESTS_PER_PRINCIPAL", "7"),
        ("ALTHING__LISTEN", "127.0.0.1:2"),
        ("ALTHING__NODE__LABELS__RACK", "9"),
        ("ALTHING__TELEMETRY__LOG", "debug"),
    ];
    let config = load_with("listen: 127.0.0.1:1\nnode: { name: n }", &variables).expect("reads");
    assert_eq!(config.listen.to_string(), "127.0.0.1:2");
    assert_eq!(config.limits.requests_per_principal.get(), 7);
    assert_eq!(config.browsers.origins, ["https://a.example"]);
    assert_eq!(config.node.labels.get("rack").map(String::as_str), Some("9"));
    assert_eq!(config.node.name.as_str(), "n");
    assert!(config.admin.key.is_some());
    let wrong = [("ALTHING__LIMITS__BODY", "big"), ("ALTHING__LIMTS__BODY", "1MiB")];
    assert_eq!(
        load_with("", &wrong).expect_err("problems"),
        [
            "limits.body: `big` is not a size: write a number and a unit, such as 64KiB, 32MiB or 10GiB (set by ALTHING__LIMITS__BODY)",
            "limts: unknown section: did you mean `limits`? (set by ALTHING__LIMTS__BODY)",
        ]
    );
}

#[test]
fn flags_go_over_variables() {
    let overrides =
        Overrides { data_dir: Some("/srv/data".into()), listen: Some("localhost:7".to_owned()) };
    let variables = [("ALTHING__LISTEN".to_owned(), "127.0.0.1:2".to_owned())];
    let config = load_text("", &variables, &overrides, VENDORS).expect("reads");
    assert_eq!(config.listen.to_string(), "127.0.0.1:7");
    assert_eq!(config.node.data_dir.to_str(), Some("/srv/data"));
}

#[test]
fn a_gateway_open_to_the_network_is_refused() {
    for listen in ["0.0.0.0:8080", "[::]:8080", "10.0.0.1:80"] {
        let told = problems(&format!("auth: open\nlisten: '{listen}'"));
        assert!(told[0].starts_with("auth: `open` lets whoever reaches"), "{told:?}");
    }
    for listen in ["127.0.0.1:0", "[::1]:8080", "localhost:1"] {
        load(&format!("auth: open\nlisten: '{listen}'")).expect(listen);
    }
}

#[test]
fn what_a_collector_cannot_be_told_is_a_problem_with_its_name() {
    let otlp = |more: &str| {
        problems(&format!("telemetry: {{ otlp: {{ endpoint: 'http://c:4318', {more} }} }}"))
    };
    for (more, says) in [
        ("endpoint: 'http://c:4318/?a=b'", "telemetry.otlp.endpoint: must end with"),
        ("headers: { 'x y': a }", "telemetry.otlp.headers.x y: is no name"),
        ("interval: 10ms", "telemetry.otlp.interval: must be between 1s and 1h"),
        ("timeout: 2m", "telemetry.otlp.timeout: must be between"),
        ("attributes: { '': x }", "telemetry.otlp.attributes"),
    ] {
        let more = more.strip_prefix("endpoint: ").map_or_else(
            || otlp(more),
            |it| problems(&format!("telemetry: {{ otlp: {{ endpoint: {it} }} }}")),
        );
        assert!(more.len() == 1 && more[0].starts_with(says), "{more:?}");
    }
}

#[test]
fn settings_never_show_a_secret() {
    let config = load("admin: { key: sk-canary }\ntelemetry: { otlp: { endpoint: 'http://x:1', headers: { a: sk-canary, b: env:B } } }").expect("reads");
    let shown = serde_json::to_string(&config.settings()).expect("json");
    assert!(
        !shown.contains("sk-canary") && shown.contains("env:B") && shown.contains("(set)"),
        "{shown}"
    );
    assert!(!format!("{config:?}").contains("sk-canary"));
}

#[test]
fn policy_of_a_file_is_read_alone_too() {
    let policy = policy_from_text(FULL, VENDORS).expect("reads");
    assert_eq!(policy, load(FULL).expect("reads").policy);
    assert!(matches!(&policy[9], Object::VirtualKey(key) if key.value.is_some()));
}

#[test]
fn what_the_file_refers_to_may_be_followed_and_nothing_else() {
    let list = load(FULL).expect("reads").allow_list();
    assert!(list.allows("env:OPENAI_API_KEY") && list.allows("env:SEARCH_TOKEN"));
    assert!(!list.allows("env:HOME") && !list.allows("file:/etc/passwd"));
}
