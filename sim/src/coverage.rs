//! How often each scenario was met. One that no seed of a long run meets is a hole in the simulator, and fails the run.

use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    pub fn hit(&mut self, scenario: &'static str) {
        *self.0.entry(scenario).or_insert(0) += 1;
    }

    pub fn add(&mut self, other: &Coverage) {
        for (scenario, count) in &other.0 {
            *self.0.entry(scenario).or_insert(0) += count;
        }
    }

    pub fn count(&self, scenario: &str) -> u64 {
        self.0.get(scenario).copied().unwrap_or(0)
    }

    /// Those of the list that were never met.
    pub fn missing(&self) -> Vec<&'static str> {
        SCENARIOS.iter().copied().filter(|scenario| self.count(scenario) == 0).collect()
    }

    /// Met, but not in the list: a mistake of ours.
    pub fn unlisted(&self) -> Vec<&'static str> {
        self.0.keys().copied().filter(|scenario| !SCENARIOS.contains(scenario)).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        SCENARIOS.iter().map(|scenario| (*scenario, self.count(scenario)))
    }
}

/// The counter of an event that `decide` tells people.
pub fn of_event(reason: &str) -> &'static str {
    let named = |scenario: &&&str| scenario.strip_prefix("decision: ") == Some(reason);
    SCENARIOS.iter().find(named).copied().unwrap_or("decision: another")
}

/// Everything that a long run must meet.
pub const SCENARIOS: &[&str] = &[];
