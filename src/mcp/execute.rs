//! Explicit execution: one tool call as the model returned it comes in, the message to append goes out.
//!
//! Nothing runs by itself: the caller decides that a call is made, and the law whether it may be.

mod book;
mod dialect;

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::HeaderMap;
use tokio_util::sync::CancellationToken;

use super::arguments;
use super::catalog::Catalog;
use super::result::{MODEL_BYTES_MAX, render};
use super::scope::{Attempt, Catalogs, Filter, Scope, ToolCaller, ToolRequest};
use crate::error::{Code, Error};
use crate::tasks::Tasks;
use crate::telemetry::probe::Origin;
use crate::telemetry::trace::Parent;

pub use super::inject::Format;
use book::{Book, Entry};
use dialect::ToolCall;

/// The longest idempotency key and parent id, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// The message to append, JSON in the dialect of the call.
    pub body: Bytes,
    /// Whether the tool itself says that it failed. Answer with `x-althing-tool-error: true` then: not every
    /// dialect has a place for it.
    pub is_error: bool,
    /// The tool, as policy calls it.
    pub tool: Arc<str>,
}

/// Runs tool calls for callers. Cheap to clone.
#[derive(Clone)]
pub struct Executor {
    catalogs: Arc<dyn Catalogs>,
    tasks: Tasks,
    book: Arc<Book>,
}

impl Executor {
    /// Over the tools of `catalogs`.
    #[must_use]
    pub fn new(catalogs: Arc<dyn Catalogs>, tasks: Tasks) -> Self {
        Self { catalogs, tasks, book: Arc::default() }
    }

    /// Runs the one tool call that `body` is, in OpenAI's chat or Responses, Anthropic's or Gemini's shape.
    /// `query` may say `format=chat|responses`; the shape must then be that one.
    ///
    /// With an `idempotency-key` the same call gives the same answer for a day and is made once: who asks while it
    /// runs waits for it, and another call under the same key is refused. Who may not call the tool any more gets no
    /// answer of before. Without one, dropping the future cancels
    /// the call.
    ///
    /// # Errors
    ///
    /// What the caller is to be told: [`Code::InvalidJson`], [`Code::InvalidField`], [`Code::DuplicateField`],
    /// [`Code::ToolUnknown`] (also for a tool that it may not call), [`Code::ArgumentsInvalid`],
    /// [`Code::Conflict`], and those of [`ToolCaller::run`].
    pub async fn execute(
        &self,
        caller: Arc<dyn ToolCaller>,
        headers: &HeaderMap,
        query: Option<&str>,
        body: &Bytes,
    ) -> Result<Executed, Error> {
        let mut attempt = Attempt::default();
        let begun = self.begin(&caller, headers, (query, body), &mut attempt);
        match begun {
            Ok(Begun::Alone(call, request)) => finish(&*caller, *request, &call).await,
            Ok(Begun::Booked(waiting)) => book::outcome(waiting).await,
            Ok(Begun::Known(call, waiting, tool)) => {
                let outcome = book::outcome(waiting).await;
                // It may have been waited for, and the law may be another by now.
                if may_still_call(&*caller, tool.as_deref()) {
                    return outcome;
                }
                let error = unknown(&call);
                caller.refused(attempt, &error).await;
                Err(error)
            }
            Err(error) => {
                caller.refused(attempt, &error).await;
                Err(error)
            }
        }
    }

    /// All that is done before something waits. `attempt` takes what could be read, for the record of a refusal.
    fn begin(
        &self,
        caller: &Arc<dyn ToolCaller>,
        headers: &HeaderMap,
        (query, body): (Option<&str>, &Bytes),
        attempt: &mut Attempt,
    ) -> Result<Begun, Error> {
        let call = ToolCall::read(body, query)?;
        attempt.name = Some(call.name.clone());
        attempt.arguments = Some(call.arguments.clone());
        let filter = Arc::new(Filter::from_headers(headers)?);
        let key = header(headers, "idempotency-key")?;
        let parent = header(headers, "x-althing-parent")?;
        attempt.parent.clone_from(&parent);
        let origin = caller
            .is_traced()
            .then(|| Box::new(Origin { parent: Parent::of_headers(headers), ..Origin::default() }));
        let scope = Scope::all(Arc::clone(caller), filter);
        let catalog = self.catalogs.catalog();
        attempt.tool = scope.named(&catalog, &call.name).cloned();
        let prepare = || {
            let mut request = prepare(&scope, &catalog, &call, parent, key.clone())?;
            request.origin = origin;
            Ok(request)
        };
        let Some(key) = key.clone() else {
            let request = prepare()?;
            return Ok(Begun::Alone(call, Box::new(request)));
        };
        let mut content = Vec::with_capacity(body.len() + 16);
        content.extend_from_slice(query.unwrap_or_default().as_bytes());
        content.push(0);
        content.extend_from_slice(body);
        let content: [u8; 32] = digest(&SHA256, &content).as_ref().try_into().unwrap_or_default();
        // The law comes first: what was answered before is for who may call the tool now.
        if attempt.tool.as_ref().is_some_and(|it| !scope.permits(it)) {
            return Err(unknown(&call));
        }
        let tool = attempt.tool.as_ref().map(|it| Arc::clone(&it.policy));
        let owner = owner(&**caller);
        let waiting = match self.book.enter(&owner, &key, (content, tool))? {
            // Its server may be gone, and the tool with it: the answer is what the caller came back for.
            Entry::Known(waiting, tool) => return Ok(Begun::Known(call, waiting, tool)),
            Entry::New(sender, waiting) => {
                let request = match prepare() {
                    Ok(request) => request,
                    Err(error) => {
                        self.book.forget(&owner, &key);
                        return Err(error);
                    }
                };
                let (book, caller) = (Arc::clone(&self.book), Arc::clone(caller));
                // The call goes on when its first caller leaves: another may be waiting, or come back for it.
                self.tasks.spawn("tool execution", async move {
                    let outcome = finish(&*caller, request, &call).await;
                    book.settle(&owner, &key, &outcome);
                    // Nobody may be waiting any more.
                    let _gone = sender.send(Some(outcome));
                });
                waiting
            }
        };
        Ok(Begun::Booked(waiting))
    }
}

/// A call that may be run.
enum Begun {
    /// By who asked, and nobody else.
    Alone(ToolCall, Box<ToolRequest>),
    /// Under an idempotency key: it runs by itself.
    Booked(book::Waiting),
    /// Under one that was used for the same call: that of this tool runs, or ran before.
    Known(ToolCall, book::Waiting, Option<Arc<str>>),
}

fn prepare(
    scope: &Scope,
    catalog: &Catalog,
    call: &ToolCall,
    parent: Option<String>,
    idempotency_key: Option<String>,
) -> Result<ToolRequest, Error> {
    let Some(tool) = scope.find(catalog, &call.name) else {
        return Err(unknown(call));
    };
    arguments::check(&tool, Some(&call.arguments))?;
    Ok(ToolRequest {
        tool,
        arguments: Some(call.arguments.clone()),
        meta: None,
        parent,
        idempotency_key,
        progress: None,
        cancel: CancellationToken::new(),
        capabilities: None,
        origin: None,
    })
}

/// What is said of a tool that there is not, or that the caller may not call.
fn unknown(call: &ToolCall) -> Error {
    let message =
        format!("there is no tool `{}` that this key may call", super::server::shown(&call.name));
    Error::new(Code::ToolUnknown, message).with_param(call.name_field())
}

/// Whose idempotency keys are whose. Not by name alone: a name that was given up may be given again, to somebody else.
fn owner(caller: &dyn ToolCaller) -> String {
    format!("{} {}", caller.number(), caller.principal())
}

/// Whether a caller may call `tool` under the law as it is now.
fn may_still_call(caller: &dyn ToolCaller, tool: Option<&str>) -> bool {
    caller.refresh().is_some_and(|it| tool.is_none_or(|tool| it.may_call(tool)))
}

async fn finish(
    caller: &dyn ToolCaller,
    request: ToolRequest,
    call: &ToolCall,
) -> Result<Executed, Error> {
    let tool = Arc::clone(&request.tool.policy);
    let result = caller.run(request).await?;
    let rendered = render(&result, MODEL_BYTES_MAX)?;
    Ok(Executed { body: call.answer(&rendered), is_error: rendered.is_error, tool })
}

fn header(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, Error> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match value.to_str() {
        Ok(text) if values.next().is_none() && !text.is_empty() && text.len() <= KEY_BYTES_MAX => {
            Ok(Some(text.to_owned()))
        }
        _ => Err(Error::new(
            Code::InvalidHeader,
            format!("`{name}` must stand once, with 1 to {KEY_BYTES_MAX} printable characters"),
        )
        .with_param(name)),
    }
}

#[cfg(test)]
mod tests;
