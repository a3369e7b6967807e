//! The first node of a new cluster: identity and K = {first node}, W = 0 → init → elect. The others join as followers, and
//! the first config change opens the cluster to clients.

use std::collections::BTreeSet;

use rdb_protocol::admin::Init;
use rdb_protocol::status::{NodeStatus, Role};
use rdb_protocol::{BOOTSTRAP_VERSION, ClusterConfig, ConfigPair, Epoch, Member};

use super::detect::Failure;
use super::draft::{AfterDone, Draft};
use super::view::View;
use super::{elect, membership};
use crate::observed::Lifecycle;
use crate::plan::AdminCall;
use crate::status::{Phase, Reason};

/// The cluster has no leader yet and never had one. True: it was dealt with.
pub(super) fn go_on(view: &View, draft: &mut Draft) -> bool {
    let status = view.status();
    if status.epoch > Epoch::ZERO {
        return false;
    }
    if view.cluster.paused {
        draft.block("Creating the first node");
        return true;
    }
    let first = status.config.as_ref().and_then(|config| config.current.cohort.first());
    match first {
        None => choose_first(view, draft),
        Some(first) => initialise_first(view, draft, first),
    }
    draft.block(format!("Creating the first node{}", hindrances(view)));
    true
}

/// Which instances do not run, and why, for the person who waits for them.
fn hindrances(view: &View) -> String {
    let away = view.observed.instances.iter().filter(|(_, instance)| !view.is_reachable(instance));
    let text: Vec<String> = away
        .map(|(name, instance)| match &instance.stuck {
            Some(why) => format!("{name} does not run ({why})"),
            None if instance.lifecycle == Lifecycle::Stopped => format!("{name} is stopped"),
            None => format!("{name} has not answered yet"),
        })
        .collect();
    if text.is_empty() { String::new() } else { format!(": {}", text.join("; ")) }
}

/// All instances are known to be empty, or one of them may hold the data of this cluster.
fn choose_first(view: &View, draft: &mut Draft) {
    let wanted = membership::wanted_names(view);
    let reachable = |name: &_| view.instance(name).is_some_and(|instance| view.is_reachable(instance));
    let empty = view.observed.instances.iter().filter(|(name, _)| wanted.contains(*name) && reachable(name));
    let first = empty.filter_map(|(_, instance)| instance.status()).find(|status| status.role == Role::Empty);
    let blank = |status: &NodeStatus| status.role == Role::Empty && status.cluster.is_none();
    let is_blank = |name: &_| view.instance(name).and_then(|instance| instance.status()).is_some_and(blank);
    let unknown: Vec<_> = view.observed.instances.keys().filter(|name| !is_blank(name)).collect();
    if !unknown.is_empty() {
        // Those that are too many were perhaps stopped before anybody looked into them.
        membership::start_stopped(view, draft, |name| unknown.contains(&name));
    }
    let Some(first) = first.map(NodeStatus::member).filter(|_| unknown.is_empty()) else { return };
    let id = view.observed.offered_id;
    draft.event("Bootstrapping", format!("{} becomes the first node of cluster {id}", first.name), "no data exists");
    let config = ClusterConfig { version: BOOTSTRAP_VERSION, cohort: BTreeSet::from([first]), acks: 0 };
    draft.decide(|status| {
        status.cluster = Some(id);
        status.config = Some(ConfigPair::settled(config));
        status.config_version = BOOTSTRAP_VERSION;
        status.phase = Phase::Bootstrapping;
    });
}

fn initialise_first(view: &View, draft: &mut Draft, first: &Member) {
    let Some(cluster) = view.status().cluster else { return };
    let report = view.instance(&first.name).filter(|instance| view.is_reachable(instance)).and_then(|i| i.status());
    let Some(report) = report else { return };
    match (report.role, report.incarnation == first.incarnation) {
        (Role::Empty, true) => {
            let call = AdminCall::Init(Init { cluster, incarnation: first.incarnation, create: true });
            draft.call(view, &first.name, call, AfterDone::Repeat);
        }
        // Its volume was swapped before anything was written: nobody has led, so another first node may be named.
        (Role::Empty, false) => {
            let member = report.member();
            draft.decide(|status| {
                let config = ClusterConfig { version: BOOTSTRAP_VERSION, cohort: BTreeSet::from([member]), acks: 0 };
                status.config = Some(ConfigPair::settled(config));
            });
        }
        (Role::Follower | Role::Leader, true) => {
            let failure = Failure {
                reason: Reason::ColdStart,
                evidence: "the first node has its empty database".to_owned(),
                last_sign: view.now,
            };
            elect::start(view, draft, &failure, None);
        }
        (Role::Follower | Role::Leader, false) => {
            draft.block(format!("{} has data of another life than the one that was initialised", first.name));
        }
    }
}
