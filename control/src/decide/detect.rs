//! Is the leader really down? Evidence from cheap and certain to slow.
//!
//! | evidence | verdict |
//! | --- | --- |
//! | its process surely ended, or runs again as a follower | failed at once |
//! | it says that it cannot serve, or another incarnation has its name | failed at once |
//! | its port refuses connections and no reachable follower has heard it since | failed at once |
//! | nobody heard it for `detectionTimeout`: neither we nor any follower | failed |
//! | it answers, but a write has waited for `progressTimeout`, and others could commit without it | failed |
//! | chosen so long ago, it refuses records of its own log, and another that has them could lead | failed |
//! | only we do not hear it | well |

use std::time::Duration;

use rdb_protocol::status::{NodeStatus, Problem, Role};
use rdb_protocol::{Incarnation, Member, NodeName};

use super::layout::OTHER_LAYOUT;
use super::view::{View, is_fit, list};
use crate::observed::{Connection, InstanceObservation};
use crate::status::Reason;
use crate::time::Time;

/// What is known of the leader's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// Nothing speaks against it; without a further sign of life it has to be looked at again then.
    Well {
        until: Time,
    },
    Failed(Failure),
}

/// Why a leader is held to be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) reason: Reason,
    /// One sentence.
    pub(super) evidence: String,
    pub(super) last_sign: Time,
}

/// Health of the chosen leader, open or not.
pub(super) fn leader_health(view: &View, leader: &Member) -> Health {
    let last_sign = last_sign(view, leader);
    let failed = |reason, evidence: String| Health::Failed(Failure { reason, evidence, last_sign });
    let Some(instance) = view.instance(&leader.name) else {
        return silence(view, leader, last_sign);
    };
    if let Some(boot) = leading_boot(view, instance)
        && instance.exited_boots.contains(&boot)
    {
        return failed(Reason::ProcessExited, format!("the process of {} ended", leader.name));
    }
    if let Some(status) = instance.status()
        && let Some((reason, evidence)) = disqualified(view, leader, status)
    {
        return failed(reason, evidence);
    }
    if let Connection::Refused { since } = instance.connection
        && let Some(evidence) = refused(view, leader, since)
    {
        return failed(Reason::ConnectionRefused, evidence);
    }
    match silence(view, leader, last_sign) {
        Health::Failed(failure) => Health::Failed(failure),
        Health::Well { .. } if stuck(view, leader) => {
            let ms = view.cluster.progress_timeout.as_millis();
            failed(Reason::NoProgress, format!("{} answers, but has committed nothing for {ms} ms", leader.name))
        }
        other => match refusal(view, leader) {
            Some(words) if tried_for_long(view) && substitute(view, leader).is_some() => {
                failed(Reason::NoProgress, format!("{} was chosen and can't open: {words}", leader.name))
            }
            _ => other,
        },
    }
}

/// What the chosen leader says of records of its log that it does not apply, and so does not open.
pub(super) fn refusal<'a>(view: &View<'a>, leader: &Member) -> Option<&'a str> {
    let leading = view.leading().filter(|leading| leading.member() == *leader && !leading.opened)?;
    leading.problems.iter().find(|problem| is_refusal(problem)).map(|problem| problem.message.as_str())
}

/// Its software does otherwise what was logged, or its pages are not those that were logged.
fn is_refusal(problem: &Problem) -> bool {
    ["INCOMPATIBLE", OTHER_LAYOUT].contains(&problem.code.as_str())
}

/// It had the time to run what it had refused as a follower. The second and later ones that an election tries are given
/// `cooldown` too: where all refuse, they take turns no faster than failovers may follow each other.
fn tried_for_long(view: &View) -> bool {
    let again = view.status().election.as_ref().is_some_and(|election| election.attempts > 1);
    let least = if again { view.cluster.cooldown } else { Duration::ZERO };
    view.now.since(view.led_since()) >= patience(view).max(least)
}

/// Who could be elected instead of a leader that is there, keeps its copy, and can't open: whoever has all of its records
/// (rule 8), where rule 4 holds; or the others, if they are enough without it. Rather one that refused nothing itself.
pub(super) fn substitute(view: &View, leader: &Member) -> Option<NodeName> {
    let config = view.status().config.as_ref()?;
    let all = view.likely_recruits();
    let mut others = all.clone();
    others.remove(leader);
    if !config.is_electable(&all, Some(leader)) || !config.is_durable(&all) {
        return None;
    }
    let has = view.reachable(leader)?.flushed.rank();
    let alone = config.is_electable(&others, None);
    let candidates = others.iter().filter(|member| config.counts(member)).filter_map(|member| view.reachable(member));
    let fit = candidates.filter(|status| alone || status.flushed.rank() >= has);
    let refuses = |status: &NodeStatus| status.problems.iter().any(is_refusal);
    fit.max_by_key(|s| (s.flushed.rank(), !refuses(s), std::cmp::Reverse(&s.name))).map(|status| status.name.clone())
}

/// The process that leads or led the present epoch, as far as it is known.
fn leading_boot(view: &View, instance: &InstanceObservation) -> Option<Incarnation> {
    match view.status().opened {
        Some(opened) if opened.epoch == view.status().epoch => Some(opened.boot),
        // Not open yet: whatever process it was, it is not the leader any more if it ended.
        _ => instance.status().map(|status| status.boot),
    }
}

/// Its own words.
fn disqualified(view: &View, leader: &Member, status: &NodeStatus) -> Option<(Reason, String)> {
    let epoch = view.status().epoch;
    let name = &leader.name;
    if status.incarnation != leader.incarnation || !view.is_ours(status) {
        return Some((Reason::Unfit, format!("{name} no longer has the data of the leader")));
    }
    if !is_fit(status.state) {
        let problems = list(status.problems.iter().map(|problem| &problem.code));
        return Some((Reason::Unfit, format!("{name} reports {:?} ({problems})", status.state)));
    }
    if status.role != Role::Leader && status.led >= epoch {
        return Some((Reason::Restarted, format!("{name} was restarted and leads no longer")));
    }
    // It was open, so a process that does not know of having led is another one, or its disk was rolled back.
    let other_process = view.status().opened.is_some_and(|o| o.epoch == epoch && o.boot != status.boot);
    (other_process && status.role != Role::Leader)
        .then(|| (Reason::Restarted, format!("{name} runs as another process and does not lead")))
}

/// No process listens: believed at once if every reachable follower has reported since then, and none has heard the leader.
fn refused(view: &View, leader: &Member, since: Time) -> Option<String> {
    let mut deaf = Vec::new();
    for (member, status) in view.reachable_members().filter(|(member, _)| member != leader) {
        let received_at = view.instance(&member.name)?.report.as_ref()?.received_at;
        let heard = heard_at(view, leader, status, received_at);
        if received_at < since || heard.is_some_and(|at| at > since) {
            return None;
        }
        deaf.push(member.name);
    }
    let name = &leader.name;
    (!deaf.is_empty()).then(|| format!("{name} refuses connections and is not heard by {} any more", list(deaf)))
}

/// When a follower of this leader heard it last.
fn heard_at(view: &View, leader: &Member, status: &NodeStatus, received_at: Time) -> Option<Time> {
    let follows = status.promise.epoch == view.status().epoch && status.promise.leader.as_ref() == Some(leader);
    let ms = status.leader_heard_ms_ago.filter(|_| follows)?;
    Some(received_at.minus(Duration::from_millis(ms)))
}

/// The leader's last sign of life to anybody whom we hear. Silence before this process watched means nothing.
fn last_sign(view: &View, leader: &Member) -> Time {
    let signs = view.observed.instances.values().filter_map(|instance| {
        let report = instance.report.as_ref()?;
        if report.status.name == leader.name {
            Some(report.received_at)
        } else {
            heard_at(view, leader, &report.status, report.received_at)
        }
    });
    signs.max().unwrap_or_default().max(view.observed.watched_since)
}

fn silence(view: &View, leader: &Member, last_sign: Time) -> Health {
    let until = last_sign.plus(view.cluster.detection_timeout);
    if view.now < until {
        return Health::Well { until };
    }
    let ms = view.cluster.detection_timeout.as_millis();
    let evidence = format!("neither we nor a reachable follower has heard {} for {ms} ms", leader.name);
    Health::Failed(Failure { reason: Reason::Silent, evidence, last_sign })
}

/// It holds up writes that others could commit without it. A leader that waits for missing followers is not stuck:
/// whoever took its place would wait for the same ones.
fn stuck(view: &View, leader: &Member) -> bool {
    let Some(instance) = view.instance(&leader.name) else { return false };
    let (Some(report), Some(config)) = (&instance.report, &view.status().config) else { return false };
    let Some(ms) = report.status.uncommitted_ms else { return false };
    let waits = Duration::from_millis(ms).saturating_add(view.now.since(report.received_at));
    if waits < patience(view) || report.status.role != Role::Leader {
        return false;
    }
    let mut others = view.likely_recruits();
    others.remove(leader);
    let settled = report.status.settled.as_ref().is_some_and(|s| s.epoch == view.status().epoch && !s.committed);
    if settled {
        // Settled on a config that can't be met: another epoch may settle on the other one, under this same leader too.
        others.insert(leader.clone());
    }
    config.is_electable(&others, Some(leader)) && config.is_durable(&others)
}

/// `progressTimeout`, doubled with every epoch that one election takes: when nobody gets through to anybody, a new leader
/// every few seconds helps no one.
fn patience(view: &View) -> Duration {
    let attempts = view.status().election.as_ref().map_or(0, |election| election.attempts);
    let factor = 1u32 << attempts.saturating_sub(1).min(MAX_DOUBLINGS);
    view.cluster.progress_timeout.saturating_mul(factor)
}

/// 2^6 times the default of ten seconds is ten minutes, the longest back-off of failovers too.
const MAX_DOUBLINGS: u32 = 6;
