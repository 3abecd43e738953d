use std::collections::BTreeMap;
use std::sync::Arc;

use althing_domain::id::Name;
use althing_domain::pattern::Pattern;
use althing_domain::policy::ToolGroup;
use async_trait::async_trait;
use http::HeaderMap;
use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Attempt, Catalogs, Filter, Grants, Names, Scope, ToolCaller, ToolRequest, reaches};
use crate::error::Error;
use crate::mcp::catalog::{self, Catalog, Offer};
use crate::mcp::json;

/// A catalogue of `server/tool` names, each with `schema`.
pub(crate) fn catalog_of(tools: &[(&str, &[&str])], schema: &Value) -> Arc<Catalog> {
    let offers: Vec<Offer> = tools
        .iter()
        .map(|(server, tools)| Offer {
            spec: Arc::new(
                serde_json::from_value(json!({ "name": server, "transport": "stdio", "command": "x" })).unwrap(),
            ),
            tools: tools
                .iter()
                .map(|name| {
                    let tool = json!({ "name": name, "description": format!("does {name}"), "inputSchema": schema, "x-vendor": 1.0 });
                    Arc::from(json::raw(tool.to_string()))
                })
                .collect(),
            is_ready: !tools.is_empty(),
        })
        .collect();
    Arc::new(catalog::build(&offers, &Catalog::default()))
}

/// A federation that stands still until told otherwise.
pub(crate) struct FakeCatalogs {
    pub(crate) now: Mutex<Arc<Catalog>>,
    pub(crate) version: watch::Sender<u64>,
}

impl FakeCatalogs {
    pub(crate) fn new(catalog: Arc<Catalog>) -> Arc<Self> {
        Arc::new(Self { now: Mutex::new(catalog), version: watch::Sender::new(1) })
    }

    pub(crate) fn change(&self, catalog: Arc<Catalog>) {
        *self.now.lock() = catalog;
        self.version.send_modify(|it| *it += 1);
    }
}

impl Catalogs for FakeCatalogs {
    fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.now.lock())
    }
    fn version(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

/// What the fake does with a call.
pub(crate) type Answer = Arc<
    dyn Fn(ToolRequest) -> futures_util::future::BoxFuture<'static, Result<Box<RawValue>, Error>>
        + Send
        + Sync,
>;

/// A caller whose law is two lists, and that notes what it is asked to run.
#[derive(Clone)]
pub(crate) struct FakeCaller {
    pub(crate) name: String,
    pub(crate) number: u64,
    pub(crate) tools: Vec<Pattern>,
    pub(crate) groups: BTreeMap<String, Arc<ToolGroup>>,
    pub(crate) ran: Arc<Mutex<Vec<String>>>,
    /// The tools that calls named which were refused, and the codes.
    pub(crate) refused: Arc<Mutex<Vec<(String, &'static str)>>>,
    pub(crate) answer: Answer,
    pub(crate) revoked: Arc<Mutex<bool>>,
}

impl FakeCaller {
    pub(crate) fn new(tools: &[&str]) -> Self {
        Self {
            name: "app".to_owned(),
            number: 7,
            tools: tools.iter().map(|it| Pattern::from(*it)).collect(),
            groups: BTreeMap::new(),
            ran: Arc::default(),
            refused: Arc::default(),
            answer: Arc::new(|request| {
                Box::pin(async move {
                    let arguments = request.arguments.as_ref().map_or("null", |it| it.get());
                    let text = format!("{} {arguments}", request.tool.policy);
                    Ok(json::raw(
                        json!({ "content": [{ "type": "text", "text": text }] }).to_string(),
                    ))
                })
            }),
            revoked: Arc::default(),
        }
    }

    pub(crate) fn with_group(mut self, name: &str, tools: &[&str]) -> Self {
        let tools = tools.iter().map(|it| Pattern::from(*it)).collect();
        let group = ToolGroup { name: Name::new(name), description: None, tools };
        self.groups.insert(name.to_owned(), Arc::new(group));
        self
    }
}

#[async_trait]
impl ToolCaller for FakeCaller {
    fn principal(&self) -> &str {
        &self.name
    }
    fn number(&self) -> u64 {
        self.number
    }
    fn grants(&self) -> Grants {
        Grants {
            tools: self.tools.as_slice().into(),
            groups: self.groups.values().map(Arc::clone).collect(),
        }
    }
    fn may_call(&self, policy: &str) -> bool {
        self.tools.iter().any(|it| it.matches(policy))
    }
    fn may_reach(&self, server: &str) -> bool {
        self.tools.iter().any(|it| reaches(it, server))
    }
    fn group(&self, name: &str) -> Option<Arc<ToolGroup>> {
        self.groups.get(name).cloned()
    }
    fn refresh(&self) -> Option<Arc<dyn ToolCaller>> {
        (!*self.revoked.lock()).then(|| Arc::new(self.clone()) as Arc<dyn ToolCaller>)
    }
    async fn run(&self, request: ToolRequest) -> Result<Box<RawValue>, Error> {
        self.ran.lock().push(request.tool.policy.to_string());
        (self.answer)(request).await
    }
    async fn refused(&self, attempt: Attempt, error: &Error) {
        self.refused.lock().push((attempt.name.unwrap_or_default(), error.code.name()));
    }
}

#[test]
fn an_idempotency_key_lets_nothing_run_twice() {
    let catalog = catalog_of(&[("a", &["x"])], &serde_json::json!({ "type": "object" }));
    let request = ToolRequest {
        tool: Arc::clone(&catalog.tools[0]),
        arguments: None,
        meta: None,
        parent: None,
        idempotency_key: Some("once".to_owned()),
        progress: None,
        cancel: CancellationToken::new(),
        capabilities: None,
        origin: None,
    };
    assert!(!request.into_call().idempotent);
}

fn named(scope: &Scope, catalog: &Catalog) -> Vec<String> {
    scope.tools(catalog).map(|it| scope.name(it).to_owned()).collect()
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

#[test]
fn a_filter_narrows_and_never_widens() {
    let catalog = catalog_of(&[("a", &["x", "y"]), ("b", &["x"])], &json!({}));
    let caller = Arc::new(FakeCaller::new(&["a/*"]));
    type Case<'c> = (&'c [(&'static str, &'c str)], &'c [&'c str]);
    let cases: &[Case<'_>] = &[
        (&[], &["a-x", "a-y"]),
        (&[("x-althing-tools", "*")], &["a-x", "a-y"]),
        (&[("x-althing-tools", "a/x, b/x")], &["a-x"]),
        (&[("x-althing-tools", "a-y")], &["a-y"]),
        (&[("x-althing-tools", "")], &[]),
        (&[("x-althing-tools", ",")], &[]),
        (&[("x-althing-tools", "a/x"), ("x-althing-tools", "a/y")], &["a-x", "a-y"]),
        (&[("x-bf-mcp-include-clients", "b")], &[]),
        (&[("x-bf-mcp-include-clients", "a")], &["a-x", "a-y"]),
        (&[("x-bf-mcp-include-clients", ",")], &[]),
        (&[("x-bf-mcp-include-tools", "a-x,b-*")], &["a-x"]),
        (&[("x-bf-mcp-include-clients", "a"), ("x-althing-tools", "b/x")], &[]),
    ];
    for (given, expected) in cases {
        let filter = Filter::from_headers(&headers(given)).unwrap();
        let scope = Scope::all(Arc::clone(&caller) as _, Arc::new(filter));
        assert_eq!(named(&scope, &catalog), *expected, "{given:?}");
    }
}

#[test]
fn a_filter_has_a_bound() {
    let many = vec!["a"; 257].join(",");
    assert!(Filter::from_headers(&headers(&[("x-althing-tools", &many)])).is_err());
}

#[test]
fn a_group_of_one_server_can_keep_its_names() {
    let catalog = catalog_of(&[("a", &["x", "y"]), ("b", &["x"])], &json!({}));
    let caller = FakeCaller::new(&["*"])
        .with_group("one", &["a/x"])
        .with_group("two", &["a/x", "b/x"])
        .with_group("star", &["*/x"]);
    let caller: Arc<dyn ToolCaller> = Arc::new(caller);
    let plain = |group: &str| {
        let scope = Scope::group(Arc::clone(&caller), Arc::default(), group, Names::Plain).unwrap();
        named(&scope, &catalog)
    };
    assert_eq!(plain("one"), ["x"]);
    assert_eq!(plain("two"), ["a-x", "b-x"]);
    assert_eq!(plain("star"), ["a-x", "b-x"]);
    let scope = Scope::group(Arc::clone(&caller), Arc::default(), "one", Names::Plain).unwrap();
    assert_eq!(scope.find(&catalog, "x").unwrap().policy.as_ref(), "a/x");
    assert!(scope.find(&catalog, "y").is_none(), "in the server, not in the group");
    assert!(scope.find(&catalog, "a-x").is_none(), "only one name a tool");
    assert!(Scope::group(caller, Arc::default(), "none", Names::Flat).is_none());
}

#[test]
fn only_servers_of_the_caller_are_named_as_not_ready() {
    let catalog = catalog_of(&[("a", &[]), ("ab", &[]), ("b", &[])], &json!({}));
    let not_ready = |tools: &[&str]| {
        let scope = Scope::all(Arc::new(FakeCaller::new(tools)), Arc::default());
        scope.not_ready(&catalog).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(not_ready(&["a/x"]), ["a"]);
    assert_eq!(not_ready(&["a*"]), ["a", "ab"]);
    assert_eq!(not_ready(&["b/*", "*/y"]), ["a", "ab", "b"]);
    assert!(not_ready(&[]).is_empty());
}

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("*".to_owned()),
        "[ab]/\\*",
        "[ab]/[xyz]",
        "\\*/[xyz]",
        "[ab]\\*",
        "[ab]/[xyz]\\*",
    ]
}

proptest! {
    /// The law, the group and the filter are each a wall: a tool is listed only if all let it pass, and what is
    /// listed is exactly what is found by name.
    #[test]
    fn nothing_outside_the_law_is_listed_or_found(
        tools in proptest::collection::vec(pattern(), 0..4),
        group in proptest::option::of(proptest::collection::vec(pattern(), 0..4)),
        filter in proptest::option::of(proptest::collection::vec(pattern(), 0..3)),
        plain in any::<bool>(),
    ) {
        let catalog = catalog_of(&[("a", &["x", "y", "z"]), ("b", &["x", "y"])], &json!({}));
        let refs: Vec<&str> = tools.iter().map(String::as_str).collect();
        let mut caller = FakeCaller::new(&refs);
        if let Some(group) = &group {
            let refs: Vec<&str> = group.iter().map(String::as_str).collect();
            caller = caller.with_group("g", &refs);
        }
        let caller: Arc<dyn ToolCaller> = Arc::new(caller);
        let given: HeaderMap = filter.iter().map(|it| (http::HeaderName::from_static("x-althing-tools"), it.join(",").parse().unwrap())).collect();
        let filter_read = Arc::new(Filter::from_headers(&given).unwrap());
        let names = if plain { Names::Plain } else { Names::Flat };
        let scope = match &group {
            Some(_) => Scope::group(caller, filter_read, "g", names).unwrap(),
            None => Scope::all(caller, filter_read),
        };
        let names_it = |patterns: &Vec<String>, tool: &str| patterns.iter().any(|it| Pattern::from(it.as_str()).matches(tool));
        for tool in &catalog.tools {
            let flat = tool.flat.to_string();
            let lawful = names_it(&tools, &tool.policy)
                && group.as_ref().is_none_or(|it| names_it(it, &tool.policy))
                && filter.as_ref().is_none_or(|it| names_it(it, &tool.policy) || names_it(it, &flat));
            let listed = scope.tools(&catalog).any(|it| it.policy == tool.policy);
            let found = scope.find(&catalog, scope.name(tool)).is_some_and(|it| it.policy == tool.policy);
            prop_assert_eq!(listed, lawful);
            prop_assert_eq!(found, lawful);
        }
    }
}
