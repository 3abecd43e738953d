//! Who may call what: the one function that every path asks (`/mcp`, explicit execution, injection into prompts).

use std::sync::Arc;

use althing_domain::pattern::Pattern;
use althing_domain::policy::ToolGroup;
use async_trait::async_trait;
use http::HeaderMap;
use serde_json::value::RawValue;
use smallvec::SmallVec;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::call::{Call, CallError, Progress};
use super::catalog::{Catalog, ToolEntry};
use super::federation::Federation;
use crate::error::{Code, Error};
use crate::telemetry::probe::Origin;

/// The most entries of a filter header.
const FILTER_ENTRIES_MAX: usize = 256;

/// A caller, and what the law lets it do with tools. The stages before have made sure who it is.
///
/// Answers of one value do not change: a later law is another value, which [`ToolCaller::refresh`] gives.
#[async_trait]
pub trait ToolCaller: Send + Sync {
    /// Who it is. Sessions, cursors and idempotency keys are bound to this.
    fn principal(&self) -> &str;

    /// Which of those that have, or had, the principal's name it is: a name that was given up may be given again.
    fn number(&self) -> u64 {
        0
    }

    /// All that its answers on tools follow from, as a value: what was made for one caller serves every other whose
    /// grants are equal.
    fn grants(&self) -> Grants;

    /// Whether it may call the tool that policy calls `server/tool`.
    fn may_call(&self, policy: &str) -> bool;

    /// Whether it may call anything of `server`, known tools or not: [`reaches`] tells for a pattern.
    fn may_reach(&self, server: &str) -> bool;

    /// The tool group, where there is one of that name and it may use it.
    fn group(&self, name: &str) -> Option<Arc<ToolGroup>>;

    /// Whether calls of it are traced, so that it is worth reading what they say of their traces.
    fn is_traced(&self) -> bool {
        false
    }

    /// The same caller under the law as it is now; `None` where it may not call any more.
    fn refresh(&self) -> Option<Arc<dyn ToolCaller>>;

    /// Runs a call: admission, the call itself, settlement. Dropping the future cancels it.
    ///
    /// # Errors
    ///
    /// What the caller is to be told; [`failure`] makes it of a [`CallError`].
    async fn run(&self, request: ToolRequest) -> Result<Box<RawValue>, Error>;

    /// Records a call that is not run, and why: an attempt at a tool is known whatever came of it.
    async fn refused(&self, attempt: Attempt, error: &Error);
}

/// What somebody may do with tools: who has equal ones may do the same. A later law is another value only where it
/// says something else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Grants {
    /// The tools, as `server/tool`.
    pub tools: Arc<[Pattern]>,
    /// The groups, with what is in them.
    pub groups: SmallVec<[Arc<ToolGroup>; 2]>,
}

impl Grants {
    /// About how many bytes it holds. Some of them others hold as well.
    pub(crate) fn bytes(&self) -> usize {
        let groups = self.groups.iter().flat_map(|it| &it.tools);
        self.tools.iter().chain(groups).map(|it| size_of::<Pattern>() + it.0.len()).sum()
    }
}

/// A call that is refused before it can be run, as far as it could be read.
#[derive(Debug, Clone, Default)]
pub struct Attempt {
    /// The tool, as its caller named it.
    pub name: Option<String>,
    /// The tool of that name, where there is one: the caller may not be allowed it.
    pub tool: Option<Arc<ToolEntry>>,
    /// The arguments, as they came.
    pub arguments: Option<Box<RawValue>>,
    /// The model request that the call belongs to.
    pub parent: Option<String>,
}

/// A call of a tool that the caller may make and whose arguments fit.
#[derive(Debug)]
pub struct ToolRequest {
    /// The tool.
    pub tool: Arc<ToolEntry>,
    /// The arguments, a JSON object, as they came.
    pub arguments: Option<Box<RawValue>>,
    /// The caller's `_meta`, as it came.
    pub meta: Option<Box<RawValue>>,
    /// The model request that the call belongs to (`x-althing-parent`).
    pub parent: Option<String>,
    /// The caller's idempotency key.
    pub idempotency_key: Option<String>,
    /// Where progress goes, if the caller wants it.
    pub progress: Option<Progress>,
    /// Cancels the call.
    pub cancel: CancellationToken,
    /// The caller's MCP capabilities, where it declared them.
    pub capabilities: Option<Box<RawValue>>,
    /// What the call's trace hangs on; `None` where the caller is not traced.
    pub origin: Option<Box<Origin>>,
}

impl ToolRequest {
    /// What the federation is asked.
    #[must_use]
    pub fn into_call(self) -> Call {
        Call {
            arguments: self.arguments,
            meta: self.meta,
            progress: self.progress,
            cancel: self.cancel,
            // Not for an idempotency key: the tool's server does not know it, so it would run the call twice.
            idempotent: self.tool.hints.idempotent,
            capabilities: self.capabilities,
            ..Call::new(self.tool.server.clone(), self.tool.name.as_ref())
        }
    }
}

/// What a caller is told of a call that has no result.
#[must_use]
pub fn failure(error: &CallError) -> Error {
    let code = match error {
        CallError::UnknownTool => return Error::of(Code::ToolUnknown),
        CallError::Unavailable { .. } => Code::ServerUnavailable,
        CallError::Busy { .. } => Code::Overloaded,
        CallError::Timeout { .. } => Code::UpstreamTimeout,
        CallError::Cancelled => Code::Cancelled,
        CallError::OutcomeUnknown { .. } => Code::OutcomeUnknown,
        CallError::Rpc { .. } => Code::UpstreamFailed,
        CallError::TooLarge { .. } => Code::ResultTooLarge,
        CallError::Malformed { .. } => Code::UpstreamMalformed,
        CallError::InputRequired { .. } => Code::NotSupported,
    };
    let mut failure = Error::new(code, error.to_string());
    match error {
        CallError::Rpc { code, message, data } => {
            failure.message = message.clone().into();
            failure.upstream_type = Some(code.to_string());
            failure.upstream_data = data.as_ref().map(|it| it.get().into());
        }
        CallError::Unavailable { .. } | CallError::Busy { .. } => {
            failure.retry_after = Some(std::time::Duration::from_secs(1));
        }
        _ => {}
    }
    failure
}

/// Where the catalogue comes from.
pub trait Catalogs: Send + Sync {
    /// What is offered now.
    fn catalog(&self) -> Arc<Catalog>;
    /// Grows with every change of it.
    fn version(&self) -> watch::Receiver<u64>;
}

impl Catalogs for Federation {
    fn catalog(&self) -> Arc<Catalog> {
        Self::catalog(self)
    }
    fn version(&self) -> watch::Receiver<u64> {
        Self::version(self)
    }
}

/// A caller's own narrowing, from request headers. It never widens.
///
/// Each list that is given must name a tool; an empty one names none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    tools: Option<Vec<Pattern>>,
    bf_clients: Option<Vec<Pattern>>,
    bf_tools: Option<Vec<Pattern>>,
}

impl Filter {
    /// Reads `x-althing-tools` (`server/tool` or `server-tool`), `x-bf-mcp-include-clients` (`server`) and
    /// `x-bf-mcp-include-tools` (`server-tool`). Entries are separated by commas; `*` stands for any run.
    ///
    /// # Errors
    ///
    /// [`Code::InvalidHeader`] where one is not text, or has too many entries.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, Error> {
        Ok(Self {
            tools: list(headers, "x-althing-tools")?,
            bf_clients: list(headers, "x-bf-mcp-include-clients")?,
            bf_tools: list(headers, "x-bf-mcp-include-tools")?,
        })
    }

    /// About how many bytes it holds.
    pub(crate) fn bytes(&self) -> usize {
        let lists = [&self.tools, &self.bf_clients, &self.bf_tools];
        let entries = lists.into_iter().flatten().flatten();
        entries.map(|it| size_of::<Pattern>() + it.0.len()).sum()
    }

    fn permits(&self, tool: &ToolEntry) -> bool {
        let named = |patterns: &Option<Vec<Pattern>>| {
            patterns.as_ref().is_none_or(|all| {
                // The short name may have been shortened: its long form counts as well.
                let long = format!("{}-{}", tool.server, tool.name);
                all.iter().any(|it| {
                    it.matches(&tool.policy) || it.matches(&tool.flat) || it.matches(&long)
                })
            })
        };
        let server = self
            .bf_clients
            .as_ref()
            .is_none_or(|all| all.iter().any(|it| it.matches(tool.server.as_str())));
        server && named(&self.tools) && named(&self.bf_tools)
    }
}

fn list(headers: &HeaderMap, name: &'static str) -> Result<Option<Vec<Pattern>>, Error> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    let mut patterns = Vec::new();
    for value in headers.get_all(name) {
        let invalid = || {
            Error::new(Code::InvalidHeader, format!("`{name}` must be names separated by commas"))
                .with_param(name)
        };
        let text = value.to_str().map_err(|_| invalid())?;
        patterns
            .extend(text.split(',').map(str::trim).filter(|it| !it.is_empty()).map(Pattern::from));
        if FILTER_ENTRIES_MAX < patterns.len() {
            return Err(invalid());
        }
    }
    Ok(Some(patterns))
}

/// Whether `pattern` (over `server/tool`) can match any tool of `server`.
#[must_use]
pub fn reaches(pattern: &Pattern, server: &str) -> bool {
    let prefix = format!("{server}/");
    match pattern.0.split_once('*') {
        // What a star stands for is free, so only the text before it binds.
        Some((before, _)) => before.starts_with(&prefix) || prefix.starts_with(before),
        None => pattern.0.starts_with(&prefix),
    }
}

/// What one request may see: the law, narrowed by where it is asked and by the caller's own filter.
#[derive(Clone)]
pub struct Scope {
    caller: Arc<dyn ToolCaller>,
    filter: Arc<Filter>,
    group: Option<Arc<ToolGroup>>,
    /// The one server that the group names, where it names only one.
    sole: Option<Arc<str>>,
    names: Names,
}

/// How tools are called in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Names {
    /// `server-tool`.
    Flat,
    /// As their server calls them, where the group names only one.
    Plain,
}

impl Scope {
    /// Every tool that the caller may use.
    #[must_use]
    pub fn all(caller: Arc<dyn ToolCaller>, filter: Arc<Filter>) -> Self {
        Self { caller, filter, group: None, sole: None, names: Names::Flat }
    }

    /// Those of a group; `None` where there is no such group, or the caller may not use it.
    #[must_use]
    pub fn group(
        caller: Arc<dyn ToolCaller>,
        filter: Arc<Filter>,
        name: &str,
        names: Names,
    ) -> Option<Self> {
        let group = caller.group(name)?;
        let sole = sole_server(&group);
        Some(Self { caller, filter, group: Some(group), sole, names })
    }

    /// The same under the law as it is now; `None` where nothing is left of it.
    #[must_use]
    pub fn refresh(&self) -> Option<Self> {
        let caller = self.caller.refresh()?;
        let filter = Arc::clone(&self.filter);
        match &self.group {
            None => Some(Self::all(caller, filter)),
            Some(group) => Self::group(caller, filter, group.name.as_str(), self.names),
        }
    }

    /// Who calls.
    #[must_use]
    pub fn caller(&self) -> &Arc<dyn ToolCaller> {
        &self.caller
    }

    /// The caller's own narrowing.
    #[must_use]
    pub fn filter(&self) -> &Arc<Filter> {
        &self.filter
    }

    /// The group it is narrowed to.
    #[must_use]
    pub fn tool_group(&self) -> Option<&Arc<ToolGroup>> {
        self.group.as_ref()
    }

    /// Whether tools keep their server's names.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.names == Names::Plain && self.sole.is_some()
    }

    /// Whether `tool` may be seen and called.
    #[must_use]
    pub fn permits(&self, tool: &ToolEntry) -> bool {
        let in_group = self
            .group
            .as_ref()
            .is_none_or(|group| group.tools.iter().any(|it| it.matches(&tool.policy)));
        in_group && self.caller.may_call(&tool.policy) && self.filter.permits(tool)
    }

    /// What `tool` is called here.
    #[must_use]
    pub fn name<'t>(&self, tool: &'t ToolEntry) -> &'t str {
        if self.is_plain() { &tool.name } else { &tool.flat }
    }

    /// The tool that is called `name` here. A tool that may not be called is not found.
    ///
    /// In a group of one server its own names are understood too: clients drop `?names=plain` from an address.
    #[must_use]
    pub fn find(&self, catalog: &Catalog, name: &str) -> Option<Arc<ToolEntry>> {
        self.named(catalog, name).filter(|it| self.permits(it)).cloned()
    }

    /// The tool that is called `name` here, whether it may be called or not. For records, never for callers.
    #[must_use]
    pub fn named<'c>(&self, catalog: &'c Catalog, name: &str) -> Option<&'c Arc<ToolEntry>> {
        let flat = if self.is_plain() { None } else { catalog.by_flat(name) };
        flat.or_else(|| self.sole.as_ref().and_then(|server| catalog.by_name(server, name)))
    }

    /// Every tool that may be called, in the catalogue's order.
    pub fn tools<'c>(&'c self, catalog: &'c Catalog) -> impl Iterator<Item = &'c Arc<ToolEntry>> {
        catalog.tools.iter().filter(|it| self.permits(it))
    }

    /// Servers that the caller may use and that are not ready, so that their tools may be missing.
    pub fn not_ready<'c>(&'c self, catalog: &'c Catalog) -> impl Iterator<Item = &'c str> {
        catalog.not_ready.iter().map(|it| it.as_str()).filter(|server| {
            let in_group = self
                .group
                .as_ref()
                .is_none_or(|group| group.tools.iter().any(|it| reaches(it, server)));
            in_group && self.caller.may_reach(server)
        })
    }
}

/// The one server that all of the group's patterns name.
fn sole_server(group: &ToolGroup) -> Option<Arc<str>> {
    let mut servers = group.tools.iter().map(|it| it.0.split_once('/').map(|it| it.0));
    let first = servers.next()??;
    let is_sole = !first.contains('*') && servers.all(|it| it == Some(first));
    is_sole.then(|| Arc::from(first))
}

#[cfg(test)]
pub(crate) mod tests;
