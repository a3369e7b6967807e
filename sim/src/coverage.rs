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
        self.0.keys().copied().filter(|scenario| !SCENARIOS.contains(scenario) && !RARE.contains(scenario)).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        SCENARIOS.iter().chain(RARE).map(|scenario| (*scenario, self.count(scenario)))
    }
}

/// The counter of an event that `decide` tells people.
pub fn of_event(reason: &str) -> &'static str {
    let named = |scenario: &&&str| scenario.strip_prefix("decision: ") == Some(reason);
    SCENARIOS.iter().chain(RARE).find(named).copied().unwrap_or("decision: another")
}

/// What may be met, but not in every long run: each is the end of several unlikely things.
pub const RARE: &[&str] = &[
    "operator: rests after many swaps",
    "decision: PermissionDropped",
    "decision: RolloutStopped",
    "step: diverged",
    "step: diverged data given up",
    "step: pages for another layout refused",
    "step: seed needed, parts below the base",
    "step: log behind, data given up",
    "step: volume snapshot refused",
];

/// Everything that a long run must meet.
pub const SCENARIOS: &[&str] = &[
    "wish: a person accepts a loss",
    "wish: hibernation",
    "wish: instance stopped",
    "wish: log format",
    "wish: machine drained",
    "wish: maintenance",
    "wish: mode",
    "wish: paused",
    "wish: re-seed",
    "wish: rolling upgrade",
    "wish: scaling",
    "wish: snapshot taken",
    "wish: switchover",
    "wish: sync set",
    "wish: when unavailable",
    "fault: API server down",
    "fault: API server restored from a backup",
    "fault: calls held up at a change of the config",
    "fault: database damaged",
    "fault: flush fails",
    "fault: full disk",
    "fault: leader paused between a round and its answers",
    "fault: log damaged",
    "fault: network split",
    "fault: node cut off",
    "fault: node cut off from all but its clients",
    "fault: node cut off from its peers",
    "fault: node cut off from the operators",
    "fault: node not reached by the operators' calls",
    "fault: node hears nothing",
    "fault: node not heard",
    "fault: operator cut off from the API",
    "fault: operator cut off from the nodes",
    "fault: operator killed",
    "fault: operator killed between two actions",
    "fault: operator paused",
    "fault: pod deleted",
    "fault: pod deleted by force",
    "fault: power lost",
    "fault: power lost everywhere",
    "fault: process killed",
    "fault: process killed between two outputs",
    "fault: process paused",
    "fault: slow disk",
    "fault: status lost",
    "fault: stuck disk",
    "fault: volume lost",
    "fault: volume rolled back",
    "network: call arrives late",
    "API: stale read",
    "object: end of a process proved",
    "object: instance created",
    "object: instance deleted",
    "object: pod renewed",
    "object: volume made from a snapshot",
    "operator: both act",
    "operator: Lease taken",
    "operator: died between two actions",
    "operator: swap refused, somebody else wrote",
    "operator: swap without an answer",
    "decision: Bootstrapping",
    "decision: ConfigChangeGivenUp",
    "decision: ConfigChangeStarted",
    "decision: ConfigChanged",
    "decision: ElectionStarted",
    "decision: InstanceRenewalCalledOff",
    "decision: InstanceRenewalStarted",
    "decision: InstanceRenewed",
    "decision: LeaderChosen",
    "decision: LeaderChosenWithLoss",
    "decision: LeaderOpened",
    "decision: NoLeader",
    "decision: RecordsAtRisk",
    "decision: ReseedRefused",
    "decision: Reseeding",
    "decision: StatusRebuilt",
    "decision: SwitchoverCalledOff",
    "decision: SwitchoverDone",
    "decision: SwitchoverRefused",
    "decision: SwitchoverStarted",
    "step: a failed flush ended the process",
    "step: a group changed nothing",
    "step: bounded read served",
    "step: damaged database given up",
    "step: damaged log given up",
    "step: divergent tail archived",
    "step: follower",
    "step: incarnation ended for a base copy",
    "step: keyed write answered from memory",
    "step: lease answered by the operator",
    "step: linearizable read refused for want of a lease",
    "step: linearizable read served",
    "step: no room for a record",
    "step: node initialised",
    "step: old records dropped",
    "step: open leader stepped down",
    "step: opened",
    "step: outcome unknown, the leader was replaced",
    "step: process died between two outputs",
    "step: row changes applied",
    "step: process started",
    "step: promoted",
    "step: proposal refused",
    "step: seed needed, log too old",
    "step: seed needed, lost by permission",
    "step: seeded by a base copy",
    "step: session read served",
    "step: session's position lost",
    "step: started from a volume snapshot",
    "step: tail cut",
    "step: writer waits for the right to write",
    "step: writes resumed",
    "step: writes stopped",
];
