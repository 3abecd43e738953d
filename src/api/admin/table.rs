//! Every route of the administration, once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use althing_domain::object::Kind;
use http::Method;

use super::call::{Call, Failure, Reply};
use super::{Admin, apply, budgets, keys, openapi, policy, requests, servers, status};
use crate::error::{Code, Error};

/// What a handler returns.
pub type Handling = Pin<Box<dyn Future<Output = Result<Reply, Failure>> + Send>>;

/// A route.
pub struct Route {
    /// Its method.
    pub method: Method,
    /// Its path. `{kind}` stands for each of [`Route::kinds`]; `{name}` for a name or id.
    pub path: &'static str,
    /// The kinds it is there for; empty where the path has no `{kind}`.
    pub kinds: &'static [Kind],
    /// What it does.
    pub summary: &'static str,
    /// Query parameters that it takes.
    pub query: &'static [Param],
    /// What it takes.
    pub takes: Takes,
    /// What it answers with, where all is well.
    pub gives: Gives,
    /// What serves it.
    pub handler: fn(Arc<Admin>, Call) -> Handling,
}

/// A query parameter.
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// What it may be.
    pub form: Form,
    /// What it is for.
    pub text: &'static str,
}

/// What a query parameter may be, for the document; whoever reads it checks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Any text.
    Text,
    /// A whole number, from the first to the second.
    Number(u64, u64),
    /// One of these.
    Word(&'static [&'static str]),
    /// A UUID.
    Uuid,
    /// A time.
    Time,
    /// US dollars.
    Usd,
    /// Some of these, with commas between.
    Words(&'static [&'static str]),
}

/// What a route takes as its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Nothing.
    Nothing,
    /// An object of the kind.
    Object,
    /// A JSON merge patch of an object of the kind.
    Patch,
    /// `{overlap, value}`.
    Rotation,
    /// A whole policy file, YAML or JSON.
    File,
}

/// What a route answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// A page of objects.
    List,
    /// An object.
    Object,
    /// An object, the index and `certain_by`; 201.
    Created,
    /// An object, the index and `certain_by`.
    Written,
    /// As `Written`, and the key itself.
    Key,
    /// What a file changed or would change.
    Changes,
    /// A policy file.
    File,
    /// A page of budgets.
    Budgets,
    /// A budget.
    Budget,
    /// A page of the request log.
    Logs,
    /// One entry of the request log.
    Log,
    /// Sums.
    Usage,
    /// Other JSON.
    Json,
}

/// A route for one kind, or for none.
#[derive(Clone)]
pub struct Bound {
    /// The route.
    pub route: &'static Route,
    /// The kind.
    pub kind: Option<Kind>,
}

impl Bound {
    /// The path with its kind.
    #[must_use]
    pub fn path(&self) -> String {
        self.kind.map_or_else(
            || self.route.path.to_owned(),
            |it| self.route.path.replace("{kind}", it.route()),
        )
    }

    /// The name in `path`, which this route was found by; empty where it has none.
    pub(super) fn name_in(&self, path: &str) -> Result<String, Error> {
        let template = self.path();
        let at = template.split('/').position(|it| it == "{name}");
        let found = at.and_then(|it| path.split('/').nth(it)).unwrap_or_default();
        let name = percent_encoding::percent_decode_str(found).decode_utf8();
        let name =
            name.map_err(|_| Error::new(Code::NotFound, "the name in the path is not UTF-8"))?;
        Ok(name.into_owned())
    }
}

/// Every route, for each of its kinds.
pub fn bound() -> impl Iterator<Item = Bound> {
    ROUTES.iter().flat_map(|route| {
        let kinds = route.kinds.iter().map(|it| Some(*it));
        let none = route.kinds.is_empty().then_some(None);
        kinds.chain(none).map(move |kind| Bound { route, kind })
    })
}

/// Parameters that every route takes: they matter in a cluster.
pub static ANYWHERE: &[Param] = &[
    Param {
        name: "wait",
        form: Form::Word(&["all"]),
        text: "`all`: answer a write when every node that holds a policy lease has applied it",
    },
    Param {
        name: "min_index",
        form: Form::Number(0, u64::MAX),
        text: "answer a read no earlier than this log index is applied",
    },
];

const FLAG: Form = Form::Word(&["0", "1", "false", "true"]);
const DRY_RUN: Param =
    Param { name: "dry_run", form: FLAG, text: "1: say what would change, and change nothing" };
const LIMIT: Param = Param {
    name: "limit",
    form: Form::Number(1, 1000),
    text: "how many, from 1 to 1000; 100 where absent",
};
const CURSOR: Param = Param { name: "cursor", form: Form::Text, text: "`next` of the page before" };
const SEARCH: Param = Param {
    name: "search",
    form: Form::Text,
    text: "only those whose name or description contains this",
};
const ENABLE: &[Kind] =
    &[Kind::Provider, Kind::McpServer, Kind::Customer, Kind::Team, Kind::VirtualKey];
const LOG_FILTERS: &[Param] = &[
    LIMIT,
    CURSOR,
    Param {
        name: "search",
        form: Form::Text,
        text: "only those whose model, tool or error contains this, or whose id it is",
    },
    Param { name: "from", form: Form::Time, text: "not before, RFC 3339" },
    Param { name: "to", form: Form::Time, text: "before, RFC 3339" },
    Param {
        name: "kind",
        form: Form::Word(&["model_call", "tool_call"]),
        text: "`model_call` or `tool_call`",
    },
    Param { name: "key", form: Form::Text, text: "of this virtual key" },
    Param { name: "team", form: Form::Text, text: "of this team" },
    Param { name: "customer", form: Form::Text, text: "of this customer" },
    Param { name: "provider", form: Form::Text, text: "served by this provider" },
    Param { name: "model", form: Form::Text, text: "of this model" },
    Param { name: "server", form: Form::Text, text: "of this MCP server" },
    Param { name: "tool", form: Form::Text, text: "of this tool" },
    Param {
        name: "status",
        form: Form::Word(&["ok", "refused", "failed", "cancelled"]),
        text: "`ok`, `refused`, `failed` or `cancelled`",
    },
    Param {
        name: "min_latency_ms",
        form: Form::Number(0, u64::MAX),
        text: "that took at least this long",
    },
    Param { name: "min_cost_usd", form: Form::Usd, text: "that cost at least this" },
    Param { name: "parent", form: Form::Uuid, text: "that belong to this model request" },
];
const USAGE_FILTERS: &[Param] = &[
    Param {
        name: "from",
        form: Form::Time,
        text: "not before, down to the whole minute, RFC 3339",
    },
    Param { name: "to", form: Form::Time, text: "before, up to the whole minute, RFC 3339" },
    Param {
        name: "group_by",
        form: Form::Words(&[
            "key", "team", "customer", "provider", "model", "server", "tool", "hour", "day",
        ]),
        text: "some of key, team, customer, provider, model, server, tool, and hour or day",
    },
    Param { name: "key", form: Form::Text, text: "of this virtual key" },
    Param { name: "team", form: Form::Text, text: "of this team" },
    Param { name: "customer", form: Form::Text, text: "of this customer" },
    Param { name: "provider", form: Form::Text, text: "served by this provider" },
    Param { name: "model", form: Form::Text, text: "of this model" },
    Param { name: "server", form: Form::Text, text: "of this MCP server" },
    Param { name: "tool", form: Form::Text, text: "of this tool" },
];
const EXPORT: &[Param] = &[Param {
    name: "format",
    form: Form::Word(&["json", "yaml"]),
    text: "`json` (default) or `yaml`",
}];
const PRUNE: Param =
    Param { name: "prune", form: FLAG, text: "1: delete what the file does not name" };
const APPLY: &[Param] = &[DRY_RUN, PRUNE];

macro_rules! route {
    ($method:ident $path:literal [$kinds:expr] $summary:literal, $query:expr, $takes:ident => $gives:ident, $handler:path) => {
        Route {
            method: Method::$method,
            path: $path,
            kinds: $kinds,
            summary: $summary,
            query: $query,
            takes: Takes::$takes,
            gives: Gives::$gives,
            handler: |admin, call| Box::pin($handler(admin, call)),
        }
    };
}

/// The table. The admin key opens each of them, and nothing else does.
pub static ROUTES: &[Route] = &[
    route!(GET "/api/{kind}" [Kind::ALL] "Lists, in the order of creation", &[LIMIT, CURSOR, SEARCH], Nothing => List, policy::list),
    route!(POST "/api/{kind}" [Kind::ALL] "Creates one", &[DRY_RUN], Object => Created, policy::create),
    route!(GET "/api/{kind}/{name}" [Kind::ALL] "Shows one, by name or id", &[], Nothing => Object, policy::show),
    route!(PUT "/api/{kind}/{name}" [Kind::ALL] "Replaces one, or creates it", &[DRY_RUN], Object => Written, policy::replace),
    route!(PATCH "/api/{kind}/{name}" [Kind::ALL] "Changes some fields of one", &[DRY_RUN], Patch => Written, policy::patch),
    route!(DELETE "/api/{kind}/{name}" [Kind::ALL] "Deletes one", &[DRY_RUN], Nothing => Written, policy::delete),
    route!(POST "/api/{kind}/{name}/enable" [ENABLE] "Enables one", &[DRY_RUN], Nothing => Written, policy::enable),
    route!(POST "/api/{kind}/{name}/disable" [ENABLE] "Disables one", &[DRY_RUN], Nothing => Written, policy::disable),
    route!(POST "/api/virtual-keys/{name}/rotate" [&[]] "Gives a key another secret; the old one may hold for a while", &[], Rotation => Key, keys::rotate),
    route!(POST "/api/mcp-servers/{name}/reconnect" [&[]] "Connects a server anew", &[], Nothing => Json, servers::reconnect),
    route!(POST "/api/mcp-servers/{name}/authorize" [&[]] "Begins the OAuth authorisation of a server", &[], Nothing => Json, servers::authorize),
    route!(GET "/api/mcp-servers/{name}/tools" [&[]] "Lists the tools that a server offers now", &[], Nothing => Json, servers::tools),
    route!(POST "/api/apply" [&[]] "Makes the law what a policy file says", APPLY, File => Changes, apply::apply),
    route!(POST "/api/diff" [&[]] "Says what applying a policy file would change", &[PRUNE], File => Changes, apply::diff),
    route!(GET "/api/export" [&[]] "Gives the law as a policy file", EXPORT, Nothing => File, apply::export),
    route!(GET "/api/budgets" [&[]] "Lists budgets: limit, settled, outstanding, available, and who holds what", &[LIMIT, CURSOR, SEARCH], Nothing => Budgets, budgets::list),
    route!(GET "/api/budgets/{name}" [&[]] "Shows one budget", &[], Nothing => Budget, budgets::show),
    route!(GET "/api/logs" [&[]] "Lists calls, newest first", LOG_FILTERS, Nothing => Logs, requests::logs),
    route!(GET "/api/logs/{name}" [&[]] "Shows one call, with its bodies where they were kept", &[], Nothing => Log, requests::log),
    route!(GET "/api/usage" [&[]] "Sums calls, tokens and money", USAGE_FILTERS, Nothing => Usage, requests::usage),
    route!(GET "/api/status" [&[]] "Says how this node is", &[], Nothing => Json, status::status),
    route!(GET "/api/openapi.json" [&[]] "This document", &[], Nothing => Json, openapi::serve),
];
