use proptest::prelude::*;

use super::*;

type Owned = (Option<String>, String);

fn read(chunks: &[&[u8]]) -> Vec<Owned> {
    let mut parser = Parser::default();
    let mut events = Vec::new();
    for chunk in chunks {
        parser
            .push(chunk, |it| events.push((it.name.map(Cow::into_owned), it.data.into_owned())))
            .unwrap();
    }
    parser.finish(|it| events.push((it.name.map(Cow::into_owned), it.data.into_owned())));
    events
}

fn check(stream: &str, expected: &[(Option<&str>, &str)]) {
    let expected: Vec<Owned> =
        expected.iter().map(|it| (it.0.map(str::to_owned), it.1.to_owned())).collect();
    let bytes = stream.as_bytes();
    assert_eq!(read(&[bytes]), expected, "whole: {stream:?}");
    for at in 0..=bytes.len() {
        assert_eq!(read(&[&bytes[..at], &bytes[at..]]), expected, "cut at {at}: {stream:?}");
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(read(&single), expected, "byte by byte: {stream:?}");
}

#[test]
fn events_come_out_the_same_at_every_split() {
    check("data: a\n\ndata: b\n\n", &[(None, "a"), (None, "b")]);
    check("event: x\ndata: {\"a\":1}\n\n", &[(Some("x"), "{\"a\":1}")]);
    check("event:x\ndata:a\ndata: b\nid: 4\n\n", &[(Some("x"), "a\nb")]);
    check(": comment\n\n: ping\n\ndata: a\n\n", &[(None, "a")]);
    check("data\n\n", &[(None, "")]);
    check("retry: 100\n\nevent: nothing\n\n", &[]);
    check("data: ä€😀\n\n", &[(None, "ä€😀")]);
}

#[test]
fn every_line_end_is_known() {
    check("data: a\r\n\r\ndata: b\r\n\r\n", &[(None, "a"), (None, "b")]);
    check("data: a\r\rdata: b\r\r", &[(None, "a"), (None, "b")]);
    check("data: a\r\ndata: b\r\n\r\n", &[(None, "a\nb")]);
    check("data: a\n\r\ndata: b\r\n\n", &[(None, "a"), (None, "b")]);
    check("\n\n\r\ndata: a\n\n\n\ndata: b\n\n", &[(None, "a"), (None, "b")]);
}

#[test]
fn a_byte_order_mark_is_skipped_once() {
    check("\u{feff}data: a\n\n", &[(None, "a")]);
    check("data: \u{feff}a\n\n\u{feff}data: b\n\n", &[(None, "\u{feff}a")]);
}

#[test]
fn the_last_event_counts_without_its_empty_line() {
    check("data: a\n\ndata: b", &[(None, "a"), (None, "b")]);
    check("data: a\n\ndata: b\n", &[(None, "a"), (None, "b")]);
}

#[test]
fn an_event_is_handed_out_as_soon_as_it_is_whole() {
    for stream in ["data: a\n\n", "data: a\r\n\r\n", "data: a\r\r"] {
        let mut parser = Parser::default();
        let mut count = 0;
        parser.push(stream.as_bytes(), |_| count += 1).unwrap();
        assert_eq!((count, parser.is_cut()), (1, false), "{stream:?}");
    }
}

#[test]
fn a_whole_event_is_not_copied() {
    let bytes = b"event: x\ndata: abc\n\ndata: d";
    let mut parser = Parser::default();
    let mut borrowed = false;
    parser
        .push(bytes, |it| {
            borrowed = matches!((it.name, it.data), (Some(Cow::Borrowed(_)), Cow::Borrowed(_)));
        })
        .unwrap();
    assert!(borrowed);
    assert!(parser.is_cut());
}

#[test]
fn an_event_above_the_bound_is_refused_before_it_is_whole() {
    let mut parser = Parser::new(16);
    let mut count = 0;
    parser.push(b"data: a\n\ndata: 0123456789", |_| count += 1).unwrap();
    assert_eq!(parser.push(b"0123456789", |_| count += 1), Err(Error::TooLarge { bytes_max: 16 }));
    assert_eq!(count, 1);
}

#[test]
fn what_is_written_reads_back() {
    let mut out = Vec::new();
    write(Some("x"), b"{}", &mut out);
    write(None, b"[DONE]", &mut out);
    assert_eq!(
        read(&[&out]),
        [(Some("x".to_owned()), "{}".to_owned()), (None, "[DONE]".to_owned())]
    );
}

proptest! {
    #[test]
    fn noise_reads_the_same_at_every_split(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b' '), Just(b'd'), any::<u8>()], 0..64), at in 0usize..64) {
        let at = at.min(bytes.len());
        prop_assert_eq!(read(&[&bytes]), read(&[&bytes[..at], &bytes[at..]]));
    }
}
