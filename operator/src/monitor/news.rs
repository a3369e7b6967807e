//! Does a status line say something that may change a decision? Nodes report every quarter of a second that all is well;
//! for a fleet, deciding on each of these lines would cost more than everything else together. Positions and ages move
//! with every line. They are read whenever something is decided, but nothing has to be decided because they moved.

use std::collections::BTreeMap;

use rdb_protocol::Member;
use rdb_protocol::status::NodeStatus;

/// A write that waits longer than this may be on its way to `progressTimeout`, at least 1 s.
const WAITING_MS: u64 = 500;

/// Do two lines of one instance differ in more than positions and ages?
pub fn differ(a: &NodeStatus, b: &NodeStatus) -> bool {
    // Every field by name, so that a new one has to be thought of.
    let NodeStatus {
        name: _,
        incarnation,
        cluster,
        boot,
        version,
        role,
        state,
        promise,
        led,
        lossy,
        flushed: _,
        committed: _,
        applied: _,
        first_retained: _,
        config,
        peers,
        opened,
        settled,
        followers,
        leader_heard_ms_ago,
        lease_valid,
        lease_request,
        uncommitted_ms,
        acknowledged: _,
        seed,
        divergences,
        problems,
        other_layout,
        exact,
    } = a;
    let same = *incarnation == b.incarnation
        && *cluster == b.cluster
        && *boot == b.boot
        && *version == b.version
        && *role == b.role
        && *state == b.state
        && *promise == b.promise
        && *led == b.led
        && *lossy == b.lossy
        && *config == b.config
        && *peers == b.peers
        && *opened == b.opened
        && *settled == b.settled
        && leader_heard_ms_ago.is_some() == b.leader_heard_ms_ago.is_some()
        && *lease_valid == b.lease_valid
        && *lease_request == b.lease_request
        && is_long(*uncommitted_ms) == is_long(b.uncommitted_ms)
        && *seed == b.seed
        && *divergences == b.divergences
        && *problems == b.problems
        && *other_layout == b.other_layout
        && exact.epoch == b.exact.epoch
        && (followers == &b.followers || connections(a) == connections(b));
    !same
}

fn is_long(uncommitted_ms: Option<u64>) -> bool {
    uncommitted_ms.is_some_and(|ms| ms >= WAITING_MS)
}

fn connections(status: &NodeStatus) -> BTreeMap<&Member, (bool, bool)> {
    status.followers.iter().map(|follower| (&follower.member, (follower.connected, follower.caught_up))).collect()
}
