//! How hard to think, in the words of the model's generation.

use serde_json::{Map, Value, json};

use super::NAME;
use crate::chat::{Reasoning, Request};
use crate::lost::Lost;

/// What a Gemini model's generation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generation {
    /// Before 2.5: does not think.
    Plain,
    /// 2.5: a budget in tokens.
    Budget,
    /// From 3 on: a level; calls in the history must be sealed.
    Level,
}

/// Sent where a call of the history bears no seal of Gemini's: from generation 3 on a bare one is refused.
/// Google names this very text for histories that come from elsewhere.
pub(super) const UNSEALED: &str = "skip_thought_signature_validator";

/// The generation in a model's name. A Gemini that we do not know (`gemini-flash-latest`) is taken for a new one.
pub(super) fn generation(model: &str) -> Generation {
    let Some((_, rest)) = model.split_once("gemini") else { return Generation::Plain };
    let mut parts = rest.split(|letter: char| !letter.is_ascii_alphanumeric());
    let number = |part: &str| if part.len() <= 2 { part.parse::<u32>().ok() } else { None };
    let Some(major) = parts.by_ref().find_map(number) else { return Generation::Level };
    let minor = parts.next().and_then(number).unwrap_or(0);
    match (major, minor) {
        (3.., _) => Generation::Level,
        (2, 5..) => Generation::Budget,
        _ => Generation::Plain,
    }
}

/// The field `thinkingConfig`, if there is anything to say.
pub(super) fn config(request: &Request, lost: &mut Lost) -> Option<Value> {
    let reasoning = request.reasoning.as_ref()?;
    let generation = generation(&request.model);
    if generation == Generation::Plain && request.dialect != NAME {
        if reasoning.effort.as_deref() != Some("none") {
            lost.field("reasoning");
        }
        return None;
    }
    let is_pro = request.model.contains("pro");
    let mut config = Map::new();
    match (reasoning.budget_tokens, reasoning.effort.as_deref(), generation) {
        (Some(budget), _, _) => {
            config.insert("thinkingBudget".to_owned(), json!(budget));
        }
        (None, Some(effort), Generation::Level) => {
            config.insert("thinkingLevel".to_owned(), json!(level(effort, is_pro)));
        }
        (None, Some(effort), _) => {
            config.insert("thinkingBudget".to_owned(), json!(budget(effort, is_pro)));
        }
        (None, None, Generation::Budget) if reasoning.adaptive => {
            config.insert("thinkingBudget".to_owned(), json!(-1));
        }
        (None, None, _) => {}
    }
    if is_shown(request, reasoning) {
        config.insert("includeThoughts".to_owned(), Value::Bool(true));
    }
    (!config.is_empty()).then_some(Value::Object(config))
}

/// Whether the caller wants to see thoughts. OpenAI's chat has no word for it, but shows what it gets.
fn is_shown(request: &Request, reasoning: &Reasoning) -> bool {
    match reasoning.summary.as_deref() {
        Some(summary) => summary != "none",
        None => request.dialect == "openai" && reasoning.effort.as_deref() != Some("none"),
    }
}

fn level(effort: &str, is_pro: bool) -> &'static str {
    match effort {
        "none" | "minimal" if is_pro => "low", // A pro model always thinks.
        "none" | "minimal" => "minimal",
        "low" => "low",
        "medium" => "medium",
        _ => "high",
    }
}

fn budget(effort: &str, is_pro: bool) -> u64 {
    match effort {
        "none" if is_pro => 128, // A pro model always thinks.
        "none" => 0,
        "minimal" | "low" => 1024,
        "medium" => 8192,
        _ => 24_576,
    }
}
