//! Losing writes, honestly: the receipt of a failover, and how it becomes exact.

use rdb_protocol::NodeName;
use rdb_protocol::status::{DivergenceReport, NodeState, Role};

use super::failover::in_a_row;
use super::view::View;
use crate::status::{Reason, Receipt};

/// Receipt of the election that just ended; `None` for planned ones and for the first leader of a cluster.
pub(super) fn of_election(view: &View) -> Option<Receipt> {
    let status = view.status();
    let election = status.election.as_ref()?;
    let first = status.opened.is_none() && election.from.is_none() && election.reason == Reason::ColdStart;
    if (election.reason == Reason::Switchover || first) && !election.lossy {
        return None;
    }
    let promoted = election.promoted.unwrap_or_default();
    // By the rules every acknowledged record is in the new log, unless permission to lose some was used.
    let records_at_risk = if election.lossy { election.acknowledged.0.saturating_sub(promoted.0) } else { 0 };
    let since_decision = view.observed.unix_ms.saturating_sub(election.started_unix_ms);
    Some(Receipt {
        epoch: status.epoch,
        from: election.from.as_ref().map(|from| from.name.clone()),
        from_incarnation: election.from.as_ref().map(|from| from.incarnation),
        from_epoch: election.from_epoch,
        to: status.leader.as_ref()?.name.clone(),
        reason: election.reason,
        evidence: election.evidence.clone(),
        detected_ms: election.detected_ms,
        opened_ms: election.detected_ms.saturating_add(since_decision),
        records_at_risk,
        exact: !election.lossy,
        incomplete: false,
        acknowledged: election.acknowledged,
        promoted,
        lossy: election.lossy,
        in_a_row: in_a_row(view, status.last_failover.as_ref()),
        at_unix_ms: view.observed.unix_ms,
    })
}

/// The receipt with what the returned old leader's log says, once it says it.
pub(super) fn settled(view: &View, receipt: &Receipt) -> Option<Receipt> {
    if receipt.exact || receipt.incomplete {
        return None;
    }
    let from = receipt.from.as_ref()?;
    let incomplete = || Receipt { incomplete: true, ..receipt.clone() };
    let Some(instance) = view.instance(from) else { return Some(incomplete()) };
    let status = instance.status()?;
    // A tail that was committed there goes with its database, under a new incarnation; the report of it stays.
    if let Some(cut) = cut_of(&status.divergences, receipt) {
        // A log that begins behind the place where they part states its beginning instead; what was promoted ended before.
        let parted = cut.from.index.min(receipt.promoted);
        let lost = cut.acknowledged.0.saturating_sub(parted.0);
        let acknowledged = cut.acknowledged;
        return Some(Receipt { records_at_risk: lost, exact: true, acknowledged, ..receipt.clone() });
    }
    if Some(status.incarnation) != receipt.from_incarnation {
        return Some(incomplete());
    }
    // It has records of the new epoch and cut nothing: its log was a prefix of the promoted one.
    let follows = status.role == Role::Follower && status.promise.epoch >= receipt.epoch;
    let compared = follows && status.state == NodeState::Streaming && status.flushed.epoch >= receipt.epoch;
    compared.then(|| Receipt { records_at_risk: 0, exact: true, ..receipt.clone() })
}

/// The tail that was cut because of this failover: it ends in the epoch that the old leader led, or in one of those that
/// were tried in vain before the receipt's. If it was cut in several steps, the one with all that was acknowledged.
fn cut_of<'a>(divergences: &'a [DivergenceReport], receipt: &Receipt) -> Option<&'a DivergenceReport> {
    let is_it = |cut: &&DivergenceReport| {
        (receipt.from_epoch..receipt.epoch).contains(&cut.to.epoch) && Some(cut.incarnation) == receipt.from_incarnation
    };
    divergences.iter().filter(is_it).max_by_key(|cut| cut.acknowledged)
}

/// Instances with an archived tail, for the `Divergence` condition.
pub(super) fn divergent<'a>(view: &View<'a>) -> Vec<(&'a NodeName, &'a DivergenceReport)> {
    let of = |(name, instance): (&'a NodeName, &'a crate::InstanceObservation)| {
        instance.status().into_iter().flat_map(move |status| status.divergences.iter().map(move |d| (name, d)))
    };
    view.observed.instances.iter().flat_map(of).collect()
}
