use proptest::prelude::{ProptestConfig, any, prop, proptest};
use serde_json::{Value, json};

use super::{VENDORS, Vendor, gist, pairs, said};
use crate::chat::{Block, Reply};
use crate::dialect::{Dialect, Failure, Gemini, openai};
use crate::seal;
use crate::sse;
use crate::testing::{any_json, context, decode_stream, encode_stream, fold, server_events, spoil};

fn parse(bytes: impl AsRef<[u8]>) -> Value {
    serde_json::from_slice(bytes.as_ref()).unwrap()
}

fn vendor(name: &str) -> &'static Vendor {
    VENDORS.iter().find(|vendor| vendor.name == name).unwrap()
}

#[test]
fn a_request_asks_the_same_in_every_dialect_and_names_what_is_lost() {
    let mut found = Vec::new();
    for (from, to) in pairs() {
        let mut request = from.read(from.request.as_bytes());
        request.model = to.model.to_owned();
        assert_eq!(request.dialect, from.name);
        let wire = to.dialect().encode_request(&request).unwrap();
        assert_eq!(gist(&to.read(&wire.body)), gist(&request), "{} to {}", from.name, to.name);
        let dropped = wire.dropped.iter().map(String::as_str);
        let place = format!("{} to {}", from.name, to.name);
        found.push((place, dropped.collect::<Vec<_>>().join(" ")));
    }
    let expected = [
        ("openai to openai", "messages[].reasoning"),
        ("openai to openai_responses", "messages[].reasoning seed stop"),
        ("openai to anthropic", "messages[].reasoning seed store"),
        ("openai to gemini", "messages[].reasoning store user"),
        ("openai_responses to openai", "messages[].reasoning reasoning.summary tools[].web_search"),
        ("openai_responses to openai_responses", ""),
        ("openai_responses to anthropic", "messages[].reasoning tools[].web_search"),
        ("openai_responses to gemini", "messages[].reasoning tools[].web_search user"),
        ("anthropic to openai", "container messages[].content[].thinking tools[].web_search top_k"),
        (
            "anthropic to openai_responses",
            "container messages[].content[].thinking stop_sequences tools[].web_search top_k",
        ),
        // A model that thinks takes no top-k.
        ("anthropic to anthropic", "top_k"),
        (
            "anthropic to gemini",
            "cache_control container messages[].content[].thinking metadata.user_id tools[].web_search",
        ),
        (
            "gemini to openai",
            "contents[].parts[].thought generationConfig.topK safetySettings tools[].googleSearch",
        ),
        (
            "gemini to openai_responses",
            "contents[].parts[].thought generationConfig.seed generationConfig.stopSequences generationConfig.topK safetySettings tools[].googleSearch",
        ),
        (
            "gemini to anthropic",
            "contents[].parts[].thought generationConfig.seed generationConfig.topK safetySettings tools[].googleSearch",
        ),
        ("gemini to gemini", ""),
    ];
    let expected = expected.map(|(pair, names)| (pair.to_owned(), names.to_owned()));
    assert_eq!(found, expected);
}

#[test]
fn the_same_conversation_is_read_from_every_dialect() {
    let first = gist(&VENDORS[0].read(VENDORS[0].request.as_bytes()));
    for vendor in VENDORS {
        assert_eq!(gist(&vendor.read(vendor.request.as_bytes())), first, "{}", vendor.name);
    }
}

#[test]
fn the_callers_seal_goes_to_its_own_vendor_only() {
    for (from, to) in pairs() {
        let mut request = from.read(from.request.as_bytes());
        request.model = to.model.to_owned();
        let body = String::from_utf8(to.dialect().encode_request(&request).unwrap().body).unwrap();
        // Chat completions of OpenAI itself take no reasoning back.
        let expected = from.name == to.name && from.name != "openai";
        assert_eq!(body.contains("U0VBTA=="), expected, "{} to {}: {body}", from.name, to.name);
    }
}

#[test]
fn a_reply_says_the_same_in_every_dialect() {
    for (from, to) in pairs() {
        let reply = from.dialect().decode_reply(from.reply.as_bytes()).unwrap();
        let written = to.dialect().encode_reply(&reply, &context());
        let read = to.dialect().decode_reply(&written).unwrap();
        assert_eq!(said(&read), said(&reply), "{} to {}", from.name, to.name);
        assert_eq!(read.model, "house-model");
    }
}

/// What a reply says, without the ids of reasoning items: in a stream a seal comes after its block has begun, and only
/// the caller's next request joins it with its id.
fn unnumbered(reply: &Reply) -> Vec<Block> {
    let mut content = reply.choices[0].content.clone();
    for block in &mut content {
        if let Block::Thinking { signature, id, .. } = block {
            *signature = signature.as_deref().map(|signature| seal::split_item(signature).0);
            *id = None;
        }
    }
    content
}

#[test]
fn a_stream_says_the_same_as_the_whole_reply_in_every_dialect() {
    for (from, to) in pairs() {
        let reply = from.dialect().decode_reply(from.reply.as_bytes()).unwrap();
        let events = decode_stream(from.dialect(), from.stream);
        assert_eq!(said(&fold(&events)), said(&reply), "{}", from.name);

        let stream = encode_stream(to.dialect(), &context(), &events);
        let streamed = fold(&decode_stream(to.dialect(), &stream));
        let whole =
            to.dialect().decode_reply(&to.dialect().encode_reply(&reply, &context())).unwrap();
        assert_eq!(said(&streamed), said(&whole), "{} to {}", from.name, to.name);
        // A call's seal travels to Anthropic's callers in a block of its own, which only their next request joins.
        if from.name == "gemini" && to.name == "anthropic" {
            continue;
        }
        let contents = (unnumbered(&streamed), unnumbered(&whole));
        assert_eq!(contents.0, contents.1, "{} to {}", from.name, to.name);
    }
}

#[test]
fn a_stream_split_at_any_byte_reads_the_same() {
    for vendor in VENDORS {
        let whole = decode_stream(vendor.dialect(), vendor.stream);
        let bytes = vendor.stream.as_bytes();
        for at in 0..bytes.len() {
            let mut decoder = vendor.dialect().stream_decoder();
            let mut parser = sse::Parser::new(1 << 20);
            let mut events = Vec::new();
            for piece in [&bytes[..at], &bytes[at..]] {
                let push = |event: sse::Event<'_>| {
                    decoder.push(event.name.as_deref(), &event.data, &mut events).unwrap();
                };
                parser.push(piece, push).unwrap();
            }
            decoder.finish(&mut events).unwrap();
            assert_eq!(events, whole, "{} at {at}", vendor.name);
        }
    }
}

#[test]
fn a_stream_cut_anywhere_is_never_taken_for_whole() {
    for vendor in VENDORS {
        let whole = decode_stream(vendor.dialect(), vendor.stream);
        let bytes = vendor.stream.as_bytes();
        for at in 0..bytes.len() {
            let mut decoder = vendor.dialect().stream_decoder();
            let mut parser = sse::Parser::new(1 << 20);
            let mut events = Vec::new();
            let push = |event: sse::Event<'_>| {
                decoder.push(event.name.as_deref(), &event.data, &mut events).unwrap();
            };
            parser.push(&bytes[..at], push).unwrap();
            let ended = decoder.finish(&mut events);
            // Where only the end's own mark is missing, or usage behind it, nothing that was said is.
            if ended.is_ok() {
                assert_eq!(fold(&events).choices, fold(&whole).choices, "{} at {at}", vendor.name);
            }
        }
    }
}

/// The caller's next request: the reply goes back as it came, with the answers to its calls.
fn next_turn(caller: &Vendor, reply: &Value) -> Value {
    let results = ["21 degrees", "3 degrees"];
    match caller.name {
        "openai" => {
            let message = &reply["choices"][0]["message"];
            let calls = message["tool_calls"].as_array().unwrap().iter().zip(results);
            let mut messages =
                vec![json!({"role": "user", "content": "Weather?"}), message.clone()];
            messages.extend(calls.map(
                |(call, text)| json!({"role": "tool", "tool_call_id": call["id"], "content": text}),
            ));
            json!({"messages": messages})
        }
        "openai_responses" => {
            let output = reply["output"].as_array().unwrap();
            let calls = output.iter().filter(|item| item["type"] == "function_call").zip(results);
            let results = calls.map(|(call, text)| {
                json!({"type": "function_call_output", "call_id": call["call_id"], "output": text})
            });
            let mut input = vec![json!({"role": "user", "content": "Weather?"})];
            input.extend(output.iter().cloned());
            input.extend(results);
            json!({"input": input})
        }
        "anthropic" => {
            let content = reply["content"].as_array().unwrap();
            let calls = content.iter().filter(|block| block["type"] == "tool_use").zip(results);
            let results: Vec<Value> = calls
                .map(|(call, text)| json!({"type": "tool_result", "tool_use_id": call["id"], "content": text}))
                .collect();
            json!({"messages": [
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": content},
                {"role": "user", "content": results},
            ]})
        }
        "gemini" => {
            // The SDK's own helper leaves the call's id out.
            let answers = results.map(|text| {
                json!({"functionResponse": {"name": "get_weather", "response": {"output": text}}})
            });
            json!({"contents": [
                {"role": "user", "parts": [{"text": "Weather?"}]},
                reply["candidates"][0]["content"],
                {"role": "user", "parts": answers},
            ]})
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_vendors_seals_come_back_to_it_through_any_caller_and_reach_no_other() {
    for (from, caller) in pairs() {
        let reply = from.dialect().decode_reply(from.reply.as_bytes()).unwrap();
        let shown = parse(caller.dialect().encode_reply(&reply, &context()));
        let next = next_turn(caller, &shown).to_string();
        let mut request = caller.read(next.as_bytes());
        for to in VENDORS {
            request.model = to.model.to_owned();
            let wire = to.dialect().encode_request(&request).unwrap();
            let body = String::from_utf8(wire.body).unwrap();
            for seal in from.seals {
                let place = format!("{} through {} to {}", from.name, caller.name, to.name);
                assert_eq!(
                    body.contains(&format!("\"{seal}\"")),
                    from.name == to.name,
                    "{place}: {body}"
                );
                assert!(from.name == to.name || !body.contains(seal), "{place}: {body}");
            }
        }
    }
}

#[test]
fn anthropics_reasoning_comes_back_word_for_word() {
    let anthropic = vendor("anthropic");
    let reply = anthropic.dialect().decode_reply(anthropic.reply.as_bytes()).unwrap();
    for caller in VENDORS {
        let shown = parse(caller.dialect().encode_reply(&reply, &context()));
        let request = caller.read(next_turn(caller, &shown).to_string().as_bytes());
        let body = parse(anthropic.dialect().encode_request(&request).unwrap().body);
        assert_eq!(
            body["messages"][1]["content"],
            parse(anthropic.reply)["content"],
            "through {}",
            caller.name
        );
        let answered: Vec<_> = body["messages"][2]["content"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| &it["tool_use_id"])
            .collect();
        assert_eq!(answered, ["toolu_01", "toolu_02"], "through {}", caller.name);
    }
}

#[test]
fn responses_reasoning_comes_back_with_its_items_id() {
    let responses = vendor("openai_responses");
    let reply = responses.dialect().decode_reply(responses.reply.as_bytes()).unwrap();
    for caller in VENDORS {
        let shown = parse(caller.dialect().encode_reply(&reply, &context()));
        let request = caller.read(next_turn(caller, &shown).to_string().as_bytes());
        let body = parse(responses.dialect().encode_request(&request).unwrap().body);
        assert_eq!(
            body["input"][1],
            parse(responses.reply)["output"][0],
            "through {}",
            caller.name
        );
    }
}

#[test]
fn geminis_signature_comes_back_on_its_call() {
    let gemini = vendor("gemini");
    let reply = gemini.dialect().decode_reply(gemini.reply.as_bytes()).unwrap();
    for caller in VENDORS {
        let shown = parse(caller.dialect().encode_reply(&reply, &context()));
        if caller.name == "openai" {
            let call = &shown["choices"][0]["message"]["tool_calls"][0];
            assert_eq!(call["extra_content"]["google"]["thought_signature"], "R0VNSU5JU0VBTA==");
        }
        let mut request = caller.read(next_turn(caller, &shown).to_string().as_bytes());
        request.model = gemini.model.to_owned();
        let body = parse(gemini.dialect().encode_request(&request).unwrap().body);
        let parts = body["contents"][1]["parts"].as_array().unwrap().iter();
        let calls: Vec<_> = parts.filter(|part| part.get("functionCall").is_some()).collect();
        assert_eq!(calls[0]["thoughtSignature"], "R0VNSU5JU0VBTA==", "through {}", caller.name);
        assert!(calls[1].get("thoughtSignature").is_none(), "through {}", caller.name);
        assert_eq!(calls[0]["functionCall"]["id"], "g1");
        let answered: Vec<_> = body["contents"][2]["parts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| &it["functionResponse"]["id"])
            .collect();
        assert_eq!(answered, ["g1", "g2"], "through {}", caller.name);
    }
}

#[test]
fn an_error_says_the_same_in_every_dialect() {
    let failure = Failure {
        status: 429,
        code: "rate_limited",
        message: "Wait two seconds.",
        param: None,
        request_id: "r1",
    };
    for vendor in VENDORS {
        let body = vendor.dialect().encode_failure(&failure);
        let read = vendor.dialect().decode_failure(429, &body);
        assert_eq!(read.message.as_deref(), Some("Wait two seconds."), "{}", vendor.name);
        assert!(String::from_utf8(body).unwrap().contains("rate_limited"), "{}", vendor.name);
    }
}

#[test]
fn a_failed_stream_ends_with_the_dialects_own_error() {
    let failure = Failure {
        status: 502,
        code: "upstream",
        message: "It broke off.",
        param: None,
        request_id: "r1",
    };
    for (from, to) in pairs() {
        let events = decode_stream(from.dialect(), from.stream);
        let half = events.len() / 2;
        let mut encoder = to.dialect().stream_encoder(&context());
        let mut out = Vec::new();
        events[..half].iter().for_each(|event| encoder.encode(event, &mut out));
        encoder.fail(&failure, &mut out);
        let length = out.len();
        events[half..].iter().for_each(|event| encoder.encode(event, &mut out));
        assert_eq!(out.len(), length, "{} to {}", from.name, to.name);
        let events = decode_stream(to.dialect(), std::str::from_utf8(&out).unwrap());
        let Some(crate::chat::Event::Error { message, .. }) = events.last() else {
            panic!("{events:?}")
        };
        assert_eq!(message, "It broke off.");
    }
}

#[test]
fn a_stream_that_money_cuts_ends_whole_at_any_event() {
    for (from, to) in pairs() {
        let events = decode_stream(from.dialect(), from.stream);
        for at in 1..events.len() - 1 {
            let mut encoder = to.dialect().stream_encoder(&context());
            let mut out = Vec::new();
            events[..at].iter().for_each(|event| encoder.encode(event, &mut out));
            encoder.cut(&mut out);
            let cut = fold(&decode_stream(to.dialect(), std::str::from_utf8(&out).unwrap()));
            assert_eq!(cut.choices.len(), 1, "{} to {} at {at}", from.name, to.name);
        }
    }
}

#[test]
fn vectors_cross_between_openai_and_gemini() {
    let openai = &openai::OPENAI;
    let asked = json!({"model": "x", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 2, "user": "u"});
    let request = openai.decode_embed(asked.to_string().as_bytes(), None).unwrap();
    let wire = Gemini.encode_embed(&request).unwrap();
    assert_eq!(wire.dropped, ["user"]);
    assert_eq!(parse(&wire.body)["requests"][1]["outputDimensionality"], 2);
    let vectors = json!({"embeddings": [{"values": [0.5, -1.0]}, {"values": [0.0, 2.0]}]});
    let reply = Gemini.decode_embed_reply(vectors.to_string().as_bytes()).unwrap();
    let body = parse(openai.encode_embed_reply(&request, &reply));
    assert_eq!(body["data"][0]["embedding"], "AAAAPwAAgL8=");

    let asked = json!({"requests": [{"content": {"parts": [{"text": "a"}]}, "taskType": "RETRIEVAL_QUERY"}]});
    let request = Gemini.decode_embed(asked.to_string().as_bytes(), Some("x")).unwrap();
    let wire = openai.encode_embed(&request).unwrap();
    assert_eq!(parse(&wire.body)["input"], json!(["a"]));
    assert!(!wire.dropped.is_empty());
    let reply = openai.decode_embed_reply(&openai.encode_embed_reply(&request, &reply)).unwrap();
    assert_eq!(
        parse(Gemini.encode_embed_reply(&request, &reply))["embeddings"][1]["values"],
        json!([0.0, 2.0])
    );
}

#[test]
fn tokens_are_counted_across_dialects() {
    let counts = ["anthropic", "gemini"].map(vendor);
    for from in counts {
        for to in counts {
            let mut request =
                from.dialect().decode_count(from.request.as_bytes(), Some("m")).unwrap();
            request.model = to.model.to_owned();
            let wire = to.dialect().encode_count(&request).unwrap();
            let read = to.dialect().decode_count(&wire.body, Some("m")).unwrap();
            assert_eq!(gist(&read)["turns"], gist(&request)["turns"]);
            let counted =
                to.dialect().decode_count_reply(&to.dialect().encode_count_reply(7)).unwrap();
            assert_eq!(counted, 7);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn noise_from_anyone_makes_nobody_panic(which in any::<prop::sample::Index>(), by in prop::option::of(any_json())) {
        let at = which.index(1 << 16);
        for (from, to) in pairs() {
            let (from_dialect, to_dialect) = (from.dialect(), to.dialect());
            let asked = spoil(parse(from.request), at, by.clone()).to_string();
            if let Ok(mut request) = from_dialect.decode_request(asked.as_bytes(), Some("m"), false) {
                request.model = to.model.to_owned();
                if let Ok(wire) = to_dialect.encode_request(&request) {
                    parse(&wire.body);
                    let _ = to_dialect.decode_request(&wire.body, Some("m"), false);
                }
            }
            let replied = spoil(parse(from.reply), at, by.clone()).to_string();
            if let Ok(reply) = from_dialect.decode_reply(replied.as_bytes()) {
                let body = to_dialect.encode_reply(&reply, &context());
                parse(&body);
                let _ = to_dialect.decode_reply(&body);
            }
            let mut decoder = from_dialect.stream_decoder();
            let mut events = Vec::new();
            let all = server_events(from.stream);
            for (place, (name, data)) in all.iter().enumerate() {
                let data = match serde_json::from_str(data) {
                    Ok(value) if place == at % all.len() => spoil(value, at / all.len(), by.clone()).to_string(),
                    _ => data.clone(),
                };
                let _ = decoder.push(name.as_deref(), &data, &mut events);
            }
            let _ = decoder.finish(&mut events);
            let mut encoder = to_dialect.stream_encoder(&context());
            let mut out = Vec::new();
            events.iter().for_each(|event| encoder.encode(event, &mut out));
            encoder.cut(&mut out);
            let (mut decoder, mut events) = (to_dialect.stream_decoder(), Vec::new());
            for (name, data) in server_events(std::str::from_utf8(&out).unwrap()) {
                assert!(data == "[DONE]" || serde_json::from_str::<Value>(&data).is_ok(), "{data}");
                let _ = decoder.push(name.as_deref(), &data, &mut events);
            }
        }
    }
}
