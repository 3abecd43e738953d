//! Administration: `/api`.
//!
//! One object model: what the policy file says, this API says. Every route is one line of
//! [`table::ROUTES`], from which the router, the check of credentials and the `OpenAPI`
//! document are made; a route that is not in it does not exist.

use std::sync::Arc;
use std::time::Duration;

use althing_config::AllowList;
use althing_domain::time::Clock;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::routing::MethodFilter;
use http::{HeaderMap, Method, Response};
use uuid::Uuid;

use crate::error::{Code, Error};
use call::{Call, Failure};
use table::{Bound, Route, Takes};

mod apply;
mod budgets;
pub mod call;
pub mod failure;
mod keys;
pub mod law;
pub mod logs;
pub mod openapi;
mod page;
pub mod params;
mod policy;
pub mod ports;
pub mod records;
mod requests;
mod secrets;
mod servers;
pub mod start;
mod status;
pub mod table;
pub mod usage;

/// A policy file may be this large.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long a read waits for the log index that it asks for.
const INDEX_WITHIN: Duration = Duration::from_secs(10);

/// The id of a request, where the listener gave it one (as an extension).
#[derive(Debug, Clone, Copy)]
pub struct RequestId(pub Uuid);

/// What administration needs.
pub struct Admin {
    /// The law.
    pub law: Arc<dyn ports::Law>,
    /// The MCP servers.
    pub servers: Arc<dyn ports::Servers>,
    /// The routes over the request log: [`records::router`].
    pub records: Router,
    /// What the node says of itself.
    pub status: ports::NodeStatus,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Which references to secrets may be made over the API.
    pub allow: AllowList,
    /// Provider names that bring their own dialect and address.
    pub vendors: Vec<&'static str>,
    /// The node's name.
    pub node: String,
    /// The settings that the node runs with, by section, secrets hidden.
    pub settings: serde_json::Map<String, serde_json::Value>,
}

/// The router of all routes under `/api`.
pub fn router(admin: Arc<Admin>) -> Router {
    let mut router = Router::new();
    for bound in table::bound() {
        let Some(filter) = filter(&bound.route.method) else { continue };
        let path = bound.path();
        let handler = move |State(admin): State<Arc<Admin>>, request: Request| {
            let bound = bound.clone();
            async move { serve(&admin, &bound, request).await }
        };
        router = router.route(&path, axum::routing::on(filter, handler));
    }
    router
        .method_not_allowed_fallback(|request: Request| async move {
            let text = format!("this route does not take {}", request.method());
            Failure::from(Error::new(Code::MethodNotAllowed, text))
                .into_response(request_id(&request))
        })
        .fallback(|request: Request| async move {
            let text = "there is no such route: see /api/openapi.json";
            Failure::from(Error::new(Code::NotFound, text)).into_response(request_id(&request))
        })
        .with_state(admin)
}

fn filter(method: &Method) -> Option<MethodFilter> {
    MethodFilter::try_from(method.clone()).ok()
}

fn request_id(request: &Request) -> Uuid {
    request.extensions().get::<RequestId>().map_or_else(Uuid::now_v7, |it| it.0)
}

async fn serve(admin: &Arc<Admin>, bound: &Bound, request: Request) -> Response<Body> {
    let id = request_id(&request);
    match answer(admin, bound, request, id).await {
        Ok(reply) => reply.into_response(),
        Err(failure) => failure.into_response(id),
    }
}

async fn answer(
    admin: &Arc<Admin>,
    bound: &Bound,
    request: Request,
    request_id: Uuid,
) -> Result<call::Reply, Failure> {
    let (parts, body) = request.into_parts();
    authorize(admin, &parts.headers)?;
    let query = read_query(bound.route, parts.uri.query().unwrap_or_default())?;
    let name = bound.name_in(parts.uri.path())?;
    let body = axum::body::to_bytes(body, BODY_BYTES_MAX).await.map_err(|_| {
        let text = format!("the body did not arrive, or is larger than {BODY_BYTES_MAX} bytes");
        Error::new(Code::BodyTooLarge, text)
    })?;
    let takes_nothing = bound.route.takes == Takes::Nothing;
    if takes_nothing && !matches!(body.trim_ascii(), b"" | b"{}" | b"null") {
        return Err(Error::new(Code::InvalidField, "this route takes no body: leave it out").into());
    }
    let call = Call { kind: bound.kind, name, query, headers: parts.headers, body, request_id };
    heed(admin, &call).await?;
    (bound.route.handler)(Arc::clone(admin), call).await
}

/// Does what the parameters that every route takes ask for.
async fn heed(admin: &Admin, call: &Call) -> Result<(), Failure> {
    // A write is answered when this node has applied it, and so far it is the only one.
    if !matches!(call.param("wait"), None | Some("all")) {
        return Err(Error::field("wait", "write `all`, or leave it out").into());
    }
    let index = call.number("min_index", 0, (0, u64::MAX))?;
    if admin.law.reaches(index, INDEX_WITHIN).await {
        return Ok(());
    }
    let text =
        format!("this node has not applied log index {index} yet: ask again, or another node");
    Err(Error::new(Code::Overloaded, text).with_retry_after(Duration::from_secs(1)).into())
}

/// Lets in who shows the admin key.
fn authorize(admin: &Admin, headers: &HeaderMap) -> Result<(), Error> {
    let shown = credential(headers)?;
    let shown = shown.ok_or_else(|| {
        Error::new(
            Code::MissingKey,
            "give the admin key as `Authorization: Bearer …` or `x-althing-key: …`",
        )
    })?;
    let (state, hash) = (admin.law.state(), admin.law.hash(shown.as_bytes()));
    let known = state.admin_key().is_some_and(|it| althing_storage::seal::is_same(&it.0, &hash.0));
    if known {
        return Ok(());
    }
    if state.key_by_hash(&hash, admin.clock.now()).is_some() {
        let text = "this is a virtual key: administration takes the admin key";
        return Err(Error::new(Code::Forbidden, text));
    }
    Err(Error::new(Code::InvalidKey, "this is not the admin key of this gateway"))
}

fn credential(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let text = |name: &str| headers.get(name).and_then(|it| it.to_str().ok()).map(str::trim);
    let bearer = text("authorization").and_then(|it| {
        let (scheme, rest) = it.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(rest.trim())
    });
    match (bearer, text("x-althing-key")) {
        (Some(a), Some(b)) if a != b => Err(Error::of(Code::TwoKeys)),
        (a, b) => Ok(a.or(b).filter(|it| !it.is_empty())),
    }
}

fn read_query(route: &Route, query: &str) -> Result<ports::Query, Error> {
    let mut found = ports::Query::new();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if !table::ANYWHERE.iter().chain(route.query).any(|it| it.name == name) {
            let known: Vec<&str> = route.query.iter().map(|it| it.name).collect();
            let text = match known.as_slice() {
                [] => "this route takes no such parameter".to_owned(),
                known => format!("no such parameter: this route takes {}", known.join(", ")),
            };
            let shown: String = name.chars().filter(|it| !it.is_control()).take(64).collect();
            return Err(Error::field(shown, text));
        }
        if found.insert(name.into_owned(), value.into_owned()).is_some() {
            return Err(Error::new(Code::DuplicateField, "a query parameter stands twice"));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
