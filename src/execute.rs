//! Running a plan: attempts, streams, and the one HTTP client.
//!
//! A plan's targets are tried in order, each with its keys, until one answers. Once the caller has a byte, nothing
//! is tried again.

pub mod attempt;
pub mod egress;
pub mod kept;
pub mod money;
pub mod outbound;
pub mod reply;
pub mod retry;
pub mod stream;
pub mod whole;

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use althing_domain::time::UnixMillis;
use bytes::Bytes;
use http::Response;
use tokio::time::Instant;

use crate::admit::Ticket;
use crate::api::body::Body;
use crate::control::view::KeyView;
use crate::error::{Code, Error};
use crate::gateway::Gateway;
use crate::route::{Plan, Target};
use crate::settle::Call;
use attempt::Tried;
use egress::Reply;
use money::Bound;
use outbound::{Inbound, Outbound};
use whole::Whole;

/// What running a request needs.
pub struct Run<'a> {
    /// The node.
    pub gateway: &'a Arc<Gateway>,
    /// Who calls.
    pub caller: &'a Arc<KeyView>,
    /// When the request was there, whole, and when it came by the wall clock.
    pub came: (Instant, UnixMillis),
    /// What was sent.
    pub inbound: Inbound<'a>,
    /// Where it may go.
    pub plan: Plan,
    /// Whether money may shorten the reply: `None` where the caller does not say.
    pub clamp: Option<money::Clamp>,
}

/// An upstream that answered.
pub struct Answered<'t> {
    /// Which.
    pub target: &'t Target,
    /// What it was sent.
    pub outbound: Outbound,
    /// What it answers.
    pub response: Response<Reply>,
}

impl Run<'_> {
    /// Runs it: admits, tries, answers. The call is closed when the answer's body ends, or here where there is none.
    ///
    /// # Errors
    ///
    /// What the caller is told. The call is closed by it.
    pub async fn go(&self, mut call: Box<Call>) -> Result<Response<Body>, Error> {
        match self.answer(&mut call).await {
            Ok((answered, bound)) => reply::deliver(self, answered, bound, call).await,
            Err(error) => {
                self.keep_failure(&mut call, &error);
                let error = call.told(error);
                call.close(&crate::settle::Ended::by(&error));
                Err(error)
            }
        }
    }

    /// Keeps the bodies of a call that is answered with `error`, where the configuration wants that.
    fn keep_failure(&self, call: &mut Call, error: &Error) {
        let keep = call.keeps(self.gateway.settings.keep_bodies);
        kept::failure(keep, call, &self.inbound.sent, (self.inbound.dialect, error));
    }

    async fn answer(&self, call: &mut Call) -> Result<(Answered<'_>, Bound), Error> {
        self.gateway.retries.earn();
        let mut held: Option<Held> = None;
        // What is answered: how the last attempt failed, or where there was none, why the first target was no good. What
        // keeps a fallback from being tried leaves the failure that led to it.
        let (mut refused, mut last): (Option<Error>, Option<Error>) = (None, None);
        for target in &self.plan.targets {
            note_target(self, target, call);
            let bound = match self.hold(target, call, &mut held).await {
                Ok(bound) => bound,
                Err(error) => {
                    refused.get_or_insert(error);
                    continue;
                }
            };
            let outbound = match outbound::prepare(&self.inbound, target, bound.max_output) {
                Ok(it) => it,
                Err(error) => {
                    refused.get_or_insert(error);
                    continue;
                }
            };
            if let Some(Held::Ticket(ticket)) = held.take_if(|it| matches!(it, Held::Ticket(_))) {
                call.running = Some(ticket.start());
                held = Some(Held::Started);
            }
            if let (Some(running), true) = (&mut call.running, bound.is_dirty) {
                // What led here is the answer, and another target may be within the budget.
                if running.target(target.limits.as_ref(), &bound.ask).await.is_err() {
                    continue;
                }
            }
            call.lost = bound.lost();
            match attempt::target(self, target, outbound, (call, &bound)).await {
                Tried::Answered(answered) => return Ok((answered, bound)),
                Tried::Failed(error) => last = Some(error),
                Tried::Final(error) => {
                    last = Some(error);
                    break;
                }
                Tried::Lost(error) => {
                    call.meter(bound.lost(), true);
                    return Err(error);
                }
            }
            if retry::ATTEMPTS_MAX <= call.record.attempts {
                break;
            }
        }
        // Nothing was generated: what was set aside is given back whole.
        if let Some(running) = call.running.take() {
            running.settle(althing_domain::money::NanoUsd::ZERO, 0);
        }
        Err(last.or(refused).unwrap_or_else(|| Error::of(Code::UpstreamUnreachable)))
    }

    /// Takes rates and money for a call at `target`, or finds out what a call that holds some needs there.
    async fn hold(
        &self,
        target: &Target,
        call: &Call,
        held: &mut Option<Held>,
    ) -> Result<Bound, Error> {
        let mut bound = Bound::of(self, target)?;
        match held {
            None => {
                let ticket = money::admit(self, target, &mut bound).await?;
                *held = Some(Held::Ticket(Box::new(ticket)));
            }
            Some(Held::Ticket(ticket)) => {
                money::fit(self, target, &mut bound, ticket.upper());
                ticket.target(target.limits.as_ref(), &bound.ask).await.map_err(Error::from)?;
            }
            Some(Held::Started) => {
                if let Some(running) = &call.running {
                    money::fit(self, target, &mut bound, running.upper());
                }
                bound.is_dirty = true;
            }
        }
        Ok(bound)
    }
}

/// What a run holds of rates and money.
enum Held {
    Ticket(Box<Ticket>),
    /// The call has it now.
    Started,
}

fn note_target(run: &Run<'_>, target: &Target, call: &mut Call) {
    call.record.provider = Some(Arc::clone(&target.provider.label));
    call.record.model = Some(Arc::clone(&target.model));
    call.record.stream = run.inbound.stream;
    call.price = money::price(run, target).unwrap_or_default();
    call.series = Some(target.series(&run.gateway.metrics));
}

/// What a future gives at once, without waiting: for what is mostly there already, and else needs a timer.
pub async fn at_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(it) => Some(it),
            Poll::Pending => None,
        })
    })
    .await
}

/// The whole of an upstream's body, within a bound, until a moment.
///
/// # Errors
///
/// Those of [`collect`], and [`Code::UpstreamTimeout`].
pub async fn collect_until(
    collecting: impl Future<Output = Result<Bytes, Error>>,
    until: Instant,
) -> Result<Bytes, Error> {
    tokio::time::timeout_at(until, collecting).await.unwrap_or_else(|_| {
        Err(Error::new(Code::UpstreamTimeout, "the upstream did not finish its reply in time"))
    })
}

/// The whole of an upstream's body, within a bound.
///
/// # Errors
///
/// [`Code::ResultTooLarge`], [`Code::UpstreamFailed`] where it breaks off.
pub async fn collect(mut body: Reply, bytes_max: usize) -> Result<Bytes, Error> {
    use http_body_util::BodyExt;

    let too_large = || {
        let text = format!("the upstream's reply is larger than {bytes_max} bytes");
        Error::new(Code::ResultTooLarge, text)
    };
    if (bytes_max as u64) < http_body::Body::size_hint(&body).lower() {
        return Err(too_large());
    }
    let mut whole = Whole::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            tracing::debug!(%error, "an upstream's reply broke off");
            Error::new(Code::UpstreamFailed, "the upstream's reply broke off before its end")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        let more = http_body::Body::size_hint(&body).lower();
        if !whole.push(data, more, bytes_max) {
            return Err(too_large());
        }
        // Its end, where that is known, is not asked for.
        if http_body::Body::is_end_stream(&body) {
            break;
        }
    }
    Ok(whole.into_bytes())
}
