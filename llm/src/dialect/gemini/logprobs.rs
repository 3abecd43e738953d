//! Log-probabilities: Gemini's shape and OpenAI's, which the internal form keeps.

use serde_json::{Value, json};

/// Gemini's `logprobsResult` in OpenAI's shape.
pub(super) fn read(result: &Value) -> Option<Value> {
    let chosen = result.get("chosenCandidates")?.as_array()?;
    let tops = result.get("topCandidates").and_then(Value::as_array);
    let token = |candidate: &Value| {
        let token = candidate.get("token").and_then(Value::as_str).unwrap_or_default();
        let logprob = candidate.get("logProbability").cloned().unwrap_or_else(|| json!(0.0));
        json!({"token": token, "logprob": logprob, "bytes": token.as_bytes()})
    };
    let content = chosen.iter().enumerate().map(|(at, candidate)| {
        let top = tops
            .and_then(|tops| tops.get(at))
            .and_then(|top| top.get("candidates"))
            .and_then(Value::as_array);
        let top: Vec<Value> = top.into_iter().flatten().map(token).collect();
        let mut token = token(candidate);
        if let Value::Object(token) = &mut token {
            token.insert("top_logprobs".to_owned(), Value::Array(top));
        }
        token
    });
    Some(json!({"content": content.collect::<Vec<_>>(), "refusal": null}))
}

/// OpenAI's shape as Gemini's `logprobsResult`.
pub(super) fn write(logprobs: &Value) -> Option<Value> {
    let content = logprobs.get("content")?.as_array()?;
    let candidate = |token: &Value| json!({"token": token.get("token"), "logProbability": token.get("logprob")});
    let top = |token: &Value| {
        let top = token.get("top_logprobs").and_then(Value::as_array).into_iter().flatten();
        json!({"candidates": top.map(candidate).collect::<Vec<_>>()})
    };
    Some(json!({
        "chosenCandidates": content.iter().map(candidate).collect::<Vec<_>>(),
        "topCandidates": content.iter().map(top).collect::<Vec<_>>(),
    }))
}
