//! Days of UTC, which name the files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::{fs, io};

const DAY_MS: u64 = 86_400_000;

/// A day of UTC, as days since 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(u32);

impl Day {
    /// The day that holds `at_ms`, milliseconds since 1970.
    #[must_use]
    pub fn of(at_ms: u64) -> Self {
        Self(u32::try_from(at_ms / DAY_MS).unwrap_or(u32::MAX))
    }

    /// Its first millisecond.
    #[must_use]
    pub fn start_ms(self) -> u64 {
        u64::from(self.0) * DAY_MS
    }

    /// The first millisecond of the next day.
    #[must_use]
    pub fn end_ms(self) -> u64 {
        self.start_ms() + DAY_MS
    }

    /// The day `count` days before.
    #[must_use]
    pub fn before(self, count: u32) -> Self {
        Self(self.0.saturating_sub(count))
    }

    /// Reads `2026-11-25`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '-');
        let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
        let is_number =
            |it: &str, digits| it.len() == digits && it.bytes().all(|b| b.is_ascii_digit());
        if !is_number(year, 4) || !is_number(month, 2) || !is_number(day, 2) {
            return None;
        }
        let found =
            Self(days_from_civil(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?)?);
        (found.to_string() == text).then_some(found)
    }

    pub(super) fn file(self, dir: &Path) -> PathBuf {
        dir.join(format!("{self}.sqlite"))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0);
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

/// The days that have a file in `dir`, oldest first.
pub(super) fn list(dir: &Path) -> io::Result<Vec<Day>> {
    let mut days = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        days.extend(name.to_str().and_then(|it| it.strip_suffix(".sqlite")).and_then(Day::parse));
    }
    days.sort_unstable();
    Ok(days)
}

/// Howard Hinnant's algorithm: years begin in March, so that the leap day is the last.
fn civil_from_days(days: u32) -> (u32, u32, u32) {
    let shifted = u64::from(days) + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let small = |it: u64| u32::try_from(it).unwrap_or(u32::MAX);
    (small(year), small(month), small(day))
}

fn days_from_civil(year: u32, month: u32, day: u32) -> Option<u32> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = u64::from(year) - u64::from(month <= 2 && 0 < year);
    let (era, of_era) = (year / 400, year % 400);
    let month_from_march = u64::from((month + 9) % 12);
    let of_year = (153 * month_from_march + 2) / 5 + u64::from(day) - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    u32::try_from(days.checked_sub(719_468)?).ok()
}
