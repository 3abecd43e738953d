//! Who authorises for a server: protected resource metadata (RFC 9728), authorization server metadata (RFC 8414, OIDC).

use http::{StatusCode, Uri};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::challenge::Challenge;
use super::fetch::{Document, Fetcher};

/// What is known of the authorization server of a resource.
#[derive(Debug, Clone)]
pub(super) struct Issuer {
    pub(super) metadata: Metadata,
    /// What the resource calls itself.
    pub(super) resource: Option<String>,
    /// The scopes that the resource says it has.
    pub(super) resource_scopes: Vec<String>,
}

/// Metadata of an authorization server.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Metadata {
    pub(super) issuer: String,
    #[serde(default)]
    pub(super) authorization_endpoint: Option<String>,
    pub(super) token_endpoint: String,
    #[serde(default)]
    pub(super) registration_endpoint: Option<String>,
    #[serde(default)]
    pub(super) scopes_supported: Vec<String>,
    #[serde(default)]
    pub(super) code_challenge_methods_supported: Vec<String>,
    #[serde(default)]
    pub(super) token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
}

#[derive(Deserialize)]
struct Resource {
    resource: String,
    #[serde(default)]
    authorization_servers: Vec<String>,
    #[serde(default)]
    scopes_supported: Vec<String>,
}

/// Finds the authorization server of `resource`.
pub(super) async fn discover(
    fetcher: &Fetcher,
    resource: &Uri,
    challenge: &Challenge,
) -> Result<Issuer, String> {
    match protected_resource(fetcher, resource, challenge).await? {
        Some(document) => {
            if !covers(&document.resource, resource) {
                return Err("its protected resource metadata is for another resource".to_owned());
            }
            let issuer = document
                .authorization_servers
                .first()
                .ok_or("its protected resource metadata names no authorization server")?;
            let metadata = authorization_server(fetcher, issuer).await?;
            let metadata = metadata.ok_or("its authorization server publishes no metadata")?;
            Ok(Issuer {
                metadata,
                resource: Some(document.resource),
                resource_scopes: document.scopes_supported,
            })
        }
        // Revision 2025-03-26: the server is its own authorization server, at known places if it says nothing.
        None => {
            let origin = origin(resource);
            let metadata = authorization_server(fetcher, &origin).await?;
            let metadata = metadata.unwrap_or_else(|| Metadata {
                issuer: origin.clone(),
                authorization_endpoint: Some(format!("{origin}/authorize")),
                token_endpoint: format!("{origin}/token"),
                registration_endpoint: Some(format!("{origin}/register")),
                scopes_supported: Vec::new(),
                code_challenge_methods_supported: vec!["S256".to_owned()],
                token_endpoint_auth_methods_supported: None,
                authorization_response_iss_parameter_supported: false,
            });
            Ok(Issuer { metadata, resource: None, resource_scopes: Vec::new() })
        }
    }
}

async fn protected_resource(
    fetcher: &Fetcher,
    resource: &Uri,
    challenge: &Challenge,
) -> Result<Option<Resource>, String> {
    if let Some(named) = &challenge.resource_metadata {
        let document = read(&fetcher.get(named).await?)?;
        return document
            .map(Some)
            .ok_or_else(|| "its protected resource metadata is not where it says".to_owned());
    }
    let (origin, path) = (origin(resource), resource.path().trim_end_matches('/'));
    for place in [path, ""] {
        let url = format!("{origin}/.well-known/oauth-protected-resource{place}");
        // A document of another kind at this place is no document.
        if let Ok(Some(found)) = read(&fetcher.get(&url).await?) {
            return Ok(Some(found));
        }
        if path.is_empty() {
            break;
        }
    }
    Ok(None)
}

/// Looks at each place where the metadata of `issuer` may be. Its `issuer` must be the one that was looked for.
async fn authorization_server(fetcher: &Fetcher, issuer: &str) -> Result<Option<Metadata>, String> {
    let parsed = fetcher.allowed(issuer)?;
    let (origin, path) = (origin(&parsed), parsed.path().trim_end_matches('/'));
    let mut places = vec![
        format!("{origin}/.well-known/oauth-authorization-server{path}"),
        format!("{origin}/.well-known/openid-configuration{path}"),
    ];
    if !path.is_empty() {
        places.push(format!("{origin}{path}/.well-known/openid-configuration"));
    }
    for place in places {
        let Ok(Some(metadata)) = read::<Metadata>(&fetcher.get(&place).await?) else { continue };
        // Else one authorization server could pass for another (mix-up).
        if metadata.issuer.trim_end_matches('/') != issuer.trim_end_matches('/') {
            return Err("its authorization server's metadata is that of another issuer".to_owned());
        }
        fetcher.allowed(&metadata.token_endpoint)?;
        return Ok(Some(metadata));
    }
    Ok(None)
}

/// `None` where there is none.
fn read<T: DeserializeOwned>(document: &Document) -> Result<Option<T>, String> {
    match document.status {
        StatusCode::OK => serde_json::from_slice(&document.body)
            .map(Some)
            .map_err(|_| "an OAuth metadata document cannot be read".to_owned()),
        status if status.is_server_error() => Err(format!(
            "an OAuth metadata document cannot be had (HTTP status {})",
            status.as_u16()
        )),
        _ => Ok(None),
    }
}

fn origin(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or("https");
    format!("{scheme}://{}", uri.authority().map_or("", http::uri::Authority::as_str))
}

/// Whether metadata for `named` speaks for `resource`: the same origin, and a path that is the same or above.
fn covers(named: &str, resource: &Uri) -> bool {
    let Ok(named) = named.parse::<Uri>() else { return false };
    let path = named.path().trim_end_matches('/');
    let is_above = resource
        .path()
        .strip_prefix(path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    origin(&named).eq_ignore_ascii_case(&origin(resource)) && is_above
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn metadata_speaks_for_its_own_resource_and_what_is_below() {
        let resource = "https://x.example/a/mcp".parse().expect("a URI");
        for (named, expected) in [
            ("https://x.example/a/mcp", true),
            ("https://X.example/a/mcp/", true),
            ("https://x.example/a", true),
            ("https://x.example", true),
            ("https://x.example/a/m", false),
            ("https://x.example/b", false),
            ("https://y.example/a/mcp", false),
            ("http://x.example/a/mcp", false),
            ("", false),
        ] {
            assert_eq!(covers(named, &resource), expected, "{named}");
        }
    }
}
