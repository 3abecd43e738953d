use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Error, Frame, HEADER_BYTES, PAYLOAD_BYTES_MAX, crc32c_of, decode, encode, frame, to_frame,
};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Sample {
    Plain(u64),
    Named { name: String, data: Vec<u8>, inner: Option<Box<Sample>> },
}

#[test]
fn the_checksum_is_the_published_one() {
    assert_eq!(crc32c_of(b"123456789"), 0xe306_9283);
}

#[test]
fn the_checksum_of_eight_bytes_at_a_time_is_that_of_one_bit_at_a_time() {
    let bytes: Vec<u8> = (0..100_u8).map(|it| it.wrapping_mul(89).wrapping_add(7)).collect();
    for (from, to) in (0..9).flat_map(|from| (from..bytes.len()).map(move |to| (from, to))) {
        let part = &bytes[from..to];
        let slow = part.iter().fold(!0_u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 }
            })
        });
        assert_eq!(crc32c_of(part), !slow, "{from}..{to}");
    }
}

#[test]
fn the_bytes_of_a_frame_are_those_of_version_one() {
    let bytes =
        to_frame(7, &Sample::Named { name: "ab".into(), data: vec![1, 2], inner: None }).unwrap();
    assert_eq!(bytes[..7], [1, 7, 0, 8, 0, 0, 0]);
    assert_eq!(bytes[HEADER_BYTES..], [1, 2, b'a', b'b', 2, 1, 2, 0]);
    assert_eq!(bytes[7..11], [216, 77, 153, 218]);
}

#[test]
fn every_changed_byte_is_noticed() {
    let good = to_frame(1, &Sample::Plain(77)).unwrap();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            let read = Frame::read(&bad).and_then(|f| f.decode::<Sample>());
            assert!(read.is_err(), "bit {bit} of byte {at}");
        }
    }
    for end in 0..good.len() {
        assert!(matches!(Frame::read(&good[..end]), Err(Error::Short { .. })));
    }
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_anything_is_allocated() {
    let mut bytes = frame(1, b"x").unwrap();
    bytes[3..7].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Frame::read(&bytes), Err(Error::TooLarge(u32::MAX as usize)));
    assert!(matches!(frame(1, &vec![0; PAYLOAD_BYTES_MAX + 1]), Err(Error::TooLarge(_))));

    // A vector that claims 2^60 elements.
    let hostile = [253, 0, 0, 0, 0, 0, 0, 0, 16];
    assert!(decode::<Vec<u64>>(&hostile).is_err());
    assert!(decode::<Vec<u8>>(&hostile).is_err());
    assert!(decode::<String>(&hostile).is_err());
}

#[test]
fn what_follows_a_value_is_an_error() {
    let mut bytes = encode(&Sample::Plain(1)).unwrap();
    bytes.push(0);
    assert_eq!(decode::<Sample>(&bytes), Err(Error::Trailing(1)));
}

proptest! {
    #[test]
    fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Frame::read(&bytes).and_then(|f| f.decode::<Sample>());
        let _ = decode::<Sample>(&bytes);
        let _ = decode::<Vec<(String, Vec<u64>)>>(&bytes);
    }

    #[test]
    fn what_is_framed_comes_back(version in any::<u16>(), payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        let bytes = frame(version, &payload).unwrap();
        let read = Frame::read(&bytes).unwrap();
        prop_assert_eq!((read.version, read.payload), (version, &payload[..]));
    }
}
