use super::{Window, counts, is_time_zone, slot, slot_end};
use crate::policy::Period;
use crate::time::UnixMillis;

fn at(text: &str) -> UnixMillis {
    UnixMillis::parse_rfc3339(text).expect(text)
}

fn window(period: Period, zone: Option<&str>, now: &str) -> (String, String) {
    let window = Window::open(7, period, zone, at(now));
    let end = window.ends_at.expect("end");
    assert!(window.starts_at <= at(now) && at(now) < end, "{window:?} holds {now}");
    (window.starts_at.to_rfc3339(), end.to_rfc3339())
}

fn pair(from: &str, to: &str) -> (String, String) {
    (format!("{from}.000Z"), format!("{to}.000Z"))
}

#[test]
fn calendar_windows_turn_at_their_full_hour_midnight_monday_or_first() {
    let now = "2027-01-31T12:34:56Z";
    assert_eq!(window(Period::Hour, None, now), pair("2027-01-31T12:00:00", "2027-01-31T13:00:00"));
    assert_eq!(window(Period::Day, None, now), pair("2027-01-31T00:00:00", "2027-02-01T00:00:00"));
    assert_eq!(window(Period::Week, None, now), pair("2027-01-25T00:00:00", "2027-02-01T00:00:00"));
    assert_eq!(
        window(Period::Month, None, now),
        pair("2027-01-01T00:00:00", "2027-02-01T00:00:00")
    );
    assert_eq!(
        window(Period::Month, None, "2028-02-29T23:59:59Z"),
        pair("2028-02-01T00:00:00", "2028-03-01T00:00:00")
    );
    assert_eq!(window(Period::Day, None, "2027-02-01T00:00:00Z").0, "2027-02-01T00:00:00.000Z");
}

#[test]
fn they_turn_in_their_time_zone() {
    let berlin = Some("Europe/Berlin");
    assert_eq!(
        window(Period::Day, berlin, "2027-01-31T23:30:00Z"),
        pair("2027-01-31T23:00:00", "2027-02-01T23:00:00")
    );
    let kathmandu = Some("Asia/Kathmandu");
    assert_eq!(
        window(Period::Hour, kathmandu, "2027-01-31T12:00:00Z"),
        pair("2027-01-31T11:15:00", "2027-01-31T12:15:00")
    );
}

#[test]
fn days_on_which_clocks_are_changed_are_as_long_as_they_are() {
    let berlin = Some("Europe/Berlin");
    assert_eq!(
        window(Period::Day, berlin, "2027-03-28T10:00:00Z"),
        pair("2027-03-27T23:00:00", "2027-03-28T22:00:00")
    );
    assert_eq!(
        window(Period::Day, berlin, "2027-10-31T10:00:00Z"),
        pair("2027-10-30T22:00:00", "2027-10-31T23:00:00")
    );
    // Both of the hours that are called two o'clock.
    assert_eq!(
        window(Period::Hour, berlin, "2027-10-31T00:30:00Z"),
        pair("2027-10-31T00:00:00", "2027-10-31T01:00:00")
    );
    assert_eq!(
        window(Period::Hour, berlin, "2027-10-31T01:30:00Z"),
        pair("2027-10-31T01:00:00", "2027-10-31T02:00:00")
    );
    // A zone that skips midnight.
    assert_eq!(
        window(Period::Day, Some("America/Sao_Paulo"), "2018-11-04T12:00:00Z").0,
        "2018-11-04T03:00:00.000Z"
    );
}

#[test]
fn what_has_no_end_has_none() {
    assert_eq!(Window::open(7, Period::Total, None, UnixMillis(5)).ends_at, None);
    assert_eq!(
        Window::open(7, Period::Rolling("6h".parse().expect("span")), None, UnixMillis(5)).ends_at,
        None
    );
    // Beyond the calendar: no window, and no panic.
    assert_eq!(Window::open(7, Period::Month, None, UnixMillis(u64::MAX)).ends_at, None);
}

#[test]
fn only_the_zones_of_the_database_are_known() {
    assert!(is_time_zone("Europe/Berlin") && is_time_zone("UTC"));
    assert!(
        !is_time_zone("Europe/Atlantis") && !is_time_zone("") && !is_time_zone("../etc/passwd")
    );
}

#[test]
fn a_window_that_began_before_1970_begins_there_and_ends() {
    let window = Window::open(1, Period::Day, Some("Europe/Berlin"), UnixMillis(0));
    assert_eq!((window.starts_at, window.ends_at), (UnixMillis(0), Some(UnixMillis(82_800_000))));
}

proptest::proptest! {
    #[test]
    fn every_moment_is_in_its_window(ms in 0..4_102_444_800_000_u64, zone in 0..6_usize, period in 0..4_usize) {
        let zone = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Tehran"][zone];
        let period = [Period::Hour, Period::Day, Period::Week, Period::Month][period];
        let window = Window::open(1, period, Some(zone), UnixMillis(ms));
        assert!(window.ends_at.is_some_and(|end| UnixMillis(ms) < end), "{zone} {period} {ms}");
    }

    #[test]
    fn rolling_spending_counts_for_the_period_and_at_most_a_sixtieth_longer(span in 60_000..10_000_000_u64, now in 1_000_000_u64..2_000_000_000) {
        let period = Period::Rolling(format!("{span}ms").parse().expect("span"));
        let spent = slot(period, UnixMillis(now));
        assert!(counts(period, spent, UnixMillis(now + span - 1)));
        assert!(slot_end(period, spent).expect("end").0 <= now + span + span.div_ceil(60));
    }
}
