use super::{NanoUsd, PerMillion, round_up};

#[test]
fn decimal_text_round_trips() {
    for text in ["0", "1", "12.5", "0.000000001", "18446744073.709551615"] {
        assert_eq!(text.parse::<NanoUsd>().expect(text).to_string(), text);
    }
}

#[test]
fn what_is_not_an_amount_is_refused() {
    for text in ["", ".", "-1", "1e3", "1.0000000001", "1,5", "18446744074", " 1"] {
        assert!(text.parse::<NanoUsd>().is_err(), "{text}");
    }
}

#[test]
fn a_json_number_reads_as_it_was_written() {
    let amount: NanoUsd = serde_json::from_str("0.1").expect("number");
    assert_eq!(amount, NanoUsd(100_000_000));
}

#[test]
fn a_cost_is_rounded_up_once_at_its_total() {
    // 37.5 nano-dollars a token: three tokens cost 112.5, and nobody pays half a nano-dollar.
    let price = PerMillion(37_500_000);
    assert_eq!(round_up(price.exact(3)), NanoUsd(113));
    assert_eq!(round_up(price.exact(1) + price.exact(1)), NanoUsd(75));
}
