//! How hard to think, in the words of the model's generation.

use serde_json::{Value, json};

use super::NAME;
use super::model::Traits;
use crate::chat::{Reasoning, Request, ToolChoice};
use crate::lost::Lost;

/// The bound where neither the caller nor the catalogue knows one.
const MAX_TOKENS_DEFAULT: u64 = 4096;

/// The least budget that Anthropic takes.
const BUDGET_MIN: u64 = 1024;

/// What is left for the answer, where thinking alone would fill the default bound.
const ANSWER_ROOM: u64 = 4096;

/// What to ask for.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// The field `thinking`.
    pub(super) thinking: Option<Value>,
    /// The field `output_config.effort`.
    pub(super) effort: Option<&'static str>,
    /// The field `max_tokens`.
    pub(super) max_tokens: u64,
}

impl Plan {
    /// Whether the model will think, which binds its sampling.
    pub(super) fn thinks(&self) -> bool {
        self.thinking.as_ref().is_some_and(|thinking| {
            thinking.get("type").and_then(Value::as_str).is_some_and(|kind| kind != "disabled")
        })
    }
}

/// Plans. `sealed` says whether the current turn's reasoning is there in full, which a fixed budget demands.
pub(super) fn plan(request: &Request, traits: Traits, sealed: bool, lost: &mut Lost) -> Plan {
    let max_tokens = request.max_tokens.or(request.output_cap).unwrap_or(MAX_TOKENS_DEFAULT);
    let mut plan = Plan { max_tokens, ..Plan::default() };
    let Some(reasoning) = &request.reasoning else { return plan };
    let forced = matches!(request.tool_choice, Some(ToolChoice::Any | ToolChoice::Named(_)));
    let effort = reasoning.effort.as_deref();
    // A fixed budget where the model takes one and nothing better will do.
    let fixed =
        traits.budget && (!traits.adaptive || (sealed && reasoning.budget_tokens.is_some()));
    if effort == Some("none") {
        plan.thinking = Some(json!({"type": "disabled"}));
        return plan;
    }
    if traits.effort {
        let asked = effort.or_else(|| reasoning.budget_tokens.filter(|_| !fixed).map(effort_of));
        plan.effort = asked.map(|effort| effort_word(effort, traits));
    }
    // Anthropic's own callers say effort without asking for thinking.
    if request.dialect == NAME && !reasoning.adaptive && reasoning.budget_tokens.is_none() {
        if plan.effort.is_none() {
            lost.named("output_config.effort");
        }
        return plan;
    }
    if forced {
        lost.field("reasoning");
        return plan;
    }
    if traits.adaptive && !fixed {
        plan.thinking = Some(adaptive(reasoning, traits));
        return plan;
    }
    match budget(request, reasoning, max_tokens).filter(|_| sealed) {
        Some((budget, max_tokens)) => {
            plan.thinking = Some(json!({"type": "enabled", "budget_tokens": budget}));
            plan.max_tokens = max_tokens;
        }
        None => lost.field("reasoning"),
    }
    plan
}

fn adaptive(reasoning: &Reasoning, traits: Traits) -> Value {
    if traits.xhigh && reasoning.summary.as_deref().is_some_and(|summary| summary != "none") {
        json!({"type": "adaptive", "display": "summarized"})
    } else {
        json!({"type": "adaptive"})
    }
}

/// A budget and the bound above it, or `None` where the caller's own bound leaves no room for thought.
fn budget(request: &Request, reasoning: &Reasoning, max_tokens: u64) -> Option<(u64, u64)> {
    let asked = reasoning
        .budget_tokens
        .unwrap_or_else(|| budget_of(reasoning.effort.as_deref().unwrap_or("medium")));
    let asked = asked.max(BUDGET_MIN);
    if max_tokens > asked {
        return Some((asked, max_tokens));
    }
    if request.max_tokens.is_some() || request.output_cap.is_some() {
        let budget = max_tokens.saturating_sub(1);
        return (budget >= BUDGET_MIN).then_some((budget, max_tokens));
    }
    Some((asked, asked.saturating_add(ANSWER_ROOM)))
}

fn budget_of(effort: &str) -> u64 {
    match effort {
        "minimal" => BUDGET_MIN,
        "low" => 2048,
        "high" => 16_384,
        "xhigh" | "max" => 32_768,
        _ => 8192,
    }
}

fn effort_of(budget: u64) -> &'static str {
    match budget {
        0..=2048 => "low",
        2049..=8192 => "medium",
        8193..=24_576 => "high",
        _ => "xhigh",
    }
}

fn effort_word(effort: &str, traits: Traits) -> &'static str {
    match effort {
        "minimal" | "low" => "low",
        "medium" => "medium",
        "xhigh" if traits.xhigh => "xhigh",
        "max" if traits.adaptive => "max",
        _ => "high",
    }
}
