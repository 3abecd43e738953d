use super::{Budgets, Period, Rate, Span};

#[test]
fn one_budget_or_a_list_of_them_reads_the_same() {
    let one: Budgets = serde_json::from_str(r#"{"limit_usd":"5","period":"month"}"#).expect("one");
    let many: Budgets =
        serde_json::from_str(r#"[{"limit_usd":5,"period":"month"}]"#).expect("many");
    assert_eq!(one, many);
    assert_eq!(serde_json::from_str::<Budgets>("null").expect("null"), Budgets::default());
}

#[test]
fn a_period_round_trips_as_it_was_written() {
    for text in ["hour", "day", "week", "month", "total", "6h", "90s", "7d", "1500ms"] {
        assert_eq!(text.parse::<Period>().expect(text).to_string(), text);
    }
}

#[test]
fn a_length_of_time_needs_a_number_a_unit_and_no_zero() {
    for text in ["", "5", "s", "0s", "1.5h", "-1s", "5 m", "99999999999999999999d"] {
        assert!(text.parse::<Span>().is_err(), "{text}");
    }
}

#[test]
fn a_rate_counts_over_a_minute_where_nothing_else_is_said() {
    let rate: Rate = serde_json::from_str(r#"{"requests":5}"#).expect("rate");
    assert_eq!(rate.per.to_string(), "1m");
    assert!(serde_json::from_str::<Rate>(r#"{"requests":0}"#).is_err());
}
