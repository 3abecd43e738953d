//! Speaking to a running gateway.

use std::path::PathBuf;
use std::time::Duration;

use althing_domain::secret::Secret;
use http::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use super::{Exit, Failed};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Where the gateway is, and how to prove who asks.
#[derive(Debug, clap::Args)]
pub(super) struct Remote {
    /// Where the gateway is.
    #[arg(long, env = "ALTHING_URL", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub(super) url: String,
    /// The admin key, or `env:NAME` or `file:/path` of it. Prefer the variable: arguments show in the list of processes.
    #[arg(long, env = "ALTHING_ADMIN_KEY", hide_env_values = true, value_name = "KEY")]
    pub(super) key: Option<String>,
    /// A PEM file of certificate authorities to trust beside the system's.
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// Answers as JSON, for machines.
    #[arg(long)]
    pub(super) json: bool,
}

/// A gateway, as an administrator asks it.
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    key: SecretString,
}

impl Client {
    pub(super) fn new(remote: &Remote) -> Result<Self, Failed> {
        let key = remote.key.as_deref().ok_or_else(|| {
            Failed::new(Exit::Usage, "give the admin key: --key, or ALTHING_ADMIN_KEY")
        })?;
        let (http, base) = connect(&remote.url, remote.ca.as_ref(), Some(ANSWER_WITHIN))?;
        Ok(Self { http, base, key: resolve(key)? })
    }

    /// Asks, and reads JSON.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<Value, Failed> {
        let text = self.ask_text(method, path, query, body).await?;
        serde_json::from_str(&text)
            .map_err(|_| Failed::other("the answer is not JSON: is this an althing gateway?"))
    }

    /// Asks, and reads text.
    pub(super) async fn ask_text(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<String, Failed> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| Failed::new(Exit::Usage, "--url must be http:// or https://"))?
            .pop_if_empty()
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.http.request(method, url).bearer_auth(self.key.expose_secret());
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let response = request.send().await.map_err(|it| unreachable(&self.base, &it))?;
        let status = response.status().as_u16();
        let text = response.text().await.map_err(|it| unreachable(&self.base, &it))?;
        if (200..300).contains(&status) { Ok(text) } else { Err(refused(status, &text)) }
    }
}

/// A client, and the address it is for.
pub(super) fn connect(
    url: &str,
    ca: Option<&PathBuf>,
    within: Option<Duration>,
) -> Result<(reqwest::Client, Url), Failed> {
    let base: Url =
        url.parse().map_err(|it| Failed::new(Exit::Usage, format!("--url {url}: {it}")))?;
    if !matches!(base.scheme(), "http" | "https") {
        return Err(Failed::new(Exit::Usage, "--url must be http:// or https://"));
    }
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_WITHIN)
        // The key goes nowhere else.
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("althing/", env!("CARGO_PKG_VERSION")));
    if let Some(within) = within {
        builder = builder.timeout(within);
    }
    if let Some(path) = ca {
        let pem = std::fs::read(path)
            .map_err(|it| Failed::new(Exit::Usage, format!("{}: {it}", path.display())))?;
        for certificate in reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|it| Failed::new(Exit::Usage, format!("{}: {it}", path.display())))?
        {
            builder = builder.add_root_certificate(certificate);
        }
    }
    Ok((builder.build().map_err(Failed::other)?, base))
}

/// A key that is given itself, or as `env:NAME` or `file:/path`.
pub(super) fn resolve(key: &str) -> Result<SecretString, Failed> {
    let key = althing_config::secret_ref::resolve(&Secret::new(key));
    key.map_err(|it| Failed::new(Exit::Usage, format!("--key: {it}")))
}

pub(super) fn unreachable(base: &Url, error: &reqwest::Error) -> Failed {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let text = if error.is_timeout() {
        format!("{base} did not answer in time")
    } else {
        format!("{base} cannot be reached: {cause}. Is it running? --url or ALTHING_URL says where")
    };
    Failed::new(Exit::Unavailable, text)
}

/// What a gateway refused, in its own words.
pub(super) fn refused(status: u16, text: &str) -> Failed {
    let exit = match status {
        400 | 413 | 415 => Exit::Usage,
        401 | 403 => Exit::NotAllowed,
        502..=504 => Exit::Unavailable,
        _ => Exit::Failed,
    };
    let body: Value = serde_json::from_str(text).unwrap_or_default();
    let error = body.get("error").unwrap_or(&Value::Null);
    let said = |it: &Value, name: &str| it.get(name).and_then(Value::as_str).map(str::to_owned);
    let problems = error.get("problems").and_then(Value::as_array);
    let mut lines: Vec<String> = problems
        .into_iter()
        .flatten()
        .map(|it| {
            let path = said(it, "path").filter(|it| !it.is_empty());
            let message = said(it, "message").unwrap_or_default();
            path.map_or_else(|| format!("  {message}"), |path| format!("  {path}: {message}"))
        })
        .collect();
    let head = match (lines.len(), said(error, "message")) {
        (0 | 1, Some(message)) => {
            lines.clear();
            message
        }
        (_, Some(_)) => "it was refused:".to_owned(),
        (_, None) => format!("the answer was HTTP {status}: is this an althing gateway?"),
    };
    lines.insert(0, head);
    Failed::new(exit, lines.join("\n"))
}
