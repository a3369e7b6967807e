//! Points in time of one driver: microseconds of a clock that never goes back and counts suspended time. Only differences
//! mean anything, and only within one process: nothing of this type is ever stored or sent.

use std::time::Duration;

/// A point in time. The origin is the driver's choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// From whole milliseconds since the origin.
    pub fn from_millis(ms: u64) -> Time {
        Time(ms.saturating_mul(1000))
    }

    /// How long before `self` that was; zero if it is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// So much later.
    pub fn plus(self, by: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }

    /// So much earlier, at most the origin.
    pub fn minus(self, by: Duration) -> Time {
        Time(self.0.saturating_sub(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// Unix milliseconds of an RFC 3339 time such as `2026-01-31T18:00:00Z` or `2026-01-31T18:00:00.5+01:00`.
pub(crate) fn parse_rfc3339(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u32>().ok().map(i64::from);
    let at = |i: usize, expected: &[u8]| text.as_bytes().get(i).is_some_and(|b| expected.contains(b));
    if !(at(4, b"-") && at(7, b"-") && at(10, b"Tt ") && at(13, b":") && at(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(19..)?;
    let fraction =
        rest.strip_prefix('.').map_or(0, |r| r.len() - r.trim_start_matches(|c: char| c.is_ascii_digit()).len());
    let zone = if rest.starts_with('.') { rest.get(1 + fraction..)? } else { rest };
    let offset_minutes = match zone {
        "Z" | "z" => 0,
        _ if zone.len() == 6 && zone.as_bytes().get(3) == Some(&b':') => {
            let sign = match zone.as_bytes().first() {
                Some(b'+') => 1,
                Some(b'-') => -1,
                _ => return None,
            };
            let part = |range| zone.get(range).and_then(|t: &str| t.parse::<u32>().ok()).map(i64::from);
            sign * (part(1..3)? * 60 + part(4..6)?)
        }
        _ => return None,
    };
    // Days since 1970-01-01 in the proleptic Gregorian calendar, counting years from March so that leap days come last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day - 1 - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute - offset_minutes) * 60 + second;
    u64::try_from(seconds).ok()?.checked_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::parse_rfc3339;

    #[test]
    fn rfc_3339_times() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00Z", Some(951_825_600_000)),
            ("2026-01-31T18:00:00+01:00", Some(1_769_878_800_000)),
            ("2026-01-31T18:00:00.25Z", Some(1_769_882_400_000)),
            ("2026-01-31", None),
            ("2026-13-31T18:00:00Z", None),
            ("2026-01-31T18:00:00", None),
            ("ÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄ", None),
        ] {
            assert_eq!(parse_rfc3339(text), expected, "{text}");
        }
    }
}
