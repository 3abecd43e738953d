//! What the dialects' tests share.

use std::sync::Arc;

use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop, prop_oneof};
use serde_json::{Map, Value};

use crate::chat::{Block, Choice, Event, Reply, Stop, Usage};
use crate::dialect::{Dialect, ReplyContext};
use crate::sse;

/// A reply's context whose names no vendor uses.
pub(crate) fn context() -> ReplyContext {
    ReplyContext {
        model: "house-model".into(),
        created: 1_760_000_000,
        id: "0198c0ffee".into(),
        stream_usage: true,
        aliases: Arc::default(),
    }
}

/// A stream's server-sent events: name and data.
pub(crate) fn server_events(stream: &str) -> Vec<(Option<String>, String)> {
    let mut events = Vec::new();
    let mut parser = sse::Parser::new(1 << 20);
    let mut keep = |event: sse::Event<'_>| {
        events.push((event.name.map(std::borrow::Cow::into_owned), event.data.into_owned()));
    };
    parser.push(stream.as_bytes(), &mut keep).unwrap();
    assert!(!parser.is_cut(), "the stream's last event has no end");
    events
}

/// Reads a whole stream.
pub(crate) fn decode_stream(dialect: &dyn Dialect, stream: &str) -> Vec<Event> {
    let mut decoder = dialect.stream_decoder();
    let mut events = Vec::new();
    for (name, data) in server_events(stream) {
        decoder.push(name.as_deref(), &data, &mut events).unwrap();
    }
    decoder.finish(&mut events).unwrap();
    events
}

/// Writes a whole stream.
pub(crate) fn encode_stream(
    dialect: &dyn Dialect,
    context: &ReplyContext,
    events: &[Event],
) -> String {
    let mut encoder = dialect.stream_encoder(context);
    let mut out = Vec::new();
    for event in events {
        encoder.encode(event, &mut out);
    }
    String::from_utf8(out).unwrap()
}

/// The whole reply that a stream's events add up to. Panics where the events break the rules of [`Event`].
pub(crate) fn fold(events: &[Event]) -> Reply {
    let mut reply = Reply {
        id: String::new(),
        model: String::new(),
        created: None,
        choices: vec![],
        usage: Usage::default(),
    };
    let mut open: Vec<(u32, u32)> = vec![];
    let mut places = std::collections::BTreeMap::new();
    for event in events {
        match event {
            Event::Start { id, model } => (reply.id, reply.model) = (id.clone(), model.clone()),
            Event::BlockStart { choice, index, block } => {
                let choice_at = at(&mut reply, *choice);
                assert!(
                    places
                        .insert((*choice, *index), reply.choices[choice_at].content.len())
                        .is_none(),
                    "index twice"
                );
                reply.choices[choice_at].content.push(block.clone());
                open.push((*choice, *index));
            }
            Event::BlockStop { choice, index } => {
                let before = open.len();
                open.retain(|key| *key != (*choice, *index));
                assert_eq!(open.len() + 1, before, "{choice}.{index} ends, but is not open");
            }
            Event::Text { choice, index, .. }
            | Event::Arguments { choice, index, .. }
            | Event::Signature { choice, index, .. }
            | Event::Citation { choice, index, .. } => {
                assert!(
                    open.contains(&(*choice, *index)),
                    "a piece for {choice}.{index}, which is not open"
                );
                let place = places[&(*choice, *index)];
                let choice_at = at(&mut reply, *choice);
                append(&mut reply.choices[choice_at].content[place], event);
            }
            Event::Stop { choice, stop } => {
                let choice_at = at(&mut reply, *choice);
                reply.choices[choice_at].stop = stop.clone();
            }
            Event::Usage(usage) => reply.usage = *usage,
            Event::Error { kind, message } => panic!("{kind}: {message}"),
            Event::Done => assert!(open.is_empty(), "open at the end: {open:?}"),
        }
    }
    assert_eq!(events.iter().filter(|event| **event == Event::Done).count(), 1);
    reply
}

fn at(reply: &mut Reply, index: u32) -> usize {
    if let Some(place) = reply.choices.iter().position(|choice| choice.index == index) {
        return place;
    }
    reply.choices.push(Choice { index, content: vec![], stop: Stop::End, logprobs: None });
    reply.choices.len() - 1
}

fn append(block: &mut Block, event: &Event) {
    match (block, event) {
        (
            Block::Text { text, .. } | Block::Thinking { text, .. } | Block::Refusal { text },
            Event::Text { text: more, .. },
        ) => {
            text.push_str(more);
        }
        (Block::ToolUse { arguments, .. }, Event::Arguments { json, .. }) => {
            arguments.push_str(json);
        }
        (
            Block::Thinking { signature, .. } | Block::ToolUse { signature, .. },
            Event::Signature { signature: seal, .. },
        ) => {
            *signature = Some(seal.clone());
        }
        (Block::Text { citations, .. }, Event::Citation { value, .. }) => {
            let list = citations.get_or_insert_with(|| Value::Array(vec![]));
            list.as_array_mut().unwrap().push(value.clone());
        }
        (block, event) => panic!("{event:?} for {block:?}"),
    }
}

/// Small JSON of any shape, with words that dialects know.
pub(crate) fn any_json() -> BoxedStrategy<Value> {
    let word = prop_oneof![
        Just(String::new()),
        Just("text".to_owned()),
        Just("tool_use".to_owned()),
        Just("base64".to_owned()),
        Just("{\"a\":".to_owned()),
        "\\PC{0,8}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
    .boxed()
}

/// `value` with the node that `which` points at replaced or taken away.
pub(crate) fn spoil(mut value: Value, which: usize, by: Option<Value>) -> Value {
    let mut left = which % nodes(&value);
    visit(&mut value, &mut left, &mut Some(by));
    value
}

fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(nodes).sum(),
        Value::Object(map) => map.values().map(nodes).sum(),
        _ => 0,
    }
}

fn visit(value: &mut Value, left: &mut usize, by: &mut Option<Option<Value>>) {
    if by.is_none() {
        return;
    }
    if *left == 0 {
        *value = by.take().flatten().unwrap_or(Value::Null);
        return;
    }
    *left -= 1;
    match value {
        Value::Array(list) => list.iter_mut().for_each(|item| visit(item, left, by)),
        Value::Object(map) => map.values_mut().for_each(|item| visit(item, left, by)),
        _ => {}
    }
}
