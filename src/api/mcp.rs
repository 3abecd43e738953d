//! MCP and explicit execution, from the edge to the parts that know how.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response, header};

use super::body::Body;
use super::{Api, llm, read, record};
use crate::auth;
use crate::control::view::{KeyView, View};
use crate::error::{Code, Error};
use crate::gateway::{Arrival, Gateway};
use crate::listen::RequestBody;
use crate::mcp::caller::KeyCaller;
use crate::mcp::scope::ToolCaller;
use crate::mcp::server::Target;

/// Whether the path belongs to MCP.
#[must_use]
pub fn is_mcp(path: &str) -> bool {
    path == "/mcp" || path.starts_with("/mcp/") || path == "/sse" || path.starts_with("/sse/")
}

/// Answers an MCP client.
pub async fn serve(api: &Api, arrival: Arrival, parts: Parts, body: RequestBody) -> Response<Body> {
    let (view, key) = match known(api, arrival, &parts) {
        Ok(it) => it,
        Err(error) => return plain(&error, arrival),
    };
    let is_off_record = match record::is_off(&api.gateway, &parts.headers, &key) {
        Ok(it) => it,
        Err(error) => return crate::mcp::server::refused(error).map(Body::boxed),
    };
    let caller = KeyCaller::of_request(&api.gateway, (&view, &key), arrival, is_off_record);
    let mut response = answer(api, arrival, caller, (parts, body)).await;
    super::limits::put(&key, response.headers_mut());
    response
}

async fn answer(
    api: &Api,
    arrival: Arrival,
    caller: Arc<dyn ToolCaller>,
    (parts, body): (Parts, RequestBody),
) -> Response<Body> {
    let path = parts.uri.path().to_owned();
    let body = match read::body(&api.gateway, &parts.headers, body).await {
        Ok(it) => it,
        Err(error) => return plain(&error, arrival),
    };
    let request = Request::from_parts(parts, body);
    let response = match path.as_str() {
        "/mcp" | "/mcp/" => api.mcp.handle(request, caller, Target::All).await,
        "/sse" => api.mcp.handle_sse(&request, caller, Target::All),
        "/sse/message" => api.mcp.handle_sse_message(&request, caller),
        _ => match path.strip_prefix("/mcp/") {
            Some(group) if !group.contains('/') => {
                api.mcp.handle(request, caller, Target::Group(group.to_owned())).await
            }
            _ => return plain(&Error::of(Code::NotFound), arrival),
        },
    };
    response.map(Body::boxed)
}

/// `POST /v1/mcp/tool/execute`.
pub async fn execute(
    api: &Api,
    arrival: Arrival,
    parts: &Parts,
    body: RequestBody,
) -> Response<Body> {
    let (view, key) = match known(api, arrival, parts) {
        Ok(it) => it,
        Err(error) => return plain(&error, arrival),
    };
    let executed = async {
        let is_off_record = record::is_off(&api.gateway, &parts.headers, &key)?;
        let caller = KeyCaller::of_request(&api.gateway, (&view, &key), arrival, is_off_record);
        let body = read::body(&api.gateway, &parts.headers, body).await?;
        api.executor.execute(caller, &parts.headers, parts.uri.query(), &body).await
    };
    let mut response = match executed.await {
        Ok(done) => {
            let mut response = llm::json(Response::new(Body::full(done.body)));
            if done.is_error {
                let name = HeaderName::from_static("x-althing-tool-error");
                response.headers_mut().insert(name, HeaderValue::from_static("true"));
            }
            response
        }
        Err(error) => plain(&error, arrival),
    };
    super::limits::put(&key, response.headers_mut());
    response
}

/// Who calls, and the law of now.
fn known(api: &Api, arrival: Arrival, parts: &Parts) -> Result<(Arc<View>, Arc<KeyView>), Error> {
    let view = api.gateway.views.load_full();
    let key = api.gateway.caller(&view, &parts.headers, parts.uri.query(), arrival.wall)?;
    Ok((view, key))
}

/// An error before a message was read: in OpenAI's shape, which tools' callers share with chat.
fn plain(error: &Error, arrival: Arrival) -> Response<Body> {
    llm::failure(&althing_llm::dialect::openai::OPENAI, error, arrival)
}

/// Refuses browsers that no one invited, and names that resolve here by trickery (DNS rebinding, CVE-2025-64443).
///
/// # Errors
///
/// [`Code::Forbidden`].
pub fn check_origin(gateway: &Gateway, request: &Request<RequestBody>) -> Result<(), Error> {
    if let Some(origin) = request.headers().get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or("");
        let host = super::host(request).unwrap_or("");
        let is_same =
            origin.split_once("://").is_some_and(|(_, rest)| !host.is_empty() && rest == host);
        let is_listed = gateway.settings.origins.iter().any(|it| it == origin);
        let is_own = is_same && (is_local_name(host) || gateway.settings.auth == auth::Mode::Keys);
        if !is_listed && !is_own {
            let text = "this origin may not call: an administrator lists it in `browsers.origins`";
            return Err(Error::new(Code::Forbidden, text));
        }
    }
    if gateway.settings.loopback_only
        && let Some(host) = super::host(request)
        && !is_local_name(host)
    {
        let text = "the `Host` header does not name this machine's loopback, where alone this node listens";
        return Err(Error::new(Code::Forbidden, text));
    }
    Ok(())
}

fn is_local_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    const LOCAL: &[u8] = b".localhost";
    let last = name.len().checked_sub(LOCAL.len()).and_then(|at| name.as_bytes().get(at..));
    name.eq_ignore_ascii_case("localhost")
        || last.is_some_and(|it| it.eq_ignore_ascii_case(LOCAL))
        || name.parse::<std::net::IpAddr>().is_ok_and(|it| it.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_local_name;

    #[test]
    fn only_names_of_loopback_are_local() {
        for name in
            ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080", "127.9.9.9", "a.localhost"]
        {
            assert!(is_local_name(name), "{name}");
        }
        for name in [
            "",
            "example.com",
            "localhost.example.com",
            "10.0.0.1",
            "[2001:db8::1]",
            "127.0.0.1.nip.io",
        ] {
            assert!(!is_local_name(name), "{name}");
        }
    }
}
