use serde_json::{Value, json};

use super::*;
use crate::dialect::{self, Dialect, Failure};
use crate::testing::{context, server_events};

fn usage(input: u64, cached_input: u64, cache_write: u64, output: u64, reasoning: u64) -> Usage {
    Usage { input, cached_input, cache_write, output, reasoning }
}

/// Runs a stream through a tap at every split; the caller must see the same each time.
fn check(shape: Shape, stream: &str, expected: Option<Usage>, progress: Progress) -> Tap {
    let run = |chunks: &[&[u8]]| {
        let mut tap = Tap::new(shape);
        let mut out = Vec::new();
        for chunk in chunks {
            out.extend_from_slice(&tap.pass(Bytes::copy_from_slice(chunk)).unwrap());
        }
        out.extend_from_slice(&tap.finish());
        assert_eq!(out, stream.as_bytes());
        assert_eq!((tap.usage(), tap.progress()), (expected, progress));
        tap
    };
    let bytes = stream.as_bytes();
    for at in 0..bytes.len() {
        run(&[&bytes[..at], &bytes[at..]]);
    }
    run(&[bytes])
}

const OPENAI: &str = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}\n\n\
data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi \\\"you\\\"\"}}],\"usage\":null}\n\n\
data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n\
data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":4,\"total_tokens\":13,\"prompt_tokens_details\":{\"cached_tokens\":3},\"completion_tokens_details\":{\"reasoning_tokens\":2}}}\n\n\
data: [DONE]\n\n";

#[test]
fn openai_usage_is_read_at_every_split() {
    let tap = check(Shape::OpenAi, OPENAI, Some(usage(9, 3, 0, 4, 2)), Progress::Complete);
    assert_eq!(tap.text_bytes(), 10, "as JSON writes it, escapes included");
}

#[test]
fn the_usage_chunk_is_hidden_from_callers_who_did_not_ask() {
    let expected: String =
        OPENAI.split_inclusive("\n\n").filter(|it| !it.contains("\"choices\":[]")).collect();
    for size in [1, 7, 100, 10_000] {
        let mut tap = Tap::new(Shape::OpenAi).hiding_usage();
        let mut out = Vec::new();
        for chunk in OPENAI.as_bytes().chunks(size) {
            out.extend_from_slice(&tap.pass(Bytes::copy_from_slice(chunk)).unwrap());
        }
        out.extend_from_slice(&tap.finish());
        assert_eq!(String::from_utf8(out).unwrap(), expected, "chunks of {size}");
        assert_eq!(tap.usage(), Some(usage(9, 3, 0, 4, 2)));
    }
}

#[test]
fn hiding_copies_nothing_where_nothing_is_hidden() {
    let mut tap = Tap::new(Shape::OpenAi).hiding_usage();
    let chunk = Bytes::from_static(b"data: {\"choices\":[{}],\"usage\":null}\n\n");
    assert_eq!(tap.pass(chunk.clone()).unwrap().as_ptr(), chunk.as_ptr());
}

#[test]
fn a_cut_stream_has_no_usage_but_a_count_of_text() {
    let cut = &OPENAI
        [..OPENAI.find("data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{}").unwrap()];
    let tap = check(Shape::OpenAi, cut, None, Progress::Open);
    assert_eq!(tap.text_bytes(), 10);
}

#[test]
fn usage_beside_the_last_choice_is_read_and_left() {
    let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
    let mut tap = Tap::new(Shape::OpenAi).hiding_usage();
    assert_eq!(tap.pass(Bytes::from_static(stream.as_bytes())).unwrap(), stream);
    assert_eq!(tap.usage(), Some(usage(1, 0, 0, 2, 0)));
}

#[test]
fn responses_usage_is_read() {
    let stream = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"abc\"}\n\n\
event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":36,\"input_tokens_details\":{\"cached_tokens\":4},\"output_tokens\":87,\"output_tokens_details\":{\"reasoning_tokens\":7},\"total_tokens\":123}}}\n\n";
    let tap = check(Shape::Responses, stream, Some(usage(36, 4, 0, 87, 7)), Progress::Complete);
    assert_eq!(tap.text_bytes(), 3);
}

#[test]
fn anthropic_usage_joins_its_two_parts() {
    let stream = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"usage\":{\"input_tokens\":10,\"cache_creation_input_tokens\":5,\"cache_read_input_tokens\":20,\"output_tokens\":1}}}\n\n\
event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}\n\n\
event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":12}}\n\n\
event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    let tap = check(Shape::Anthropic, stream, Some(usage(35, 20, 5, 12, 0)), Progress::Complete);
    assert_eq!(tap.text_bytes(), 5);
}

#[test]
fn gemini_usage_is_its_last_word() {
    let stream = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hel\"}]}}],\"usageMetadata\":{\"promptTokenCount\":4,\"candidatesTokenCount\":1}}\r\n\r\n\
data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"lo\"}]},\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":4,\"candidatesTokenCount\":2,\"thoughtsTokenCount\":30,\"cachedContentTokenCount\":3}}\r\n\r\n";
    let tap = check(Shape::Gemini, stream, Some(usage(4, 3, 0, 32, 30)), Progress::Complete);
    assert_eq!(tap.text_bytes(), 5);
}

#[test]
fn an_error_event_is_a_failed_stream() {
    check(
        Shape::OpenAi,
        "data: {\"error\":{\"message\":\"overloaded\"}}\n\n",
        None,
        Progress::Failed,
    );
    check(
        Shape::Anthropic,
        "event: error\ndata: {\"type\":\"error\",\"error\":{}}\n\n",
        None,
        Progress::Failed,
    );
    check(Shape::Gemini, "data: { \"error\": {}}\n\n", None, Progress::Failed);
}

#[test]
fn usage_in_the_models_own_words_is_not_usage() {
    let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"{\\\"usage\\\":{\\\"prompt_tokens\\\":99}}\",\"tool_calls\":[{\"usage\":{\"prompt_tokens\":98}}]}}]}\n\n";
    check(Shape::OpenAi, stream, None, Progress::Open);
}

#[test]
fn usage_of_whole_replies() {
    for (shape, body, expected) in [
        (
            Shape::OpenAi,
            r#"{"usage":{"prompt_tokens":5,"completion_tokens":7,"prompt_tokens_details":null}}"#,
            usage(5, 0, 0, 7, 0),
        ),
        (
            Shape::OpenAi,
            r#"{"object":"list","data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":8,"total_tokens":8}}"#,
            usage(8, 0, 0, 0, 0),
        ),
        (
            Shape::OpenAi,
            r#"{"usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":17,"completion_tokens_details":{"reasoning_tokens":5}}}"#,
            usage(10, 0, 0, 7, 5),
        ),
        (
            Shape::OpenAi,
            r#"{"usage":{"prompt_tokens":10.0,"completion_tokens":null,"prompt_cache_hit_tokens":4}}"#,
            usage(10, 4, 0, 0, 0),
        ),
        (
            Shape::Responses,
            r#"{"object":"response","usage":{"input_tokens":3,"output_tokens":4}}"#,
            usage(3, 0, 0, 4, 0),
        ),
        (
            Shape::Anthropic,
            r#"{"type":"message","usage":{"input_tokens":3,"output_tokens":4,"cache_read_input_tokens":2}}"#,
            usage(5, 2, 0, 4, 0),
        ),
        (
            Shape::Gemini,
            r#"{"usageMetadata":{"promptTokenCount":3,"toolUsePromptTokenCount":2,"candidatesTokenCount":4}}"#,
            usage(5, 0, 0, 4, 0),
        ),
    ] {
        assert_eq!(usage_of_reply(shape, body.as_bytes()), Some(expected), "{body}");
    }
    assert_eq!(usage_of_reply(Shape::OpenAi, b"<html>"), None);
    assert_eq!(usage_of_reply(Shape::OpenAi, b"{\"usage\":null}"), None);
}

/// What a caller sees of a stream that passes until `bytes`, then is cut.
fn cut_after(dialect: &dyn Dialect, stream: &str, bytes: usize) -> Vec<(Option<String>, String)> {
    let mut tap = Tap::new(Shape::of(dialect.name()).unwrap());
    let mut out = tap.pass(Bytes::copy_from_slice(&stream.as_bytes()[..bytes])).unwrap().to_vec();
    tap.cut(dialect.stream_encoder(&context()).as_mut(), &mut out);
    server_events(std::str::from_utf8(&out).unwrap())
}

#[test]
fn a_passing_stream_can_be_cut_at_any_byte_and_ends_in_its_dialects_way() {
    let streams: [(&str, &str); 4] = [
        ("openai", include_str!("../../testdata/openai/stream.sse")),
        ("openai_responses", include_str!("../../testdata/openai_responses/stream.sse")),
        ("anthropic", include_str!("../../testdata/anthropic/stream.sse")),
        ("gemini", include_str!("../../testdata/gemini/stream.sse")),
    ];
    for (name, stream) in streams {
        let dialect = dialect::by_name(name).unwrap();
        let whole = stream.rfind("\n\n").map(|it| stream[..it].rfind("\n\n").unwrap()).unwrap();
        for bytes in (0..whole).step_by(5) {
            let events = cut_after(dialect, stream, bytes);
            let mut decoder = dialect.stream_decoder();
            let mut out = Vec::new();
            for (event, data) in &events {
                decoder.push(event.as_deref(), data, &mut out).unwrap();
            }
            decoder.finish(&mut out).unwrap_or_else(|it| panic!("{name} cut after {bytes}: {it}"));
        }
    }
}

#[test]
fn a_cut_goes_on_where_the_vendor_stopped() {
    let stream = include_str!("../../testdata/openai_responses/stream.sse");
    let at = stream.find("event: response.function_call_arguments.done").unwrap();
    let events = cut_after(&dialect::OpenAiResponses, stream, at + 30);
    let last: Value = serde_json::from_str(&events.last().unwrap().1).unwrap();
    assert_eq!(last["sequence_number"], events.len() - 1);
    assert_eq!(last["response"]["id"], "resp_1");
    assert_eq!(last["response"]["output"].as_array().unwrap().len(), 3);
    assert_eq!(last["response"]["incomplete_details"], json!({"reason": "max_output_tokens"}));
    let chat = cut_after(&dialect::openai::OPENAI, OPENAI, 100);
    let last: Value = serde_json::from_str(&chat[chat.len() - 2].1).unwrap();
    assert_eq!(
        (&last["id"], &last["choices"][0]["finish_reason"]),
        (&json!("c"), &json!("length"))
    );
    let stream = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":2,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";
    let names: Vec<String> = cut_after(&dialect::Anthropic, stream, stream.len())
        .into_iter()
        .filter_map(|it| it.0)
        .collect();
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
}

#[test]
fn half_an_event_is_held_back_so_that_an_error_can_follow() {
    let mut tap = Tap::new(Shape::Responses);
    let stream = include_str!("../../testdata/openai_responses/stream.sse");
    let first = stream.find("\n\n").unwrap() + 2;
    let mut out =
        tap.pass(Bytes::copy_from_slice(&stream.as_bytes()[..first + 40])).unwrap().to_vec();
    assert_eq!(out, &stream.as_bytes()[..first]);
    let failure = Failure {
        status: 502,
        code: "upstream_failed",
        message: "m",
        param: None,
        request_id: "r",
    };
    tap.fail(dialect::OpenAiResponses.stream_encoder(&context()).as_mut(), &failure, &mut out);
    let events = server_events(std::str::from_utf8(&out).unwrap());
    let names: Vec<&str> = events.iter().filter_map(|it| it.0.as_deref()).collect();
    assert_eq!(names, ["response.created", "error", "response.failed"]);
    let last: Value = serde_json::from_str(&events[2].1).unwrap();
    assert_eq!((&last["response"]["id"], &last["sequence_number"]), (&json!("resp_1"), &json!(2)));
}

/// How far a stream of these events has come, before and after its orderly end.
fn progress_of(shape: Shape, events: &[&str]) -> (Progress, Progress) {
    let mut tap = Tap::new(shape);
    for event in events {
        tap.pass(Bytes::from(format!("data: {event}\n\n"))).unwrap();
    }
    let open = tap.progress();
    tap.finish();
    (open, tap.progress())
}

#[test]
fn a_gemini_stream_ends_with_its_last_candidate_and_not_with_a_word_in_arguments() {
    use Progress::{Complete, Open};
    let of = |events: &[&str]| progress_of(Shape::Gemini, events).1;
    let call = r#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{"finishReason":"STOP"}}}]},"index":0}]}"#;
    let end =
        r#"{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"STOP","index":0}]}"#;
    let other = r#"{"candidates":[{"content":{"parts":[{"text":"b"}]},"index":1}]}"#;
    let other_end = r#"{"candidates":[{"finishReason":"MAX_TOKENS","index":1}]}"#;
    let usage = r#"{"usageMetadata":{"promptTokenCount":1}}"#;
    let blocked =
        r#"{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":1}}"#;
    assert_eq!(of(&[call]), Open);
    assert_eq!(of(&[call, end]), Complete);
    assert_eq!(of(&[end, usage]), Complete);
    assert_eq!(of(&[other, end]), Open);
    assert_eq!(of(&[other, end, other_end]), Complete);
    assert_eq!(of(&[blocked]), Complete);
    assert_eq!(of(&[usage]), Open);
}

#[test]
fn a_chat_stream_whose_server_says_no_done_is_whole_when_it_ends_after_its_finish_reason() {
    use Progress::{Complete, Open};
    let piece = r#"{"choices":[{"index":0,"delta":{"content":"\"finish_reason\":\"stop\""},"finish_reason":null}]}"#;
    let end = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    assert_eq!(progress_of(Shape::OpenAi, &[piece]), (Open, Open));
    assert_eq!(progress_of(Shape::OpenAi, &[piece, end]), (Open, Complete));
    assert_eq!(progress_of(Shape::OpenAi, &[piece, end, "[DONE]"]), (Complete, Complete));
}

#[test]
fn what_is_kept_of_a_responses_stream_for_its_ending_is_bounded() {
    let mut tap = Tap::new(Shape::Responses);
    let text = "a".repeat(1 << 20);
    for _ in 0..8 {
        let event = format!(
            "event: response.output_item.done\ndata: {{\"item\":{{\"type\":\"message\",\"text\":\"{text}\"}}}}\n\n"
        );
        tap.pass(Bytes::from(event)).unwrap();
    }
    assert!(tap.seen.trail.kept_bytes() <= 4 << 20, "{}", tap.seen.trail.kept_bytes());
}

#[test]
fn a_cut_of_legacy_completions_has_their_shape() {
    let stream = "data: {\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"choices\":[{\"text\":\"Hi\",\"index\":0,\"finish_reason\":null}]}\n\n";
    let events = cut_after(&dialect::openai::OPENAI, stream, stream.len());
    let last: Value = serde_json::from_str(&events[1].1).unwrap();
    assert_eq!(
        last["choices"],
        json!([{"index": 0, "logprobs": null, "finish_reason": "length", "text": ""}])
    );
    assert_eq!(events[2].1, "[DONE]");
}

#[test]
fn what_is_no_event_ends_the_stream_at_every_split() {
    let good = ": a comment\n\nretry: 5\nnew: field\ndata: {\"choices\":[]}\n\ndata:\n\ndata:  {\"a\":\ndata: 1} \n\nevent: ping\ndata: now\n\n";
    for bad in ["<html>no</html>", "{\"choices\":[{", "oops", "[DONE", "\"{}\"", "}{", "{"] {
        for end in ["\n\ndata: {\"after\":1}\n\ndata: [DONE]\n\n", ""] {
            let stream = format!("{good}data: {bad}{end}");
            let bytes = stream.as_bytes();
            for at in 0..bytes.len() {
                for shape in [Shape::OpenAi, Shape::Responses, Shape::Anthropic, Shape::Gemini] {
                    let mut tap = Tap::new(shape);
                    let mut out = Vec::new();
                    for part in [&bytes[..at], &bytes[at..]] {
                        out.extend_from_slice(&tap.pass(Bytes::copy_from_slice(part)).unwrap());
                    }
                    out.extend_from_slice(&tap.finish());
                    assert_eq!(String::from_utf8(out).unwrap(), good, "{bad} at {at}");
                    assert!(tap.is_malformed(), "{bad} at {at}");
                    assert_ne!(tap.progress(), Progress::Complete);
                }
            }
        }
    }
    let mut tap = Tap::new(Shape::OpenAi);
    assert_eq!(tap.pass(Bytes::from(good)).unwrap(), good);
    assert!(!tap.is_malformed());
}
