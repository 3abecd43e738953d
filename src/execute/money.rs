//! What a call can cost at most, and what to do where that is more than there is.

use std::sync::Arc;
use std::time::Duration;

use althing_domain::money::NanoUsd;
use althing_llm::price::Price;
use althing_llm::scan::Field;
use althing_llm::tokens;
use althing_llm::usage::Usage;
use tokio::time::Instant;

use super::Run;
use crate::admit::budget::Denied;
use crate::admit::{self, Ask, HELD_WAIT_MAX, KeyLimits, Mono, Refusal, Ticket};
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
const ON_ITS_WAY_TOKENS_MAX: u64 = 1_000;
/// The shortest reply that is worth its input. The Responses API takes no smaller maximum.
const OUTPUT_TOKENS_MIN: u64 = 16;
/// How often a call looks anew what money there is before it is refused.
const ROUNDS_MAX: u32 = 16;
/// What a reply is not shortened below while other calls hold money that they may give back; of a model that thinks
/// first, four times as much.
const FAIR_TOKENS_MIN: u64 = 1_024;
/// Bytes of text that no token is worth, in the mean of a reply: a vendor who writes more has not heeded its maximum.
const BYTES_PER_TOKEN_MAX: u64 = 16;
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
    /// Whether a strict budget bounds it, so that what nobody states counts at its bound, and the vendor is held to it.
    pub is_strict: bool,
    /// Whether the vendor may generate, and bill, what no stream shows: what models think.
    pub thinks_unseen: bool,
    /// The most output tokens of one alternative, where the vendor must be told: the caller does not say it, or money
    /// bounds it below what the caller says.
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
        more.min(self.output.saturating_sub(seen))
    }

    /// Tokens of a stream's text so far: at most what its vendor may generate, since bytes are an estimate.
    #[must_use]
    pub fn seen(&self, text_bytes: u64) -> u64 {
        let counted = tokens::upper_bound_output(text_bytes);
        if self.is_strict { counted.min(self.output) } else { counted }
    }

    /// Whether so much text is more than what is reserved can pay: the vendor does not heed its maximum.
    #[must_use]
    pub fn is_overrun(&self, text_bytes: u64) -> bool {
        self.is_strict && self.output < text_bytes / BYTES_PER_TOKEN_MAX
    }

    /// Fits it into `money`: fewer output tokens, which the vendor must be told. False, and unchanged, where that leaves
    /// fewer than `least` of them for each of `choices` alternatives.
    fn shorten(&mut self, money: NanoUsd, price: &Price, choices: u64, least: u64) -> bool {
        let each = price.affordable_output(money, self.input).min(self.output) / choices;
        if each < least.max(1) {
            return false;
        }
        self.output = each.saturating_mul(choices);
        self.ask.upper = price.upper_bound(self.input, self.output);
        self.max_output = Some(each);
        true
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
        // Counting tokens is free at every vendor that does it.
        let is_strict = !run.inbound.op.is_count()
            && (run.caller.limits.has_strict_budget()
                || target.limits.as_ref().is_some_and(|it| it.has_strict_budget()));
        // Only a strict budget needs the bound, and finding it may take reading the whole body.
        let input = if is_strict {
            let (scan, body) = (&run.inbound.scan, &run.inbound.body);
            let beside = tokens::upper_bound_beside(scan.tools(body), scan.leans_on_a_store());
            tokens::upper_bound_input(body, scan.marks())
                .saturating_add(beside)
                .min(context(target))
        } else {
            estimate
        };
        if is_strict && run.inbound.scan.is_background() {
            let problem = "a strict budget cannot bound a response that goes on in the background: leave it out";
            return Err(Error::field("background", problem));
        }
        // Nothing below is looked up for a call that no strict budget bounds.
        let each = output_cap(run, is_strict.then_some(target));
        let output = each.saturating_mul(run.inbound.scan.choices());
        let upper = if is_strict {
            let price = price(run, target).ok_or_else(|| price_unknown(target))?;
            price.upper_bound(input, output)
        } else {
            NanoUsd::ZERO
        };
        let tokens = if run.inbound.op.is_embedding() {
            estimate
        } else {
            estimate + each.min(RATE_OUTPUT_TOKENS)
        };
        let ask = Ask { upper, tokens, at: Mono::of(run.came.0) };
        // Only a maximum that the vendor is told holds, however fast it writes; and who sets one for a key means it.
        let is_told = (is_strict || run.caller.default_max_tokens.is_some())
            && stated(run).is_none()
            && 0 < each
            && may_tell(target, input, each);
        let thinks_unseen = is_strict && run.inbound.stream && thinks(run, target);
        Ok(Self {
            ask,
            input,
            output,
            is_strict,
            thinks_unseen,
            max_output: is_told.then_some(each),
            is_dirty: false,
        })
    }
}

/// What the caller says is the most output of one alternative, in the field of its dialect. In another it says nothing:
/// the vendor would not heed it.
fn stated(run: &Run<'_>) -> Option<u64> {
    let fields: &[Field] = match run.inbound.op {
        Op::Chat => &[Field::MaxTokens, Field::MaxCompletionTokens],
        Op::Messages | Op::Completions => &[Field::MaxTokens],
        Op::Responses => &[Field::MaxOutputTokens],
        Op::Generate | Op::StreamGenerate => &[Field::GenerationConfig],
        Op::Embeddings | Op::CountMessages | Op::Embed | Op::BatchEmbed | Op::CountGemini => &[],
    };
    fields.iter().filter_map(|it| run.inbound.scan.max_output(*it)).max()
}

/// Whether the vendor takes `most` as a maximum for sure. Some refuse one that does not fit into the model's context
/// beside the input; what the catalogue lists is then the model's own.
fn may_tell(target: &Target, input: u64, most: u64) -> bool {
    listed_cap(target) != Some(most) || input.saturating_add(most) <= context(target)
}

/// The most output tokens of one alternative; by the catalogue only where a target is given.
fn output_cap(run: &Run<'_>, target: Option<&Target>) -> u64 {
    if run.inbound.op.is_embedding() || run.inbound.op.is_count() {
        return 0;
    }
    let stated = stated(run).or(run.caller.default_max_tokens);
    if run.inbound.op == Op::Completions {
        // OpenAI's own default, which those who took its form over kept.
        return stated.unwrap_or(COMPLETION_TOKENS_DEFAULT);
    }
    stated.or_else(|| listed_cap(target?)).unwrap_or(OUTPUT_TOKENS_DEFAULT)
}

/// The most that the model can write, as the catalogue has it.
fn listed_cap(target: &Target) -> Option<u64> {
    target.known.listed?.max_output_tokens
}

/// The most that the model can read, as the catalogue has it.
fn context(target: &Target) -> u64 {
    let listed = target.known.listed;
    listed.and_then(|it| it.context_tokens).unwrap_or(u64::MAX)
}

/// Whether the model may think first, of which vendors show little or nothing in a stream, and bill it all.
fn thinks(run: &Run<'_>, target: &Target) -> bool {
    match target.known.listed {
        Some(listed) => listed.capabilities.has("reasoning"),
        // Nobody knows the model; a caller who says how hard it is to think does.
        None => run.inbound.scan.marks().asks_to_think(),
    }
}

/// What the call costs at `target`.
pub(super) fn price(run: &Run<'_>, target: &Target) -> Option<Price> {
    let price = target.known.price?;
    // Anthropic's only, and rare: where the words stand in a text, the bound is too high, not too low.
    let keeps_an_hour = run.inbound.scan.marks().may_cache_longer()
        && memchr::memmem::find(&run.inbound.body, b"\"1h\"").is_some();
    Some(if keeps_an_hour { price.with_hour_cache() } else { price })
}

/// Takes rates and money for the first target.
///
/// Where money is short and the reply may be shortened, it is: a caller who names no maximum gets a fair part of what is left, so that others who call at the same time get theirs.
/// Below its fair part none is cut for money that calls in flight may give back: that is waited for, a while.
///
/// # Errors
///
/// What the caller is told.
pub async fn admit(run: &Run<'_>, target: &Target, bound: &mut Bound) -> Result<Ticket, Error> {
    let until = run.came.0 + HELD_WAIT_MAX;
    let Some(price) = bound.is_strict.then(|| price(run, target)).flatten() else {
        return take(run, target, bound.ask, until).await.map_err(Error::from);
    };
    let choices = run.inbound.scan.choices();
    let fair = FAIR_TOKENS_MIN * if thinks(run, target) { 4 } else { 1 };
    if may_share(run) {
        let part = fair_part(run, target);
        let least = price.upper_bound(bound.input, fair.saturating_mul(choices));
        if part.max(least) < bound.ask.upper {
            bound.shorten(part.max(least), &price, choices, 1);
        }
    }
    let whole = *bound;
    let fair = fair.min(whole.output / choices);
    let mut rounds = 0;
    loop {
        let refusal = match take(run, target, bound.ask, until).await {
            Ok(ticket) => return Ok(ticket),
            Err(refusal) => refusal,
        };
        rounds += 1;
        let is_short = matches!(&refusal, Refusal::Budget(it) if it.denied == Denied::Exhausted);
        if !is_short || !may_clamp(run) || ROUNDS_MAX <= rounds {
            return Err(refusal.into());
        }
        // From all that was wanted: the round before may have asked for less.
        *bound = whole;
        let (now, later) = money(run, target);
        let least = least(run);
        if bound.shorten(now, &price, choices, least.max(fair)) {
            continue;
        }
        if later <= now {
            // Nothing comes back: what there is, for whoever is first.
            if bound.shorten(now, &price, choices, least) {
                continue;
            }
            return Err(refusal.into());
        }
        let is_worth_it = whole.clone().shorten(later, &price, choices, least);
        if !is_worth_it || until <= Instant::now() {
            return Err(refusal.into());
        }
        let wanted = price.upper_bound(bound.input, least.max(fair).saturating_mul(choices));
        returned(run, target, wanted.min(later), until).await;
    }
}

/// What can be had, and what could be once calls in flight have ended.
fn money(run: &Run<'_>, target: &Target) -> (NanoUsd, NanoUsd) {
    let least = |of: fn(&KeyLimits) -> NanoUsd| {
        let own = of(&run.caller.limits);
        own.min(target.limits.as_deref().map_or(NanoUsd::MAX, of))
    };
    (least(admit::affordable), least(admit::possible))
}

/// Waits until there may be `amount` because calls in flight gave it back, or that cannot be any more.
async fn returned(run: &Run<'_>, target: &Target, amount: NanoUsd, until: Instant) {
    if admit::returned(&run.caller.limits, amount, until).await
        && let Some(limits) = &target.limits
    {
        admit::returned(limits, amount, until).await;
    }
}

/// Fits what `bound` needs at a further target into what the call holds, where its reply may be shortened and that is
/// enough for one. Else more must be taken.
pub fn fit(run: &Run<'_>, target: &Target, bound: &mut Bound, held: NanoUsd) {
    if bound.is_strict
        && held < bound.ask.upper
        && may_clamp(run)
        && let Some(price) = price(run, target)
    {
        let least = least(run).max(FAIR_TOKENS_MIN);
        bound.shorten(held, &price, run.inbound.scan.choices(), least);
    }
}

/// The least maximum that the vendor takes. Anthropic's must be more than what is to be thought.
fn least(run: &Run<'_>) -> u64 {
    #[derive(serde::Deserialize)]
    struct Body {
        thinking: Option<Thinking>,
    }
    #[derive(serde::Deserialize)]
    struct Thinking {
        budget_tokens: Option<u64>,
    }
    if !run.inbound.scan.marks().bounds_thought() {
        return OUTPUT_TOKENS_MIN;
    }
    let body: Option<Body> = serde_json::from_slice(&run.inbound.body).ok();
    let thought = body.and_then(|it| it.thinking?.budget_tokens).unwrap_or(0);
    thought.saturating_add(OUTPUT_TOKENS_MIN)
}

/// A fair part of what is left, at the level that has the least.
fn fair_part(run: &Run<'_>, target: &Target) -> NanoUsd {
    let now = run.came.1;
    let part = |it: &Arc<KeyLimits>| admit::fair_part(it, now);
    part(&run.caller.limits).min(target.limits.as_ref().map_or(NanoUsd::MAX, part))
}

/// Takes rates and money, and waits for what calls in flight hold until `until`.
async fn take(run: &Run<'_>, target: &Target, ask: Ask, until: Instant) -> Result<Ticket, Refusal> {
    let mut ticket = admit::admit_until(&run.caller.limits, ask, until).await?;
    if target.limits.is_some() {
        ticket.target_until(target.limits.as_ref(), &ask, until).await?;
    }
    Ok(ticket)
}

/// Whether the caller leaves it to us how long a reply may get.
fn may_share(run: &Run<'_>) -> bool {
    run.clamp != Some(Clamp::Forbidden) && stated(run).is_none()
}

/// Whether a reply may be shorter than was asked for. A stream without money would end early anyway.
fn may_clamp(run: &Run<'_>) -> bool {
    match run.clamp {
        Some(Clamp::Allowed) => true,
        Some(Clamp::Forbidden) => false,
        None => run.inbound.stream || stated(run).is_none(),
    }
}

fn price_unknown(target: &Target) -> Error {
    let text = format!(
        "the model `{}` of the provider `{}` has no price, so a strict budget cannot bound the call: an administrator sets `prices` on the provider",
        target.model, target.provider.name
    );
    Error::new(Code::PriceUnknown, text)
}
