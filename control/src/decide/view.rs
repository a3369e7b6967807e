//! Questions about what was observed that more than one concern asks.

use std::collections::BTreeSet;
use std::time::Duration;

use rdb_protocol::settings::{LogFormat, Mode, NodeSettings};
use rdb_protocol::status::{FollowerProgress, NodeState, NodeStatus, Role};
use rdb_protocol::{ClusterConfig, Epoch, Index, Member, NodeName};

use crate::cluster::Cluster;
use crate::observed::{CallKey, CallOutcome, Connection, InstanceObservation, Lifecycle, Observed, Report};
use crate::plan::{AdminCall, CallKind};
use crate::spec::DataLoss;
use crate::status::ClusterStatus;
use crate::time::Time;

/// How long an obeyed `reseed` is remembered as such: the node may report its new incarnation before its answer is here, a later
/// request must not be taken for this one, and a node that did not begin meanwhile never will. To end an incarnation is the
/// first that it does, and takes two flushes.
pub(super) const RESEED_MEMORY: Duration = Duration::from_secs(5);

/// The arguments of one decision.
pub(super) struct View<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) observed: &'a Observed,
    pub(super) now: Time,
}

impl<'a> View<'a> {
    pub(super) fn status(&self) -> &'a ClusterStatus {
        &self.observed.status
    }

    pub(super) fn instance(&self, name: &NodeName) -> Option<&'a InstanceObservation> {
        self.observed.instances.get(name)
    }

    /// Does this report come from a node of our cluster, as opposed to an empty or a foreign one?
    pub(super) fn is_ours(&self, status: &NodeStatus) -> bool {
        status.role != Role::Empty && status.cluster.is_some() && status.cluster == self.status().cluster
    }

    /// The stream stands and its last line is younger than the detection timeout.
    pub(super) fn is_reachable(&self, instance: &InstanceObservation) -> bool {
        let fresh = |report: &Report| {
            self.now.since(report.received_at) < self.cluster.detection_timeout
                && !instance.exited_boots.contains(&report.status.boot)
        };
        instance.connection == Connection::Connected && instance.report.as_ref().is_some_and(fresh)
    }

    /// What this member reports, if that very incarnation is reachable now.
    pub(super) fn reachable(&self, member: &Member) -> Option<&'a NodeStatus> {
        let instance = self.instance(&member.name)?;
        let status = instance.status()?;
        (self.is_reachable(instance) && status.incarnation == member.incarnation && self.is_ours(status))
            .then_some(status)
    }

    /// Members of our cluster that are reachable, with what they report.
    pub(super) fn reachable_members(&self) -> impl Iterator<Item = (Member, &'a NodeStatus)> {
        self.observed.instances.values().filter_map(|instance| {
            let status = instance.status()?;
            (self.is_reachable(instance) && self.is_ours(status)).then(|| (status.member(), status))
        })
    }

    /// Members that would be worth recruiting: reachable, with data that can be served.
    pub(super) fn likely_recruits(&self) -> BTreeSet<Member> {
        self.reachable_members().filter(|(_, status)| is_fit(status.state)).map(|(member, _)| member).collect()
    }

    /// The chosen leader's own report as the leader of the present epoch.
    pub(super) fn leading(&self) -> Option<&'a NodeStatus> {
        let status = self.reachable(self.status().leader.as_ref()?)?;
        let epoch = self.status().epoch;
        let leads = status.role == Role::Leader && status.led == epoch && status.promise.epoch == epoch;
        (leads && self.status().leader_epoch == epoch).then_some(status)
    }

    /// The leader's view of one follower.
    pub(super) fn progress(&self, member: &Member) -> Option<&'a FollowerProgress> {
        self.leading()?.followers.iter().find(|progress| progress.member == *member)
    }

    /// When the leader last heard this follower in this epoch.
    fn answered_at(&self, member: &Member) -> Option<Time> {
        let progress = self.progress(member)?;
        let leader = self.instance(&self.status().leader.as_ref()?.name)?.report.as_ref()?;
        Some(leader.received_at.minus(Duration::from_millis(progress.answered_ms_ago?)))
    }

    /// Does this follower answer the leader now? The leader itself always does.
    pub(super) fn answers(&self, member: &Member) -> bool {
        if self.status().leader.as_ref() == Some(member) {
            return self.leading().is_some();
        }
        let recently = |at: Time| self.now.since(at) < self.cluster.detection_timeout;
        self.progress(member).is_some_and(|progress| progress.connected)
            && self.answered_at(member).is_some_and(recently)
            && !self.gives_up_its_data(member)
            && !self.gave_up_its_data(member)
    }

    /// It was told to fetch a new base copy: what the leader says of it is of data that are gone, or will be in a moment. If its
    /// process ended before it began, the next one knows nothing of it.
    fn gives_up_its_data(&self, member: &Member) -> bool {
        let key = CallKey { to: member.name.clone(), kind: CallKind::Reseed };
        let boot = self.instance(&member.name).and_then(|instance| instance.status()).map(|status| status.boot);
        self.observed.calls.get(&key).is_some_and(|record| {
            let obeys = match (&record.outcome, record.finished_at) {
                (None, _) => true,
                // Whose answer it was is not known for sure.
                (Some(CallOutcome::Done), Some(at)) => record.boot == boot || self.now.since(at) < RESEED_MEMORY,
                _ => false,
            };
            obeys && matches!(&record.call, AdminCall::Reseed(told) if told.incarnation == member.incarnation)
        })
    }

    /// Its name reported other data after the leader last heard it: incarnations do not come back.
    fn gave_up_its_data(&self, member: &Member) -> bool {
        let report = self.instance(&member.name).and_then(|instance| instance.report.as_ref());
        report
            .filter(|report| report.status.incarnation != member.incarnation)
            .is_some_and(|report| self.answered_at(member).is_some_and(|at| at <= report.received_at))
    }

    /// For how long this member has been out of the leader's reach; zero while it answers.
    pub(super) fn absent_for(&self, member: &Member) -> Duration {
        if self.answers(member) {
            return Duration::ZERO;
        }
        let report = self.instance(&member.name).and_then(|instance| instance.report.as_ref());
        let mine = report.filter(|report| report.status.incarnation == member.incarnation);
        let last_sign = match (self.answered_at(member), mine) {
            (Some(at), _) => at,
            // Never heard in this epoch, though it lives: count from the time at which it was told whom to follow.
            (None, Some(_)) if self.reachable(member).is_some() => self.led_since(),
            (None, Some(report)) => report.received_at,
            (None, None) => Time::default(),
        };
        self.now.since(last_sign.max(self.observed.watched_since))
    }

    /// Since when, at the latest, this process knows of the epoch's leader.
    pub(super) fn led_since(&self) -> Time {
        let promotes = self.observed.calls.values().filter_map(|record| match &record.call {
            AdminCall::Promote(promote) if promote.epoch == self.status().epoch => Some(record.first_sent_at),
            _ => None,
        });
        promotes.max().unwrap_or(self.observed.watched_since)
    }

    /// May this follower's copy be counted from now on (rule 15)?
    pub(super) fn is_caught_up(&self, member: &Member) -> bool {
        let (Some(leading), Some(progress)) = (self.leading(), self.progress(member)) else { return false };
        let fit = self.reachable(member).is_none_or(|status| is_fit(status.state));
        // Before opening there is no "committed when it asked": up to the leader's last record.
        let enough = leading.opened || progress.acknowledged >= leading.flushed.index;
        fit && progress.caught_up && enough && self.answers(member) && progress.acknowledged > Index::ZERO
    }

    /// Could this leader commit under `config` with the followers that answer now?
    pub(super) fn can_commit(&self, config: &ClusterConfig) -> bool {
        config.is_durable(&self.answering())
    }

    /// The leader and the followers that answer it.
    pub(super) fn answering(&self) -> BTreeSet<Member> {
        let Some(leading) = self.leading() else { return BTreeSet::new() };
        let followers = leading.followers.iter().map(|progress| progress.member.clone());
        followers.filter(|member| self.answers(member)).chain(self.status().leader.clone()).collect()
    }

    /// The highest epoch that any node of ours has promised, and the highest config version that it knows.
    pub(super) fn highest_reported(&self) -> (Epoch, u64) {
        let reports = self.observed.instances.values().filter_map(InstanceObservation::status);
        let ours = reports.filter(|status| match self.status().cluster {
            Some(_) => self.is_ours(status),
            None => status.role != Role::Empty && status.cluster.is_some(),
        });
        ours.fold((Epoch::ZERO, 0), |(epoch, version), status| {
            let known = status.config.as_ref().map_or(0, |config| config.version());
            (epoch.max(status.promise.epoch).max(status.led), version.max(known))
        })
    }

    /// The leader of the present epoch was seen open.
    pub(super) fn is_opened(&self) -> bool {
        let status = self.status();
        status.has_leader() && status.opened.is_some_and(|opened| opened.epoch == status.epoch)
    }

    /// The spec allows these recruits an election that may lose acknowledged records. What the mode `async` implies holds only
    /// while no standing config asks for followers' copies: on the way from or to another mode the stricter one counts.
    /// Without follower copies the lease of the old leader ends by the answer of any other member (rule 17); where none of
    /// them can be asked, or there is none, it may go on without end: taking its place is left to a person.
    pub(super) fn loss_allowed(&self, recruits: &BTreeSet<Member>) -> bool {
        let status = self.status();
        let Some(config) = &status.config else { return false };
        let others = || recruits.iter().filter(|member| Some(*member) != status.leader.as_ref());
        let ends = config.standing().all(|standing| standing.acks > 0 || others().any(|m| standing.cohort.contains(m)));
        ends && match self.cluster.data_loss {
            Some(explicit) => explicit == DataLoss::Allow,
            None => self.cluster.mode == Mode::Async && config.standing().all(|standing| standing.acks == 0),
        }
    }

    /// A person permitted it for the present epoch.
    pub(super) fn loss_accepted(&self) -> bool {
        self.observed.requests.accept_data_loss == Some(self.status().epoch)
    }

    /// What the nodes are run with.
    pub(super) fn settings(&self) -> NodeSettings {
        let retain_from = self.observed.snapshots.as_ref().and_then(|snapshots| snapshots.retain_from);
        NodeSettings { retain_from, rows_for_all: self.rows_for_all(), ..self.cluster.settings.clone() }
    }

    /// Nodes that applied row changes have pages of their own. Where the log carries pages or statements again, it carries
    /// row changes too until each of them is known to have the leader's; see [`super::layout`].
    fn rows_for_all(&self) -> bool {
        self.cluster.settings.log_format != LogFormat::Logical && self.status().layouts_differ
    }

    pub(super) fn in_maintenance(&self) -> bool {
        let maintenance = &self.cluster.maintenance;
        maintenance.active && maintenance.until_unix_ms.is_none_or(|until| self.observed.unix_ms < until)
    }

    /// Instances that are meant to run.
    pub(super) fn running(&self) -> impl Iterator<Item = (&'a NodeName, &'a InstanceObservation)> {
        self.observed.instances.iter().filter(|(_, instance)| instance.lifecycle == Lifecycle::Running)
    }
}

/// Can a node in this state take part in an election with what it has?
pub(super) fn is_fit(state: NodeState) -> bool {
    match state {
        NodeState::Searching
        | NodeState::CatchingUp
        | NodeState::Streaming
        | NodeState::Opening
        | NodeState::Leading
        | NodeState::WritesStopped => true,
        NodeState::Empty | NodeState::Seeding | NodeState::Diverged | NodeState::Halted => false,
    }
}

/// "a", "a and b", "a, b and c"; "none" for nothing.
pub(super) fn list<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    match texts.as_slice() {
        [] => "none".to_owned(),
        [only] => only.clone(),
        [head @ .., last] => format!("{} and {last}", head.join(", ")),
    }
}
