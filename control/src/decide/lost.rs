//! The stored status is older than the nodes, or empty while data exists: `Stalled`, reason `StatusLost`. It is rebuilt
//! from the control files of every member of the highest config seen; with one missing, only by a person's word.

use std::collections::BTreeSet;

use rdb_protocol::status::{NodeStatus, Role};
use rdb_protocol::{ClusterConfig, ClusterId, ConfigPair, Epoch, Index, Member};

use super::draft::Draft;
use super::membership;
use super::view::{View, list};
use crate::observed::InstanceObservation;
use crate::plan::RequestKind;
use crate::status::{ClusterStatus, Election, Phase, Reason};

/// The lost status may have gone on: leave room for epochs that no node has heard of.
const EPOCH_GAP: u64 = 1000;

/// True: the status is lost, and this plan deals with nothing else.
pub(super) fn go_on(view: &View, draft: &mut Draft) -> bool {
    if !is_lost(view) {
        return false;
    }
    draft.leaderless = true;
    if !view.cluster.paused && !view.cluster.hibernated {
        // The word of every member is needed.
        membership::start_stopped(view, draft, |_| true);
    }
    let reports = with_data(view);
    let clusters: BTreeSet<ClusterId> = reports.iter().filter_map(|status| status.cluster).collect();
    let (Some(cluster), 1) = (clusters.first().copied(), clusters.len()) else {
        draft.block(if clusters.is_empty() {
            "StatusLost: the stored status is older than the nodes, and no instance with data can be reached now"
        } else {
            "StatusLost: the instances hold data of different clusters; remove those that do not belong here"
        });
        return true;
    };
    // Where one knows the change to it as settled and another one as under way, it may be either: the one that asks for more.
    let rank = |pair: &ConfigPair| (pair.version(), pair.next.is_some());
    let highest = reports.iter().filter_map(|status| status.config.clone()).max_by_key(rank);
    let Some(config) = highest.or_else(|| view.status().config.clone()) else {
        draft.block("StatusLost: no instance knows the cluster's config; restore the status from a backup");
        return true;
    };
    let have: BTreeSet<Member> = reports.iter().map(|status| status.member()).collect();
    let members = config.standing().flat_map(|standing| &standing.cohort);
    let missing: BTreeSet<&Member> = members.filter(|member| !have.contains(member)).collect();
    let max = reports.iter().map(|s| s.promise.epoch.max(s.led)).max().unwrap_or_default().max(view.status().epoch);
    if missing.is_empty() {
        rebuild(view, draft, cluster, config, max, false);
    } else if view.observed.requests.accept_data_loss == Some(max) && !have.is_empty() {
        let alone = alone(&config, view.status().config_version, &have);
        rebuild(view, draft, cluster, ConfigPair::settled(alone), max, true);
    } else {
        draft.block(format!(
            "StatusLost: the stored status is older than the nodes, and {} must be reachable with their data before it can \
             be rebuilt. To go on without them, at the risk of losing acknowledged records, accept the data loss for \
             epoch {max}",
            list(missing.iter().map(|member| &member.name)),
        ));
    }
    true
}

fn is_lost(view: &View) -> bool {
    let status = view.status();
    if status.cluster.is_none() {
        return !with_data(view).is_empty();
    }
    let (epoch, version) = view.highest_reported();
    // Rule 7: an election that rebuilds the status may yet find a higher promise, and starts again above it.
    let rebuilding =
        status.election.as_ref().is_some_and(|e| e.reason == Reason::StatusRebuilt) && !status.has_leader();
    (epoch > status.epoch && !rebuilding) || version > status.config_version || names_another_leader(view)
}

/// A node has heard of a leader of the present epoch that the status did not choose: the choice was made, and is forgotten.
fn names_another_leader(view: &View) -> bool {
    let status = view.status();
    let chosen = status.leader.as_ref().filter(|_| status.has_leader());
    let reports = view.observed.instances.values().filter_map(InstanceObservation::status);
    let ours = reports.filter(|report| view.is_ours(report) && report.promise.epoch == status.epoch);
    ours.filter_map(|report| report.promise.leader.as_ref()).any(|leader| Some(leader) != chosen)
}

/// What nodes with data report now.
fn with_data<'a>(view: &View<'a>) -> Vec<&'a NodeStatus> {
    let reachable = view.observed.instances.values().filter(|instance| view.is_reachable(instance));
    let reports = reachable.filter_map(InstanceObservation::status);
    let ours = |status: &&NodeStatus| view.status().cluster.is_none_or(|id| status.cluster == Some(id));
    reports.filter(|status| status.role != Role::Empty && status.cluster.is_some()).filter(ours).collect()
}

/// The last loss that was permitted, as whoever became the leader by it says: the copies that it left behind halt unless they
/// are told.
fn forgotten_loss(view: &View) -> Option<Epoch> {
    with_data(view).iter().map(|status| status.lossy).max().filter(|epoch| *epoch > Epoch::ZERO)
}

/// A config of those that are left, under a version that is surely new.
fn alone(config: &ConfigPair, known: u64, have: &BTreeSet<Member>) -> ClusterConfig {
    let cohort: BTreeSet<Member> = have.iter().filter(|member| config.counts(member)).cloned().collect();
    let cohort = if cohort.is_empty() { have.clone() } else { cohort };
    let followers = u32::try_from(cohort.len()).unwrap_or(u32::MAX).saturating_sub(1);
    let version = config.version().max(known).saturating_add(EPOCH_GAP);
    ClusterConfig { version, acks: config.current.acks.min(followers), cohort }
}

fn rebuild(view: &View, draft: &mut Draft, cluster: ClusterId, config: ConfigPair, max: Epoch, lossy: bool) {
    let epoch = Epoch(max.0.saturating_add(EPOCH_GAP));
    let evidence = format!("epoch {max} and config {} are the highest that the members report", config.version());
    draft.warn("StatusRebuilt", format!("The status was lost; electing a leader for epoch {epoch}"), &evidence);
    if lossy {
        draft.clear(RequestKind::AcceptDataLoss);
    }
    let old = view.status();
    let rebuilt = ClusterStatus {
        phase: Phase::FailingOver,
        cluster: Some(cluster),
        epoch,
        leader: None,
        leader_epoch: Epoch::ZERO,
        opened: None,
        config_version: config.version().max(old.config_version),
        config: Some(config),
        loss_epoch: if lossy { Some(epoch) } else { old.loss_epoch.max(forgotten_loss(view)) },
        switchover: None,
        // Nobody knows what was logged meanwhile.
        layouts_differ: true,
        election: Some(Election {
            reason: Reason::StatusRebuilt,
            evidence,
            from: None,
            from_epoch: Epoch::ZERO,
            started_unix_ms: view.observed.unix_ms,
            detected_ms: 0,
            acknowledged: Index::ZERO,
            preferred: None,
            avoided: None,
            attempts: 1,
            loss_permitted: lossy,
            replaced: None,
            replaced_epoch: Epoch::ZERO,
            lossy,
            promoted: None,
        }),
        ..old.clone()
    };
    draft.decide(|status| *status = rebuilt);
}
