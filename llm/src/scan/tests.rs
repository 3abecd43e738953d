use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn found(body: &str) -> Scan {
    scan(body.as_bytes()).unwrap_or_else(|error| panic!("{error}: {body}"))
}

fn refused(body: &str) -> String {
    scan(body.as_bytes()).expect_err(body).to_string()
}

#[test]
fn the_fields_of_policy_are_found_wherever_they_stand() {
    let body = r#" {"messages":[{"role":"user","content":"{\"model\":\"no\"} 😀"}], "model" : "gpt-4o","stream":true,
        "n":2,"max_completion_tokens":100,"stream_options":{"include_usage":true,"x":[1]},"tools":[],"fallbacks":["a/b","c\u002fd"]} "#;
    let it = found(body);
    assert_eq!(it.model(body.as_bytes()).as_deref(), Some("gpt-4o"));
    assert!(it.stream());
    let most = it.max_output(Field::MaxCompletionTokens);
    assert_eq!((most, it.choices(), it.include_usage()), (Some(100), 2, Some(true)));
    assert_eq!(it.fallbacks(body.as_bytes()).unwrap(), ["a/b", "c/d"]);
    assert_eq!(&body[it.span(Field::Tools).unwrap().value.clone()], "[]");
    assert_eq!(&body[it.span(Field::Model).unwrap().member.clone()], "\"model\" : \"gpt-4o\"");
}

#[test]
fn each_field_says_its_own_bound() {
    let it = found(
        r#"{"max_tokens":5,"max_completion_tokens":7,"max_output_tokens":6.0,"n":2,"best_of":3}"#,
    );
    let fields = [Field::MaxTokens, Field::MaxCompletionTokens, Field::MaxOutputTokens];
    let bounds = fields.map(|field| it.max_output(field));
    assert_eq!((bounds, it.choices()), ([Some(5), Some(7), Some(6)], 3));
    assert_eq!(it.max_output(Field::GenerationConfig), None);
}

#[test]
fn gemini_bounds_are_found_in_both_spellings() {
    for body in [
        r#"{"generationConfig":{"maxOutputTokens":9,"candidateCount":2}}"#,
        r#"{"generation_config":{"max_output_tokens":9,"candidate_count":2}}"#,
    ] {
        let it = found(body);
        let most = it.max_output(Field::GenerationConfig);
        assert_eq!((most, it.choices()), (Some(9), 2), "{body}");
    }
    for body in [
        r#"{"generation_config":{},"generationConfig":{}}"#,
        r#"{"generationConfig":{"maxOutputTokens":1,"max_output_tokens":900}}"#,
    ] {
        assert!(refused(body).contains("given twice"), "{body}");
    }
}

#[test]
fn null_counts_as_absent_but_can_be_replaced() {
    let body = r#"{"model":"m","max_tokens":null,"stream":null,"tools":null,"n":null,"stream_options":null,"fallbacks":null}"#;
    let it = found(body);
    assert_eq!((it.max_output(Field::MaxTokens), it.stream(), it.choices()), (None, false, 1));
    assert!(it.present(Field::Tools).is_none() && it.span(Field::Tools).is_some());
    let mut change = Rewrite::new(&it);
    change.set(Field::MaxTokens, "8").append_tools(b"1");
    assert!(
        change
            .apply(body.as_bytes())
            .starts_with(br#"{"model":"m","max_tokens":8,"stream":null,"tools":[1],"#)
    );
}

#[test]
fn a_duplicate_field_is_refused() {
    assert_eq!(refused(r#"{"model":"a","model":"b"}"#), "model: given twice; give it once");
    assert_eq!(refused(r#"{"model":"a","mode\u006c":"b"}"#), "model: given twice; give it once");
    assert_eq!(refused(r#"{"x":1,"y":2,"x":3}"#), "x: given twice; give it once");
    assert_eq!(
        refused(r#"{"stream_options":{"include_usage":true,"include_usage":false}}"#),
        "stream_options.include_usage: given twice; give it once"
    );
}

#[test]
fn a_case_variant_of_a_known_field_is_refused() {
    assert_eq!(refused(r#"{"Model":"a"}"#), "Model: write this field as `model`");
    assert_eq!(refused(r#"{"MAX_TOKENS":1}"#), "MAX_TOKENS: write this field as `max_tokens`");
    assert_eq!(refused(r#"{"\u004dodel":"a"}"#), "Model: write this field as `model`");
    assert_eq!(refused("{\"\u{17f}tream\":true}"), "\u{17f}tream: write this field as `stream`");
    assert_eq!(
        refused("{\"max_to\u{212a}ens\":1}"),
        "max_to\u{212a}ens: write this field as `max_tokens`"
    );
    assert_eq!(refused(r#"{"N":1}"#), "N: write this field as `n`");
    assert!(
        refused(r#"{"stream_options":{"Include_Usage":true}}"#).contains("write this field as")
    );
    found(r#"{"Messages":1,"models":["a"],"streamed":1}"#);
}

#[test]
fn a_field_of_the_wrong_type_is_named() {
    for (body, text) in [
        (r#"{"model":1}"#, "model: must be a string"),
        (r#"{"stream":"true"}"#, "stream: must be `true` or `false`"),
        (r#"{"max_tokens":"7"}"#, "max_tokens: must be a whole number"),
        (r#"{"max_tokens":-7}"#, "max_tokens: must be a whole number"),
        (r#"{"max_tokens":1e3}"#, "max_tokens: must be a whole number"),
        (r#"{"max_tokens":99999999999999999999}"#, "max_tokens: must be a whole number"),
        (r#"{"n":1.5}"#, "n: must be a whole number"),
        (r#"{"tools":{}}"#, "tools: must be a list"),
        (r#"{"stream_options":[]}"#, "stream_options: must be an object"),
    ] {
        assert_eq!(refused(body), text, "{body}");
    }
    let body = br#"{"fallbacks":["a",1]}"#;
    assert_eq!(scan(body).unwrap().fallbacks(body).unwrap_err().field(), Some("fallbacks"));
}

#[test]
fn what_is_not_json_is_refused() {
    for body in [
        "",
        " ",
        "{",
        "}",
        "{]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{'a':1}",
        "{a:1}",
        "{\"a\":1}}",
        "{\"a\":1} x",
        "{\"a\":01}",
        "{\"a\":1.}",
        "{\"a\":.5}",
        "{\"a\":+1}",
        "{\"a\":1e}",
        "{\"a\":-}",
        "{\"a\":NaN}",
        "{\"a\":tru}",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12g4\"}",
        "{\"a\":\"",
        "{\"a\":\"\\",
        "{\"a\":[1,]}",
        "{\"a\":[1 2]}",
        "{\"a\":{\"b\":1,}}",
        "{\"a\":[}",
        "{\"a\":{]}",
        "{\"a\":[{}}",
        "{\"a\":/**/1}",
        "\u{feff}{}",
        "{\"a\":1 \"b\":2}",
    ] {
        assert!(
            matches!(scan(body.as_bytes()), Err(Error::Syntax { .. })),
            "{body:?}: {:?}",
            scan(body.as_bytes())
        );
    }
    assert!(matches!(scan(b"{\"a\":\"\xff\"}"), Err(Error::Syntax { offset: 6, .. })));
    for body in ["[]", "1", "\"a\"", "null"] {
        assert_eq!(scan(body.as_bytes()), Err(Error::NotAnObject), "{body}");
    }
}

#[test]
fn depth_and_count_have_bounds() {
    let deep = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    found(&deep(127));
    assert_eq!(scan(deep(128).as_bytes()), Err(Error::TooDeep));
    assert_eq!(scan(deep(1_000_000).as_bytes()), Err(Error::TooDeep));
    let wide = |fields: usize| {
        format!(
            "{{{}}}",
            (0..fields).map(|it| format!("\"f{it}\":{it}")).collect::<Vec<_>>().join(",")
        )
    };
    found(&wide(FIELDS_MAX));
    assert_eq!(scan(wide(FIELDS_MAX + 1).as_bytes()), Err(Error::TooManyFields));
}

fn rewritten(body: &str, change: impl FnOnce(&mut Rewrite<'_>)) -> String {
    let scan = found(body);
    let mut rewrite = Rewrite::new(&scan);
    change(&mut rewrite);
    let out = String::from_utf8(rewrite.apply(body.as_bytes())).unwrap();
    found(&out);
    out
}

#[test]
fn only_what_changes_is_rewritten() {
    let body = r#"{ "a" : 1.0, "model":"p/m", "fallbacks":["x"] , "b":"\u0041" }"#;
    let out = rewritten(body, |it| {
        it.set_text(Field::Model, "m\"")
            .remove(Field::Fallbacks)
            .append_tools(b"{}")
            .append_tools(b"1")
            .include_usage(body.as_bytes());
    });
    assert_eq!(
        out,
        r#"{ "a" : 1.0, "model":"m\"" , "b":"\u0041" ,"stream_options":{"include_usage":true},"tools":[{},1]}"#
    );
}

#[test]
fn tools_join_a_list_that_is_there() {
    assert_eq!(
        rewritten(r#"{"tools":[{"a":[]}]}"#, |it| {
            it.append_tools(b"2");
        }),
        r#"{"tools":[{"a":[]},2]}"#
    );
    assert_eq!(
        rewritten(r#"{"tools":[ ]}"#, |it| {
            it.append_tools(b"2");
        }),
        r#"{"tools":[ 2]}"#
    );
    assert_eq!(
        rewritten("{}", |it| {
            it.append_tools(b"2");
        }),
        r#"{"tools":[2]}"#
    );
}

#[test]
fn stream_options_keep_what_they_had() {
    let body = r#"{"stream_options":{"include_obfuscation":false,"include_usage":false}}"#;
    let out = rewritten(body, |it| {
        it.include_usage(body.as_bytes());
    });
    assert_eq!(out, r#"{"stream_options":{"include_obfuscation":false,"include_usage":true}}"#);
}

#[test]
fn any_set_of_fields_can_be_removed() {
    let names = ["model", "n", "x", "tools"];
    let body = r#"{"model":"m","n":1,"x":[",",2], "tools":[]}"#;
    for set in 0u8..8 {
        let gone: Vec<Field> = [Field::Model, Field::N, Field::Tools]
            .into_iter()
            .enumerate()
            .filter(|it| set >> it.0 & 1 == 1)
            .map(|it| it.1)
            .collect();
        let out = rewritten(body, |it| {
            for field in &gone {
                it.remove(*field);
            }
            it.set(Field::MaxTokens, "3");
        });
        let value: Value = serde_json::from_str(&out).unwrap();
        let left: Vec<&str> = names
            .into_iter()
            .filter(|it| gone.iter().all(|field| field.name() != *it))
            .chain(["max_tokens"])
            .collect();
        assert_eq!(value.as_object().unwrap().keys().collect::<Vec<_>>(), left, "{out}");
    }
    assert_eq!(
        rewritten(r#"{"fallbacks":[]}"#, |it| {
            it.remove(Field::Fallbacks).set(Field::N, "1");
        }),
        r#"{"n":1}"#
    );
}

#[test]
fn errors_keep_their_field_in_the_dialects_words() {
    let error: dialect::Error = scan(br#"{"Model":1}"#).unwrap_err().into();
    assert_eq!(
        error,
        dialect::Error::Field {
            field: "Model".into(),
            problem: "write this field as `model`".into()
        }
    );
}

/// JSON values as text, with odd spacing.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just(" true".to_owned()),
        any::<f64>().prop_filter("finite", |it| it.is_finite()).prop_map(|it| format!("{it:e}")),
        any::<i64>().prop_map(|it| it.to_string()),
        any::<String>().prop_map(|it| Value::from(it).to_string()),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5)
                .prop_map(|it| format!("[ {} ]", it.join(" ,\n"))),
            prop::collection::vec((any::<String>(), inner), 0..5).prop_map(|it| {
                let members: Vec<String> =
                    it.iter().map(|(k, v)| format!("{} : {v}", Value::from(k.as_str()))).collect();
                format!("{{\t{}}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn it_takes_what_a_full_parser_takes(value in json_text(), cut in 0usize..400) {
        let body = format!("{{\"a\": {value}}}");
        prop_assert!(scan(body.as_bytes()).is_ok(), "{}", body);
        let part = &body.as_bytes()[..cut.min(body.len())];
        prop_assert_eq!(scan(part).is_ok(), serde_json::from_slice::<Value>(part).is_ok());
    }

    #[test]
    fn it_refuses_what_a_full_parser_refuses(noise in "[\\[\\]{}:,\"\\\\0-9eE.+\\-tfnul \n]{0,24}") {
        let body = format!("{{\"a\":{noise}}}");
        let parsed = serde_json::from_str::<serde_json::Map<String, Value>>(&body);
        if scan(body.as_bytes()).is_ok() {
            // Numbers out of range and lone surrogates are a full parser's own limits.
            let only_limits = parsed.as_ref().err().is_none_or(|it| it.to_string().contains("out of range") || it.to_string().contains("surrogate"));
            prop_assert!(only_limits, "{}: {:?}", body, parsed);
        }
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = scan(&bytes);
    }
}

#[test]
fn every_prompt_of_a_list_is_answered() {
    for (body, choices) in [
        (r#"{"prompt":"a"}"#, 1),
        (r#"{"prompt":["a","b","c"],"n":2}"#, 6),
        (r#"{"prompt":["a","b"],"n":2,"best_of":5}"#, 10),
        (r#"{"prompt":[1,2,3],"n":2}"#, 2),
        (r#"{"prompt":[[1,2],[3]]}"#, 2),
        (r#"{"prompt":[]}"#, 1),
        (r#"{"prompt":null,"n":3}"#, 3),
    ] {
        assert_eq!(found(body).choices(), choices, "{body}");
    }
}

#[test]
fn a_response_in_the_background_and_functions_of_the_first_form_are_seen() {
    assert!(found(r#"{"background":true}"#).is_background());
    assert!(!found(r#"{"background":false,"x":{"background":true}}"#).is_background());
    assert!(found(r#"{"functions":[]}"#).has_functions());
    assert!(!found(r#"{"functions":null,"x":"functions"}"#).has_functions());
}
