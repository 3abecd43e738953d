//! An MCP server that Althing federates.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Span, yes};
use crate::id::Name;
use crate::money::NanoUsd;
use crate::object::{Policy, SecretPath};
use crate::pattern::{self, Pattern};
use crate::secret::Secret;
use crate::validate::Report;

/// An MCP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct McpServer {
    /// Its name: `^[a-zA-Z][a-zA-Z0-9_]{0,31}$`. Its tools are `name-tool` to callers and `name/tool` in policy.
    pub name: Name,
    /// How it is reached.
    pub transport: Transport,
    /// For `stdio`: the program and its arguments, as one line split as a POSIX shell would (no shell runs), or as a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Command>,
    /// For `stdio`: environment variables beside the few that are always passed on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Secret>,
    /// For `stdio`: the folder it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// For `http` and `sse`: where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// For `http` and `sse`: headers added to each request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// For `http` and `sse`: how the gateway proves itself to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Which of its tools are offered at all.
    #[serde(default = "all")]
    pub tools: Vec<Pattern>,
    /// Tools that Agent Mode may run without asking. Kept, and without effect until there is Agent Mode.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub auto_execute: Vec<Pattern>,
    /// Whether its tools are offered through Code Mode. Kept, and without effect until there is Code Mode.
    #[serde(default)]
    pub code_mode: bool,
    /// What one call of a tool costs, in US dollars, by tool name; `*` stands for any run of characters, and the longest
    /// pattern that fits counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prices: BTreeMap<String, NanoUsd>,
    /// How long a call may take. One minute where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Whether it may be used.
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// How an MCP server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// A child process, over its standard input and output.
    Stdio,
    /// Streamable HTTP.
    Http,
    /// The HTTP+SSE transport of revision 2024-11-05.
    Sse,
}

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Command {
    /// One line, split as a POSIX shell would.
    Line(String),
    /// One entry an argument.
    List(Vec<String>),
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LineOrList;
        impl<'de> serde::de::Visitor<'de> for LineOrList {
            type Value = Command;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a command line, or a list of the program and its arguments")
            }
            fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<Command, E> {
                Ok(Command::Line(line.to_owned()))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, seq: A) -> Result<Command, A::Error> {
                Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(seq))
                    .map(Command::List)
            }
        }
        deserializer.deserialize_any(LineOrList)
    }
}

/// How the gateway proves itself to an MCP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Auth {
    /// OAuth 2.1, as the MCP authorization specification has it.
    #[serde(rename = "oauth")]
    OAuth(OAuth),
}

/// OAuth settings of an MCP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OAuth {
    /// Which grant.
    #[serde(default)]
    pub grant: Grant,
    /// The client's id at the authorization server. Absent: registered dynamically.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The client's secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<Secret>,
    /// What to ask for. Empty: what the server says it needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// An OAuth grant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// A person authorises once (PKCE); tokens are refreshed from then on.
    #[default]
    AuthorizationCode,
    /// The gateway's own client credentials.
    ClientCredentials,
}

impl Command {
    /// The program and its arguments: a line is split as a POSIX shell would, and no shell runs.
    ///
    /// # Errors
    ///
    /// How to mend it, where a quote is not closed or there is no program.
    pub fn argv(&self) -> Result<Vec<String>, &'static str> {
        let argv = match self {
            Self::Line(line) => shell_words::split(line)
                .map_err(|_| "a quote is not closed: close it, or write a list")?,
            Self::List(list) => list.clone(),
        };
        match argv.first() {
            Some(program) if !program.is_empty() => Ok(argv),
            Some(_) | None => Err("names no program: write the program and its arguments"),
        }
    }
}

impl McpServer {
    /// What one call of `tool` costs.
    #[must_use]
    pub fn price(&self, tool: &str) -> NanoUsd {
        self.prices
            .get(tool)
            .or_else(|| pattern::longest(&self.prices, tool))
            .copied()
            .unwrap_or_default()
    }
}

impl Policy for McpServer {
    fn name(&self) -> &Name {
        &self.name
    }

    fn check(&self, report: &mut Report<'_>) {
        self.validate(report);
    }

    fn secrets(&mut self, visit: &mut dyn FnMut(SecretPath, &mut Secret)) {
        for (name, value) in &mut self.env {
            visit(SecretPath::field("env").then_field(name), value);
        }
        for (name, value) in &mut self.headers {
            visit(SecretPath::field("headers").then_field(name), value);
        }
        if let Some(Auth::OAuth(OAuth { client_secret: Some(secret), .. })) = &mut self.auth {
            visit(SecretPath::field("auth").then_field("client_secret"), secret);
        }
    }
}

fn all() -> Vec<Pattern> {
    vec![Pattern::from("*")]
}
