//! Cron in UTC. After times that were missed (nobody watched, no follower was caught up) one snapshot is taken, not one
//! for each.

use std::str::FromStr;

use croner::Cron;
use jiff::tz::TimeZone;

use super::object::timestamp;

/// A parsed schedule.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
}

/// What is wrong with a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no cron schedule of five fields such as \"0 * * * *\": {problem}")]
pub struct InvalidSchedule {
    pub text: String,
    pub problem: String,
}

impl Schedule {
    /// Takes five fields: minute, hour, day of the month, month, day of the week.
    pub fn parse(text: &str) -> Result<Schedule, InvalidSchedule> {
        let invalid = |problem: String| InvalidSchedule { text: text.to_owned(), problem };
        let fields = text.split_whitespace().count();
        if fields != 5 {
            return Err(invalid(format!("it has {fields} fields")));
        }
        let cron = Cron::from_str(text).map_err(|error| invalid(error.to_string()))?;
        let schedule = Schedule { cron };
        // Such as the 30th of February.
        if schedule.after(0).is_none() {
            return Err(invalid("it never comes".to_owned()));
        }
        Ok(schedule)
    }

    /// The first scheduled time after this one.
    pub fn after(&self, unix_ms: u64) -> Option<u64> {
        let from = timestamp(unix_ms).to_zoned(TimeZone::UTC);
        let next = self.cron.find_next_occurrence(&from, false).ok()?;
        u64::try_from(next.timestamp().as_millisecond()).ok()
    }

    /// Is one due, when the last was made then?
    pub fn due(&self, last_unix_ms: u64, now_unix_ms: u64) -> bool {
        self.after(last_unix_ms).is_some_and(|at| at <= now_unix_ms)
    }
}
