use serde_json::{Value, json};

use super::{Item, validate, validate_all};
use crate::object::{Kind, Object};

fn check(kind: Kind, json: &Value, expected: &[&str]) {
    let object = Object::deserialize_as(kind, json).expect("object");
    let found: Vec<_> =
        validate(&object, &|name| name == "openai").iter().map(ToString::to_string).collect();
    assert_eq!(found, expected, "{json}");
}

#[test]
fn a_provider_needs_a_known_vendor_or_a_dialect_and_an_address() {
    check(Kind::Provider, &json!({"name": "openai"}), &[]);
    check(
        Kind::Provider,
        &json!({"name": "mine", "dialect": "openai", "base_url": "http://10.0.0.1:9/v1"}),
        &[],
    );
    check(
        Kind::Provider,
        &json!({"name": "mine"}),
        &[
            "dialect: `mine` is not a known vendor: give `dialect` and `base_url`",
            "base_url: give the address of its API, such as https://api.example.com/v1",
        ],
    );
    check(
        Kind::Provider,
        &json!({"name": "openai", "keys": [{"name": "a", "value": "env:"}, {"name": "a", "value": ""}]}),
        &[
            "keys[0].value: names no environment variable: write env:NAME",
            "keys[1].value: must not be empty",
            "keys[1]: `a` is named twice: keep one",
        ],
    );
    check(
        Kind::Provider,
        &json!({"name": "openai", "keys": [{"name": "a", "value": "env:A", "weight": 0}]}),
        &["keys: every key has weight 0, so none would be used: give one a weight"],
    );
}

#[test]
fn urls_are_http_and_hold_no_credentials() {
    let url = |url: &str| json!({"name": "openai", "base_url": url});
    for good in ["https://api.example.com/v1", "http://localhost:1", "https://[::1]/"] {
        check(Kind::Provider, &url(good), &[]);
    }
    check(
        Kind::Provider,
        &url("ftp://x/"),
        &["base_url: only http and https URLs are called: begin with https:// (or http://)"],
    );
    check(
        Kind::Provider,
        &url("api.example.com"),
        &["base_url: not a URL: write one such as https://api.example.com/v1"],
    );
    for bad in ["https://user:pass@x/", "https://user@x/"] {
        check(
            Kind::Provider,
            &url(bad),
            &[
                "base_url: a URL must not hold a user or password: put credentials in headers or keys",
            ],
        );
    }
}

#[test]
fn headers_are_one_line_and_leave_the_connection_alone() {
    let headers = |name: &str, value: &str| json!({"name": "openai", "headers": {name: value}});
    check(Kind::Provider, &headers("x-org", "a b\tc"), &[]);
    check(
        Kind::Provider,
        &headers("x org", "a"),
        &["headers.x org: not the name of an HTTP header: use letters, digits and `-`"],
    );
    check(
        Kind::Provider,
        &headers("Host", "a"),
        &[
            "headers.Host: this header belongs to the connection and is set by the gateway: leave it out",
        ],
    );
    check(
        Kind::Provider,
        &headers("x", "a\r\nb: c"),
        &["headers.x: a header's value must be one line without control characters"],
    );
}

#[test]
fn a_server_has_what_its_transport_needs_and_nothing_else() {
    check(
        Kind::McpServer,
        &json!({"name": "a", "transport": "stdio", "command": "npx 'a b'"}),
        &[],
    );
    check(Kind::McpServer, &json!({"name": "a", "transport": "stdio", "command": ["npx"]}), &[]);
    check(Kind::McpServer, &json!({"name": "a", "transport": "http", "url": "https://x/mcp"}), &[]);
    check(
        Kind::McpServer,
        &json!({"name": "a-b", "transport": "stdio", "url": "https://x"}),
        &[
            "name: must match ^[a-zA-Z][a-zA-Z0-9_]{0,31}$ (no hyphen, so that `server-tool` splits one way)",
            "command: a stdio server needs the command that starts it",
            "url: a stdio server has no URL: leave it out, or give `transport: http`",
        ],
    );
    check(
        Kind::McpServer,
        &json!({"name": "a", "transport": "stdio", "command": "npx 'a"}),
        &["command: a quote is not closed: close it, or write a list"],
    );
    check(
        Kind::McpServer,
        &json!({"name": "a", "transport": "sse", "command": "x", "env": {"A": "env:A"}}),
        &[
            "url: give the address of the server, such as https://example.com/mcp",
            "command: only a stdio server has a command: leave it out, or give `transport: stdio`",
            "env: only a stdio server has an environment: put credentials in `headers`",
        ],
    );
    check(
        Kind::McpServer,
        &json!({"name": "a", "transport": "http", "url": "https://x", "headers": {"Authorization": "env:A"}, "auth": {"type": "oauth", "grant": "client_credentials"}}),
        &[
            "headers.authorization: `auth` sets this header: leave one of them out",
            "auth.client_id: the grant client_credentials needs the id of a registered client",
            "auth.client_secret: the grant client_credentials needs the client's secret",
        ],
    );
}

#[test]
fn tools_are_named_with_their_server() {
    let group = |tools: Value| json!({"name": "g", "tools": tools});
    check(Kind::ToolGroup, &group(json!(["*", "search/*", "search/find", "s*/x", "a/b/c"])), &[]);
    check(
        Kind::ToolGroup,
        &group(json!(["search", "/x", "search/", "my-server/x"])),
        &[
            "tools[0]: `search` is not `server/tool`: write one such as `search/*`, or `*` for all",
            "tools[1]: `/x` is not `server/tool`: write one such as `search/*`, or `*` for all",
            "tools[2]: `search/` is not `server/tool`: write one such as `search/*`, or `*` for all",
            "tools[3]: `my-server/x` is not `server/tool`: write one such as `search/*`, or `*` for all",
        ],
    );
}

#[test]
fn budgets_and_rates_limit_something_in_a_time_that_exists() {
    let budget = |budget: Value| json!({"name": "acme", "budget": budget});
    check(Kind::Customer, &budget(json!({"limit_usd": "0"})), &[]);
    check(
        Kind::Customer,
        &budget(json!({"limit_usd": "5", "period": "month", "time_zone": "Europe/Atlantis"})),
        &[
            "budget.time_zone: `Europe/Atlantis` is not an IANA time zone: write one such as Europe/Berlin",
        ],
    );
    check(
        Kind::Customer,
        &budget(
            json!([{"limit_usd": "5", "period": "30s"}, {"limit_usd": "5", "period": "6h", "time_zone": "UTC"}]),
        ),
        &[
            "budget[0].period: a rolling period is between 1m and 366d",
            "budget[1].time_zone: a time zone means nothing here, only calendar periods turn in one: leave it out",
        ],
    );
    check(
        Kind::Customer,
        &budget(json!([{"limit_usd": "5", "period": "day"}, {"limit_usd": "6", "period": "day"}])),
        &["budget[1].period: another budget of this list has the same period: keep one of them"],
    );
    check(
        Kind::Customer,
        &json!({"name": "acme", "rate": {}}),
        &["rate: limits nothing: give `requests`, `tokens` or `concurrent`, or leave it out"],
    );
}

#[test]
fn a_key_says_who_pays_and_until_when() {
    check(
        Kind::VirtualKey,
        &json!({"name": "k", "team": "a", "customer": "b", "expires_at": "tomorrow", "default_max_tokens": 0, "providers": [{"name": "", "models": [""]}]}),
        &[
            "customer: a key belongs to a team or to a customer: leave one out (a team brings its customer)",
            "providers[0].name: name a provider, or `*` for any",
            "providers[0].models[0]: matches nothing: write a name, or `*` for all",
            "default_max_tokens: must be at least 1: leave it out for the model's own maximum",
            "expires_at: `tomorrow` is not a time like 2027-01-31T00:00:00Z",
        ],
    );
}

#[test]
fn problems_of_a_file_say_where_in_it() {
    let item = |path: &str, kind, json: Value| Item {
        path: path.to_owned(),
        kind,
        name: json["name"].as_str().expect("a name").to_owned(),
        object: Object::deserialize_as(kind, json).ok(),
    };
    let key = |name: &str| json!({"name": name, "value": "sk-chosen-by-hand-0123456789"});
    let file = [
        item("customers[0]", Kind::Customer, json!({"name": "acme"})),
        item("customers[1]", Kind::Customer, json!({"name": "acme"})),
        // Does not read, and is there all the same for who refers to it.
        item("customers[2]", Kind::Customer, json!({"name": "broken", "budget": 7})),
        item("teams[0]", Kind::Team, json!({"name": "web", "customer": "nobody", "rate": {}})),
        item("teams[1]", Kind::Team, json!({"name": "app", "customer": "broken"})),
        item("virtual_keys[0]", Kind::VirtualKey, key("a")),
        item("virtual_keys[1]", Kind::VirtualKey, key("b")),
    ];
    let found: Vec<_> = validate_all(&file, &|_| false).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "customers[1].name: `acme` is already the name of customers[0]: names are unique within a kind",
            "teams[0].rate: limits nothing: give `requests`, `tokens` or `concurrent`, or leave it out",
            "teams[0].customer: there is no customer `nobody`: create it first, or name one that exists",
            "virtual_keys[1].value: is the value of virtual_keys[0] too: each key has its own, or nobody could tell who called",
        ]
    );
}
