//! What a call can cost at most, and what to do where that is more than there is.

use std::time::Duration;

use althing_domain::money::NanoUsd;
use althing_llm::catalog;
use althing_llm::price::Price;
use althing_llm::tokens;
use althing_llm::usage::Usage;

use super::Run;
use crate::admit::{self, Ask, Mono, Refusal, STREAM_SLICE_TOKENS, Ticket};
use crate::api::face::Op;
use crate::error::{Code, Error};
use crate::route::Target;

/// What a request without a maximum of output tokens is taken to ask for where nothing else says.
const OUTPUT_TOKENS_DEFAULT: u64 = 4_096;
/// The same of OpenAI's older completions.
const COMPLETION_TOKENS_DEFAULT: u64 = 16;
/// What a vendor has generated when the gateway hears that the caller has left, beyond what it has seen: half a second of it.
const ON_ITS_WAY_TOKENS: u64 = 100;
/// How fast a vendor goes on while nobody reads.
const TOKENS_PER_SECOND: u64 = 200;
/// What fits into the buffers between a vendor and a caller who does not read.
const ON_ITS_WAY_TOKENS_MAX: u64 = STREAM_SLICE_TOKENS / 2;
/// Of the output, what a token rate is charged before it is known.
const RATE_OUTPUT_TOKENS: u64 = 256;

/// Whether money may shorten a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clamp {
    /// It may, even where the caller named a maximum.
    Allowed,
    /// It may not: a call that does not fit is refused.
    Forbidden,
}

/// What a call needs at one target.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// What is asked of rates and budgets.
    pub ask: Ask,
    /// A bound on its input tokens.
    pub input: u64,
    /// The output tokens that are reserved, over all alternatives.
    pub output: u64,
    /// Whether a strict budget bounds it, so that what nobody states counts at its bound.
    pub is_strict: bool,
    /// Whether what is reserved is all that the call may ever cost, and the upstream knows its maximum.
    pub is_whole: bool,
    /// Whether the vendor may generate, and bill, what no stream shows: what models think.
    pub thinks_unseen: bool,
    /// The most output tokens, where money or the key bound them below what the caller asked for.
    pub max_output: Option<u64>,
    /// Whether what the call holds must be fitted to this.
    pub is_dirty: bool,
}

impl Bound {
    /// What a call is taken to have used whose reply was lost: under a strict budget all that was reserved, since its
    /// vendor may bill it.
    #[must_use]
    pub fn lost(&self) -> Usage {
        if self.is_strict {
            Usage { input: self.input, output: self.output, ..Usage::default() }
        } else {
            Usage::default()
        }
    }

    /// The output tokens that a stream may have used beyond those that were seen, where its caller leaves it `since` its
    /// last bytes were taken: what is on its way, and what piled up while nobody read.
    #[must_use]
    pub fn on_its_way(&self, seen: u64, since: Duration) -> u64 {
        if !self.is_strict {
            return 0;
        }
        let piled_up = since.as_secs().saturating_mul(TOKENS_PER_SECOND);
        let more = ON_ITS_WAY_TOKENS.saturating_add(piled_up).min(ON_ITS_WAY_TOKENS_MAX);
        let cap = if self.is_whole { self.output } else { u64::MAX };
        more.min(cap.saturating_sub(seen))
    }

    /// What a stream has used at least that its vendor has begun: its input, as far as that is known.
    #[must_use]
    pub fn begun(&self, request_bytes: u64) -> u64 {
        if self.is_strict { self.input } else { tokens::estimate(request_bytes) }
    }

    /// What a call is taken to have used whose vendor states nothing, by the bytes that went each way: under a strict
    /// budget a token a byte within what was reserved, else a guess.
    #[must_use]
    pub fn unstated(&self, request_bytes: u64, reply_bytes: u64) -> Usage {
        let (input, output) = if self.is_strict {
            (self.input, self.output.min(reply_bytes))
        } else {
            let output = if self.output == 0 { 0 } else { tokens::upper_bound_output(reply_bytes) };
            (tokens::estimate(request_bytes), output)
        };
        Usage { input, output, ..Usage::default() }
    }

    /// What `run` needs at `target`.
    ///
    /// # Errors
    ///
    /// [`Code::PriceUnknown`] where a strict budget would have to bound it and nobody knows the price.
    pub fn of(run: &Run<'_>, target: &Target) -> Result<Self, Error> {
        let estimate = tokens::estimate(run.inbound.body.len() as u64);
        let output = output_cap(run, target);
        // Counting tokens is free at every vendor that does it.
        let is_strict = !run.inbound.op.is_count()
            && (run.caller.limits.has_strict_budget()
                || target.limits.as_ref().is_some_and(|it| it.has_strict_budget()));
        // Only a strict budget needs the bound, and finding it may take reading the whole body.
        let input = if is_strict {
            let (scan, body) = (&run.inbound.scan, &run.inbound.body);
            let beside = tokens::upper_bound_beside(scan.tools(body), scan.leans_on_a_store());
            tokens::upper_bound_input(body).saturating_add(beside).min(context(target))
        } else {
            estimate
        };
        if is_strict && run.inbound.scan.is_background() {
            let problem = "a strict budget cannot bound a response that goes on in the background: leave it out";
            return Err(Error::field("background", problem));
        }
        let upper = match (is_strict, price(run, target)) {
            (false, _) => NanoUsd::ZERO,
            (true, Some(price)) => price.upper_bound(input, reserved(run, target, output)),
            (true, None) => return Err(price_unknown(target)),
        };
        let tokens = if run.inbound.op.is_embedding() {
            estimate
        } else {
            estimate + output.min(RATE_OUTPUT_TOKENS)
        };
        let ask = Ask { upper, tokens, at: Mono::now() };
        let reserved = reserved(run, target, output);
        let is_whole = output.saturating_mul(run.inbound.scan.choices()) <= reserved;
        // A bound that only we know must be told to the upstream, or it would not hold. What is metered is cut instead.
        let is_ours = run.inbound.scan.max_output().is_none() && listed_cap(target) != Some(output);
        let max_output = (is_ours && is_strict && is_whole && 0 < output).then_some(output);
        let thinks_unseen = is_strict && run.inbound.stream && !is_metered(run, target);
        let output = reserved;
        Ok(Self {
            ask,
            input,
            output,
            is_strict,
            is_whole,
            thinks_unseen,
            max_output,
            is_dirty: false,
        })
    }
}

/// The most output tokens of one alternative.
fn output_cap(run: &Run<'_>, target: &Target) -> u64 {
    if run.inbound.op.is_embedding() || run.inbound.op.is_count() {
        return 0;
    }
    let stated = run.inbound.scan.max_output().or(run.caller.default_max_tokens);
    if run.inbound.op == Op::Completions {
        // OpenAI's own default, which those who took its form over kept.
        return stated.unwrap_or(COMPLETION_TOKENS_DEFAULT);
    }
    stated.or_else(|| listed_cap(target)).unwrap_or(OUTPUT_TOKENS_DEFAULT)
}

/// The most that the model can write, as the catalogue has it.
fn listed_cap(target: &Target) -> Option<u64> {
    catalog::find(target.provider.vendor.name, &target.model)?.max_output_tokens
}

/// The most that the model can read, as the catalogue has it.
fn context(target: &Target) -> u64 {
    let listed = catalog::find(target.provider.vendor.name, &target.model);
    listed.and_then(|it| it.context_tokens).unwrap_or(u64::MAX)
}

/// The output tokens to reserve: of all alternatives; of a stream that is metered and cut, the first slice.
fn reserved(run: &Run<'_>, target: &Target, output: u64) -> u64 {
    let output = output.saturating_mul(run.inbound.scan.choices());
    if is_metered(run, target) { output.min(STREAM_SLICE_TOKENS) } else { output }
}

/// Whether what is generated can be seen as it is. Not of a whole reply; nor of a stream of a model that thinks first:
/// vendors show little or nothing of that, and bill it all.
fn is_metered(run: &Run<'_>, target: &Target) -> bool {
    if !run.inbound.stream {
        return false;
    }
    match catalog::find(target.provider.vendor.name, &target.model) {
        Some(listed) => !listed.capabilities.has("reasoning"),
        // Nobody knows the model; a caller who says how hard it is to think does.
        None => !asks_to_think(&run.inbound.body),
    }
}

/// Whether a request speaks of reasoning, in any dialect. Where the words stand in a text, the whole bound is reserved
/// for no need.
fn asks_to_think(body: &[u8]) -> bool {
    const WORDS: [&[u8]; 4] =
        [b"\"reasoning\"", b"\"reasoning_effort\"", b"\"thinking\"", b"\"thinkingConfig\""];
    WORDS.iter().any(|it| memchr::memmem::find(body, it).is_some())
}

/// What the call costs at `target`.
pub(super) fn price(run: &Run<'_>, target: &Target) -> Option<Price> {
    let price = target.price?;
    // Anthropic's only, and rare: where the words stand in a text, the bound is too high, not too low.
    let keeps_an_hour = memchr::memmem::find(&run.inbound.body, b"\"ttl\"").is_some()
        && memchr::memmem::find(&run.inbound.body, b"\"1h\"").is_some();
    Some(if keeps_an_hour { price.with_hour_cache() } else { price })
}

/// Takes rates and money for the first target. Where money is short and the reply may be shortened, it is.
///
/// # Errors
///
/// What the caller is told.
pub async fn admit(run: &Run<'_>, target: &Target, bound: &mut Bound) -> Result<Ticket, Error> {
    let refusal = match take(run, target, bound.ask).await {
        Ok(ticket) => return Ok(ticket),
        Err(refusal) => refusal,
    };
    if let (Refusal::Budget(it), Some(price)) = (&refusal, price(run, target))
        && may_clamp(run)
    {
        let choices = run.inbound.scan.choices();
        let output = price.affordable_output(it.affordable, bound.input) / choices;
        if 0 < output {
            bound.ask.upper = price.upper_bound(bound.input, output.saturating_mul(choices));
            bound.max_output = Some(output);
            bound.output = output.saturating_mul(choices);
            bound.is_whole = true;
            return take(run, target, bound.ask).await.map_err(Error::from);
        }
    }
    Err(refusal.into())
}

async fn take(run: &Run<'_>, target: &Target, ask: Ask) -> Result<Ticket, Refusal> {
    let mut ticket = admit::admit(&run.caller.limits, ask).await?;
    if target.limits.is_some() {
        ticket.target(target.limits.as_ref(), &ask).await?;
    }
    Ok(ticket)
}

fn may_clamp(run: &Run<'_>) -> bool {
    match run.clamp {
        Some(Clamp::Allowed) => true,
        Some(Clamp::Forbidden) => false,
        None => run.inbound.scan.max_output().is_none(),
    }
}

fn price_unknown(target: &Target) -> Error {
    let text = format!(
        "the model `{}` of the provider `{}` has no price, so a strict budget cannot bound the call: an administrator sets `prices` on the provider",
        target.model, target.provider.name
    );
    Error::new(Code::PriceUnknown, text)
}
