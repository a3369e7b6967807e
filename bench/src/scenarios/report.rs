//! One line per scenario for scripts, and a table for people.

use std::fmt;
use std::time::Duration;

use crate::load::Outcome;

/// The result of one scenario.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    pub scenario: String,
    pub clients: usize,
    /// Per second, median of the runs.
    pub rate: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    /// Lowest and highest rate of the runs.
    pub spread: Option<(f64, f64)>,
    /// Further figures, as name and value.
    pub more: Vec<(String, String)>,
}

impl Line {
    pub fn new(scenario: &str, clients: usize) -> Line {
        Line { scenario: scenario.to_owned(), clients, ..Line::default() }
    }

    /// From repeated runs: the run with the median rate, and the spread of all.
    pub fn of_runs(scenario: &str, clients: usize, mut runs: Vec<Outcome>) -> Line {
        runs.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
        let mut line = Line::new(scenario, clients);
        if let (Some(slowest), Some(fastest)) = (runs.first(), runs.last()) {
            let median = &runs[runs.len() / 2];
            line.rate = median.rate();
            line.p50_us = micros(median.latencies.percentile(50.0));
            line.p99_us = micros(median.latencies.percentile(99.0));
            line.spread = Some((slowest.rate(), fastest.rate()));
            line.more.push(("mean_us".into(), micros(median.latencies.mean()).to_string()));
            let client_us = median.client_cpu.as_secs_f64() * 1e6 / median.latencies.count().max(1) as f64;
            line.more.push(("client_cpu_us".into(), format!("{client_us:.1}")));
        }
        let failures: u64 = runs.iter().map(|run| run.failures).sum();
        if failures > 0 {
            line.more.push(("failures".into(), failures.to_string()));
        }
        line
    }

    /// From durations, such as outages: p50 is the median, p99 the longest; no rate.
    pub fn of_durations(scenario: &str, clients: usize, mut durations: Vec<Duration>) -> Line {
        durations.sort_unstable();
        let mut line = Line::new(scenario, clients);
        if let Some(longest) = durations.last() {
            line.p50_us = micros(durations[durations.len() / 2]);
            line.p99_us = micros(*longest);
            line.more.push(("times".into(), durations.len().to_string()));
        }
        line
    }

    /// Reads a line that [`fmt::Display`] wrote, such as those of peers' scripts.
    pub fn parse(text: &str) -> Option<Line> {
        let mut words = text.strip_prefix("bench: ")?.split_whitespace();
        let mut line = Line::new(words.next()?, 0);
        for word in words {
            let (name, value) = word.split_once('=')?;
            match name {
                "clients" => line.clients = value.parse().ok()?,
                "rate" => line.rate = value.parse().ok()?,
                "p50_us" => line.p50_us = value.parse().ok()?,
                "p99_us" => line.p99_us = value.parse().ok()?,
                _ => line.more.push((name.to_owned(), value.to_owned())),
            }
        }
        Some(line)
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { scenario, clients, rate, p50_us, p99_us, spread, more } = self;
        write!(f, "bench: {scenario} clients={clients} rate={rate:.0} p50_us={p50_us} p99_us={p99_us}")?;
        if let Some((low, high)) = spread {
            write!(f, " low={low:.0} high={high:.0}")?;
        }
        more.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

/// The lines as a Markdown table.
pub fn table(lines: &[Line]) -> String {
    let mut text = String::from(
        "| scenario | clients | per second (spread) | p50 | p99 | more |\n| --- | ---: | ---: | ---: | ---: | --- |\n",
    );
    for line in lines {
        let rate = match line.spread {
            Some((low, high)) => format!("{} ({}–{})", thousands(line.rate), thousands(low), thousands(high)),
            None if line.rate > 0.0 => thousands(line.rate),
            None => String::new(),
        };
        let more: Vec<String> = line.more.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let (p50, p99) = (time(line.p50_us), time(line.p99_us));
        text.push_str(&format!(
            "| {} | {} | {rate} | {p50} | {p99} | {} |\n",
            line.scenario,
            line.clients,
            more.join(", ")
        ));
    }
    text
}

fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

fn time(us: u64) -> String {
    match us {
        0 => String::new(),
        1..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_run_is_reported_with_the_spread() {
        let run = |count: u64| {
            let mut outcome = Outcome { elapsed: Duration::from_secs(1), ..Outcome::default() };
            (0..count).for_each(|_| outcome.latencies.record(Duration::from_micros(count)));
            outcome
        };
        let line = Line::of_runs("insert", 16, vec![run(900), run(100), run(300)]);
        assert_eq!(
            line.to_string(),
            "bench: insert clients=16 rate=300 p50_us=300 p99_us=300 low=100 high=900 mean_us=300 client_cpu_us=0.0"
        );
        assert_eq!(Line::of_runs("x", 1, vec![]).rate, 0.0);
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let text = "bench: postgres-insert clients=16 rate=10700 p50_us=1200 p99_us=9000 mean_us=1500";
        assert_eq!(Line::parse(text).unwrap().to_string(), text);
        assert_eq!(Line::parse("something else"), None);
    }

    #[test]
    fn outages_are_reported_by_median_and_longest() {
        let durations = [900, 400, 1200].map(Duration::from_millis).to_vec();
        let line = Line::of_durations("failover-killed", 16, durations);
        assert_eq!((line.p50_us, line.p99_us), (900_000, 1_200_000));
        let table = table(&[line]);
        assert!(table.ends_with("| failover-killed | 16 |  | 900.0 ms | 1.20 s | times 3 |\n"), "{table}");
        assert_eq!(thousands(1234567.0), "1 234 567");
    }
}
