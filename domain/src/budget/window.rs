//! When spending starts again from zero.

use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan, Unit, ZonedDateTime, ZonedDateTimeRound};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::Period;
use crate::time::UnixMillis;

/// Into how many parts a rolling period is cut. Spending stops to count when the part it fell into is a whole period old.
const SLOTS: u64 = 60;

/// One window of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Window {
    /// Log index of the command that opened it: never used twice, also not where a budget is deleted and made again.
    pub epoch: u64,
    /// When it began.
    pub starts_at: UnixMillis,
    /// When it ends. Absent for what never ends, and for rolling periods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<UnixMillis>,
}

impl Window {
    pub(crate) fn open(epoch: u64, period: Period, zone: Option<&str>, now: UnixMillis) -> Self {
        let (starts_at, ends_at) =
            bounds(period, zone, now).map_or((now, None), |(from, to)| (from, Some(to)));
        // Epoch 0 means "none yet" to a node that asks.
        Self { epoch: epoch.max(1), starts_at, ends_at }
    }

    pub(crate) fn is_over(&self, now: UnixMillis) -> bool {
        self.ends_at.is_some_and(|end| end <= now)
    }
}

/// Whether `name` is in the IANA time zone database.
#[must_use]
pub fn is_time_zone(name: &str) -> bool {
    find_zone(name).is_some()
}

/// The database that is compiled in: every replica must see the same one, whatever its machine has installed.
fn find_zone(name: &str) -> Option<TimeZone> {
    TimeZoneDatabase::bundled().get(name).ok()
}

/// First and one-past-last moment of the calendar window around `now`; `None` where there is none.
fn bounds(period: Period, zone: Option<&str>, now: UnixMillis) -> Option<(UnixMillis, UnixMillis)> {
    let zone = zone.and_then(find_zone).unwrap_or(TimeZone::UTC);
    let at = Timestamp::from_millisecond(i64::try_from(now.0).ok()?).ok()?.to_zoned_datetime(zone);
    let day = at.start_of_day().ok()?;
    let (from, to) = match period {
        Period::Hour => {
            let from = at
                .round(ZonedDateTimeRound::new().smallest(Unit::Hour).mode(jiff::RoundMode::Trunc))
                .ok()?;
            let to = from.checked_add(1.hour()).ok()?;
            (from, to)
        }
        Period::Day => {
            let next = next_day(&day, 1)?;
            (day, next)
        }
        Period::Week => {
            let back = i64::from(at.weekday().to_monday_zero_offset());
            let monday = next_day(&day, -back)?;
            let next = next_day(&monday, 7)?;
            (monday, next)
        }
        Period::Month => {
            let first = day.first_of_month().ok()?.start_of_day().ok()?;
            let next = first.checked_add(1.month()).ok()?.start_of_day().ok()?;
            (first, next)
        }
        Period::Total | Period::Rolling(_) => return None,
    };
    let to = millis(&to)?;
    // Clocks that are set back can put the end of an hour before now; a window always contains the moment it was opened at.
    // A window that began before 1970 begins there.
    (now < to).then(|| (millis(&from).unwrap_or(UnixMillis(0)), to))
}

fn next_day(day: &ZonedDateTime, days: i64) -> Option<ZonedDateTime> {
    day.checked_add(days.days()).ok()?.start_of_day().ok()
}

fn millis(at: &ZonedDateTime) -> Option<UnixMillis> {
    u64::try_from(at.timestamp().as_millisecond()).ok().map(UnixMillis)
}

/// The part of a rolling period that `now` falls into; 0 for every other period.
pub(crate) fn slot(period: Period, now: UnixMillis) -> u64 {
    slot_ms(period).map_or(0, |(part, _)| now.0 / part)
}

/// Whether spending of `slot` counts at `now`. It does until the *end* of the part is a whole period ago: never too short.
pub(crate) fn counts(period: Period, slot: u64, now: UnixMillis) -> bool {
    slot_end(period, slot).is_none_or(|end| now < end)
}

/// When the spending of `slot` stops to count.
pub(crate) fn slot_end(period: Period, slot: u64) -> Option<UnixMillis> {
    let (part, whole) = slot_ms(period)?;
    Some(UnixMillis(slot.saturating_add(1).saturating_mul(part).saturating_add(whole)))
}

fn slot_ms(period: Period) -> Option<(u64, u64)> {
    match period {
        Period::Rolling(span) => Some((span.0.get().div_ceil(SLOTS), span.0.get())),
        Period::Hour | Period::Day | Period::Week | Period::Month | Period::Total => None,
    }
}

#[cfg(test)]
mod tests;
