//! What stands between a failed leader and rule 7: maintenance, pause, cooldown, and whether anybody could take over.

use std::time::Duration;

use super::detect::{Failure, Health, leader_health};
use super::draft::Draft;
use super::elect::{self, missing_sentence};
use super::view::View;
use crate::status::{Reason, Receipt};

/// However often leaders die, the next failover is held back no longer than this.
const MAX_BACKOFF: Duration = Duration::from_secs(600);

/// Looks after the health of an open leader. True: the leader is lost, whatever could be done about it.
pub(super) fn watch(view: &View, draft: &mut Draft) -> bool {
    let Some(leader) = &view.status().leader else { return false };
    let failure = match leader_health(view, leader) {
        Health::Well { until } => {
            draft.wake(view, until);
            return false;
        }
        Health::Failed(failure) => failure,
    };
    draft.leaderless = true;
    match held_back(view, draft, &failure) {
        Some(why) => draft.block(format!("The leader is lost: {}. No failover is started: {why}", failure.evidence)),
        None => elect::start(view, draft, &failure, switchover_target(view)),
    }
    true
}

fn switchover_target(view: &View) -> Option<rdb_protocol::NodeName> {
    view.status().switchover.as_ref().map(|switchover| switchover.target.clone())
}

/// Why no election may start now.
fn held_back(view: &View, draft: &mut Draft, failure: &Failure) -> Option<String> {
    if view.cluster.paused {
        return Some("the resource is paused".to_owned());
    }
    if !view.cluster.failover_enabled {
        return Some("failover.enabled is false".to_owned());
    }
    if view.in_maintenance() {
        if let Some(until) = view.cluster.maintenance.until_unix_ms {
            draft.wake(view, view.now.plus(Duration::from_millis(until.saturating_sub(view.observed.unix_ms))));
            return Some("maintenance is active until its stated end".to_owned());
        }
        return Some("maintenance is active".to_owned());
    }
    if let Some(left) = cooldown_left(view) {
        draft.wake(view, view.now.plus(left));
        let times = view.status().last_failover.as_ref().map_or(0, |receipt| receipt.in_a_row);
        return Some(format!("within failover.cooldown of the last one ({times} in a row)"));
    }
    no_candidate(view, failure)
}

/// An election that could not end would take the old leader down and give nothing: start it only if enough recruits are
/// in reach, or losing records is permitted.
fn no_candidate(view: &View, failure: &Failure) -> Option<String> {
    let config = view.status().config.as_ref()?;
    if failure.reason == Reason::NoProgress {
        // Its evidence says that others could commit.
        return None;
    }
    let have = view.likely_recruits();
    let leader = view.status().leader.as_ref();
    let counted = have.iter().any(|member| config.counts(member) || leader == Some(member));
    let permitted = counted && (view.loss_allowed(&have) || view.loss_accepted());
    if elect::is_enough(view, config, &have) || permitted {
        return None;
    }
    Some(missing_sentence(view, config, &have, view.status().epoch))
}

/// How much longer the last failover holds back the next.
fn cooldown_left(view: &View) -> Option<Duration> {
    let last = view.status().last_failover.as_ref()?;
    let since = Duration::from_millis(view.observed.unix_ms.saturating_sub(last.at_unix_ms));
    backoff(view, last.in_a_row).checked_sub(since).filter(|left| !left.is_zero())
}

/// `cooldown`, doubled for every failover after the first in a row.
fn backoff(view: &View, in_a_row: u32) -> Duration {
    let factor = 1u32.checked_shl(in_a_row.saturating_sub(1)).filter(|_| in_a_row <= 32).unwrap_or(u32::MAX);
    // The bound holds the doubling back, not what the user asked for.
    view.cluster.cooldown.saturating_mul(factor).min(MAX_BACKOFF.max(view.cluster.cooldown))
}

/// How many failovers in a row there are with one more now. A row ends when a leader lived twice as long as the last
/// failover held the next one back.
pub(super) fn in_a_row(view: &View, last: Option<&Receipt>) -> u32 {
    let Some(last) = last else { return 1 };
    let since = Duration::from_millis(view.observed.unix_ms.saturating_sub(last.at_unix_ms));
    if since < backoff(view, last.in_a_row).saturating_mul(2) { last.in_a_row.saturating_add(1) } else { 1 }
}
