use proptest::prelude::*;

use super::*;

/// Any record, with names from a small set, so that groups meet.
pub(crate) fn any_record(at_ms: std::ops::Range<u64>) -> impl Strategy<Value = Record> {
    let name = || proptest::option::of(prop_oneof!["a", "b", "[a-zé%_]{0,8}"]);
    let names = (name(), name(), name(), name(), name(), name(), name(), name(), name());
    let tokens = (0..5_000u64, 0..500u64, 0..500u64, 0..5_000u64, 0..500u64, any::<bool>());
    let numbers = (0..600u16, any::<bool>(), 0..40_000u64, 0..1_000u64, 0..5u32, 0..1u64 << 40);
    let rest = (
        any::<u128>(),
        any::<bool>(),
        0..4u8,
        proptest::option::of(any::<u128>()),
        any::<Option<[u8; 32]>>(),
    );
    (at_ms, names, tokens, numbers, rest).prop_map(|(at_ms, names, tokens, numbers, rest)| {
        let kind = if rest.1 { Kind::ToolCall } else { Kind::ModelCall };
        let mut record = Record::new(rest.0, at_ms, Arc::from("node-a"), kind);
        let text = |it: Option<String>| it.map(Arc::from);
        record.key = text(names.0);
        record.team = text(names.1);
        record.customer = text(names.2);
        record.provider = text(names.3);
        record.provider_key = text(names.4);
        record.model = text(names.5);
        record.server = text(names.6);
        record.tool = text(names.7);
        record.error = names.8.map(Cow::Owned);
        record.tokens = Tokens {
            input: tokens.0,
            cached_input: tokens.1,
            cache_write: tokens.2,
            output: tokens.3,
            reasoning: tokens.4,
            estimated: tokens.5,
        };
        record.http_status = numbers.0;
        record.stream = numbers.1;
        record.latency_ms = numbers.2;
        record.overhead_us = numbers.3;
        record.attempts = numbers.4;
        record.cost_nano_usd = numbers.5;
        record.status = Status::from_code(rest.2).unwrap();
        record.parent = rest.3;
        record.arguments_sha256 = rest.4;
        record
    })
}

fn bytes_of(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(record, &mut bytes);
    bytes
}

proptest! {
    #[test]
    fn what_was_encoded_decodes_to_the_same(mut record in any_record(0..1 << 43), body in proptest::collection::vec(any::<u8>(), 0..200), has in any::<bool>()) {
        if has {
            record.arguments = Some(Payload(body.clone().into()));
            record.bodies = Some(Box::new(Bodies { request: Body::new(&body.into()), response: Body::default() }));
        }
        prop_assert_eq!(decode(&bytes_of(&record)).unwrap(), record);
    }

    #[test]
    fn noise_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
        if let Some(first) = bytes.first_mut() {
            *first = 1;
        }
        let _ = decode(&bytes);
    }

    #[test]
    fn a_record_that_is_cut_short_is_malformed(record in any_record(0..1 << 43), cut in any::<proptest::sample::Index>()) {
        let bytes = bytes_of(&record);
        prop_assert_eq!(decode(&bytes[..cut.index(bytes.len())]).is_err(), true);
    }
}

#[test]
fn long_texts_are_cut_at_a_character_and_absurd_numbers_to_their_limits() {
    let mut record = Record::new(7, u64::MAX, Arc::from("n"), Kind::ModelCall);
    record.model = Some(Arc::from("é".repeat(40_000)));
    record.tokens.input = u64::MAX;
    record.cost_nano_usd = u64::MAX;
    let back = decode(&bytes_of(&record)).unwrap();
    assert_eq!(back.model.as_deref(), Some("é".repeat(TEXT_BYTES_MAX / 2).as_str()));
    assert_eq!(back.tokens.input, u64::from(u32::MAX));
    assert_eq!(back.cost_nano_usd, 1 << 53);
}

#[test]
fn the_bytes_of_version_one_stay_what_they_are() {
    let mut record = Record::new(0x0102, 1_795_600_000_000, Arc::from("n"), Kind::ToolCall);
    record.key = Some(Arc::from("app"));
    record.status = Status::Failed;
    record.error = Some(Cow::Borrowed("upstream"));
    record.http_status = 502;
    record.tokens.output = 300;
    let hex: String = bytes_of(&record).iter().map(|it| format!("{it:02x}")).collect();
    assert_eq!(
        hex,
        "0100010200000000000000000000000000000102016e04617070000000000000000975707374726561\
         6d80c8e690a134f603000000000000ac020000"
            .replace(char::is_whitespace, "")
    );
}

#[test]
fn another_version_is_named() {
    assert_eq!(decode(&[9, 0, 0]), Err(DecodeError::Version(9)));
}

#[test]
fn debug_shows_no_argument_and_no_body() {
    let mut record = Record::new(1, 1, Arc::from("n"), Kind::ToolCall);
    record.arguments = Some(Payload("canary".into()));
    record.bodies =
        Some(Box::new(Bodies { request: Body::new(&"canary".into()), response: Body::default() }));
    assert!(!format!("{record:?}").contains("canary"));
}
