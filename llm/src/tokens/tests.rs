use serde_json::{Value, json};

use super::{
    IMAGE_TOKENS_MAX, REMOTE_TOKENS_MAX, REQUEST_OVERHEAD, TOOLS_OVERHEAD, upper_bound_beside,
    upper_bound_input,
};
use crate::scan::scan;

fn bound(body: &Value) -> u64 {
    bound_of(body.to_string().as_bytes())
}

fn bound_of(body: &[u8]) -> u64 {
    upper_bound_input(body, scan(body).expect("a body").marks())
}

fn bytes(body: &Value) -> u64 {
    body.to_string().len() as u64 + REQUEST_OVERHEAD
}

fn png(length: usize) -> String {
    "iVBORw0KGgo".to_owned() + &"A".repeat(length)
}

fn address(length: usize) -> String {
    format!("data:image/png;base64,{}", png(length))
}

/// One image, in every dialect's own way.
fn images(length: usize) -> Vec<Value> {
    let url = address(length);
    let webp = "UklGRhIAAABXRUJQ".to_owned() + &"A".repeat(length);
    let anthropic = json!({"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": webp}});
    let gemini = json!({"inlineData": {"mimeType": "image/png", "data": png(length)}});
    vec![
        json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}),
        json!({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]}),
        json!({"input": [{"type": "function_call_output", "output": [{"type": "input_image", "image_url": url}]}]}),
        json!({"messages": [{"role": "user", "content": [anthropic]}]}),
        json!({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [anthropic]}]}]}),
        json!({"contents": [{"parts": [gemini]}]}),
        json!({"contents": [{"parts": [{"functionResponse": {"name": "f", "parts": [gemini]}}]}]}),
        json!({"contents": [{"parts": [{"inline_data": {"mime_type": "image/png", "data": png(length)}}]}]}),
    ]
}

#[test]
fn text_counts_a_token_a_byte() {
    assert_eq!(bound_of(b"{\"a\":1}"), 7 + REQUEST_OVERHEAD);
}

#[test]
fn an_image_counts_by_the_vendors_bound_and_not_by_its_bytes() {
    for length in [20, 400_000] {
        for body in images(length) {
            let around = bound(&body).checked_sub(IMAGE_TOKENS_MAX);
            assert!(
                around.is_some_and(|it| it < 300),
                "{length}: {} of {}",
                bound(&body),
                bytes(&body)
            );
        }
    }
}

#[test]
fn what_is_elsewhere_counts_though_its_address_is_short() {
    for (part, tokens) in [
        (
            json!({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}),
            IMAGE_TOKENS_MAX,
        ),
        (json!({"type": "image_url", "image_url": "https://example.com/a.png"}), IMAGE_TOKENS_MAX),
        (json!({"type": "input_image", "file_id": "file-1"}), IMAGE_TOKENS_MAX),
        (
            json!({"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}),
            IMAGE_TOKENS_MAX,
        ),
        (json!({"type": "file", "file": {"file_id": "file-1"}}), REMOTE_TOKENS_MAX),
        (json!({"type": "input_file", "file_url": "https://example.com/a.pdf"}), REMOTE_TOKENS_MAX),
        (
            json!({"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}),
            REMOTE_TOKENS_MAX,
        ),
    ] {
        let body = json!({"messages": [{"role": "user", "content": [part]}]});
        assert_eq!(bound(&body), bytes(&body) + tokens, "{body}");
    }
    for (kind, tokens) in [("image/png", IMAGE_TOKENS_MAX), ("application/pdf", REMOTE_TOKENS_MAX)]
    {
        let body = json!({"contents": [{"parts": [{"fileData": {"mimeType": kind, "fileUri": "gs://a"}}]}]});
        assert_eq!(bound(&body), bytes(&body) + tokens, "{body}");
    }
}

#[test]
fn keys_in_escapes_are_seen() {
    let body = br#"{"messages":[{"content":[{"type":"\u0069mage_url","\u0069mage_url":{"url":"https://a"}}]}]}"#;
    assert_eq!(bound_of(body), body.len() as u64 + REQUEST_OVERHEAD + IMAGE_TOKENS_MAX);
}

#[test]
fn a_document_counts_more_than_its_bytes() {
    let data = "JVBERi0xLjcK".to_owned() + &"A".repeat(10_000);
    for part in [
        json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": data}}),
        json!({"type": "file", "file": {"file_data": data}}),
        json!({"type": "input_file", "file_data": data}),
    ] {
        let body = json!({"messages": [{"content": [part]}]});
        assert_eq!(bound(&body), bytes(&body) + 3 * data.len() as u64, "{body}");
    }
}

#[test]
fn what_looks_like_an_image_but_is_text_to_the_model_counts_in_full() {
    let image = json!({"type": "image_url", "image_url": {"url": address(400_000)}});
    let junk = "JVBERi0xLjcK".to_owned() + &"A".repeat(400_000);
    for body in [
        json!({"messages": [{"role": "user", "content": address(400_000)}]}),
        json!({"messages": [{"role": "user", "content": [{"type": "text", "text": address(400_000)}]}]}),
        json!({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": {"content": [image]}}]}]}),
        json!({"tools": [{"function": {"parameters": {"messages": [{"content": [image]}]}}}]}),
        json!({"messages": [{"content": [{"type": "image", "source": {"data": junk}}]}]}),
        json!({"contents": [{"parts": [{"text": "a", "inlineData": {"mimeType": "image/png", "data": png(400_000)}}]}]}),
        json!({"contents": [{"parts": [{"functionCall": {"args": {"inlineData": {"data": png(400_000)}}}}]}]}),
    ] {
        assert!(bytes(&body) <= bound(&body), "{} of {}", bound(&body), bytes(&body));
    }
}

fn beside(body: &Value) -> u64 {
    let body = body.to_string();
    let scan = scan(body.as_bytes()).unwrap();
    upper_bound_beside(scan.tools(body.as_bytes()), scan.leans_on_a_store())
}

#[test]
fn what_a_vendor_stores_or_finds_is_input_too() {
    for body in [
        json!({"previous_response_id": "resp_1", "input": "go on"}),
        json!({"conversation": {"id": "conv_1"}}),
        json!({"prompt": {"id": "pmpt_1"}}),
        json!({"cachedContent": "cachedContents/1"}),
        json!({"container": "c_1"}),
        json!({"web_search_options": {}}),
        json!({"tools": [{"type": "web_search"}]}),
        json!({"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "web_search_20250305", "name": "web_search"}]}),
        json!({"tools": [{"functionDeclarations": [{"name": "f"}]}, {"googleSearch": {}}]}),
        json!({"tools": [{"type": "mcp", "server_url": "https://example.com"}]}),
    ] {
        assert!(REMOTE_TOKENS_MAX <= beside(&body), "{body}");
    }
    let reference = json!({"input": [{"type": "item_reference", "id": "rs_1"}]});
    assert!(REMOTE_TOKENS_MAX <= bound(&reference));
    let video = json!({"messages": [{"content": [{"type": "video_url", "video_url": {"url": "https://a"}}]}]});
    assert!(REMOTE_TOKENS_MAX <= bound(&video));
    let system = json!({"system_instruction": {"parts": [{"fileData": {"mimeType": "application/pdf", "fileUri": "gs://a"}}]}});
    assert!(REMOTE_TOKENS_MAX <= bound(&system));
}

#[test]
fn tools_that_callers_run_cost_what_is_said_around_them() {
    for tools in [
        json!([{"type": "function", "function": {"name": "f"}}]),
        json!([{"type": "function", "name": "f"}, {"type": "custom", "name": "c"}]),
        json!([{"name": "f", "input_schema": {}}, {"type": "bash_20250124", "name": "bash"}]),
        json!([{"functionDeclarations": [{"name": "f"}]}]),
    ] {
        assert_eq!(beside(&json!({"tools": tools})), TOOLS_OVERHEAD, "{tools}");
    }
    for body in [
        json!({"tools": []}),
        json!({"prompt": "of legacy completions"}),
        json!({"prompt": ["of", "legacy", "completions"]}),
        json!({"messages": [], "previous_response_id": null}),
    ] {
        assert_eq!(beside(&body), 0, "{body}");
    }
}
