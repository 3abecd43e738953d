use althing_domain::policy::Fraction;
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::{Context, Parent, Sampler};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const NEVER: Sampler = Sampler { below: 0 };

#[test]
fn a_traceparent_gives_trace_parent_and_flag() {
    let parent = Parent::read(GIVEN, Some("rojo=1")).expect("reads");
    assert_eq!(format!("{:032x}", parent.trace_id), TRACE);
    assert_eq!(format!("{:016x}", parent.span_id), "00f067aa0ba902b7");
    assert!(parent.is_sampled);
    assert_eq!(parent.state.as_deref(), Some("rojo=1"));
    assert!(!Parent::read(&GIVEN.replace("-01", "-00"), None).expect("reads").is_sampled);
}

#[test]
fn what_is_not_a_traceparent_is_none() {
    for text in [
        "",
        "00",
        &GIVEN[..54],
        &format!("{GIVEN}-more"),
        &GIVEN.replace("00-4b", "ff-4b"),
        &GIVEN.to_uppercase(),
        &GIVEN.replace("00f067aa0ba902b7", "0000000000000000"),
        &GIVEN.replace(TRACE, "00000000000000000000000000000000"),
        &GIVEN.replace('-', "_"),
        "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
        "é0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ] {
        assert_eq!(Parent::read(text, None), None, "{text}");
    }
}

#[test]
fn a_version_to_come_is_read_as_far_as_it_is_known() {
    let newer = GIVEN.replace("00-4b", "01-4b");
    assert!(Parent::read(&newer, None).is_some());
    assert!(Parent::read(&format!("{newer}-what-comes"), None).is_some());
    assert!(Parent::read(&format!("{newer}x"), None).is_none());
}

#[test]
fn two_traceparents_are_none_and_tracestates_are_joined() {
    let mut headers = HeaderMap::new();
    headers.append("traceparent", HeaderValue::from_static(GIVEN));
    headers.append("tracestate", HeaderValue::from_static("a=1"));
    headers.append("tracestate", HeaderValue::from_static("b=2"));
    let parent = Parent::of_headers(&headers).expect("reads");
    assert_eq!(parent.state.as_deref(), Some("a=1,b=2"));
    headers.append("traceparent", HeaderValue::from_static(GIVEN));
    assert_eq!(Parent::of_headers(&headers), None);
}

#[test]
fn a_tracestate_that_cannot_be_passed_on_is_left_out_and_the_parent_stays() {
    for state in ["", "a=\n", &"x".repeat(513)] {
        assert_eq!(Parent::read(GIVEN, Some(state)).expect("reads").state, None);
    }
}

#[test]
fn a_caller_decides_for_its_own_trace_and_the_ratio_for_ours() {
    let kept = Context::begin(Parent::read(GIVEN, None), NEVER);
    assert!(kept.is_sampled);
    assert_eq!(
        (kept.trace_id, kept.parent),
        (u128::from_str_radix(TRACE, 16).expect("hex"), Some(0x00f0_67aa_0ba9_02b7))
    );
    let always = Sampler::new(Fraction(1_000_000));
    let dropped = Context::begin(Parent::read(&GIVEN.replace("-01", "-00"), None), always);
    assert!(!dropped.is_sampled);
    assert!(Context::begin(None, always).is_sampled);
    assert!(!Context::begin(None, NEVER).is_sampled);
}

#[test]
fn what_is_passed_on_names_our_span_in_the_callers_trace() {
    let context = Context::begin(Parent::read(GIVEN, Some("rojo=1")), NEVER);
    let sent = context.traceparent(0xabc);
    assert_eq!(sent, format!("00-{TRACE}-0000000000000abc-01"));
    assert_eq!(context.traceparent_json(0xabc), format!("\"00-{TRACE}-0000000000000abc-01\""));
    assert_eq!(context.tracestate().expect("state"), "rojo=1");
}

#[test]
fn the_share_that_is_kept_is_the_share_that_was_asked_for() {
    let sampler = Sampler::new(Fraction(10_000));
    let kept = (0..100_000).filter(|_| Context::begin(None, sampler).is_sampled).count();
    assert!((800..1_200).contains(&kept), "{kept} of 100,000 at 1%");
}

#[test]
fn the_choice_is_that_of_opentelemetrys_own_sampler() {
    use opentelemetry::trace::{SpanKind, TraceId};
    use opentelemetry_sdk::trace::{Sampler as Theirs, SamplingDecision, ShouldSample};

    for share in [0, 1, 10_000, 250_000, 999_999, 1_000_000] {
        let ours = Sampler::new(Fraction(share));
        let theirs = Theirs::TraceIdRatioBased(f64::from(share) / 1e6);
        for _ in 0..2_000 {
            let id = Context::begin(None, NEVER).trace_id;
            let trace = TraceId::from_bytes(id.to_be_bytes());
            let decision =
                theirs.should_sample(None, trace, "", &SpanKind::Server, &[], &[]).decision;
            assert_eq!(
                ours.keeps(id),
                decision == SamplingDecision::RecordAndSample,
                "{share} {id:x}"
            );
        }
    }
}

proptest! {
    #[test]
    fn no_text_panics_and_what_reads_is_passed_on_as_it_came(text in ".{0,80}", flags in 0u8..4, trace in 1u128.., span in 1u64..) {
        let _ = Parent::read(&text, Some(&text));
        let given = format!("00-{trace:032x}-{span:016x}-{flags:02x}");
        let context = Context::begin(Parent::read(&given, None), NEVER);
        let sent = context.traceparent(span);
        prop_assert_eq!(sent.to_str().expect("text"), given);
    }
}
