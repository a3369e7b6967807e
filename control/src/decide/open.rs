//! From the choice to an open leader: promote until it leads, wait until it is open, swap in `Steady` (rules 9, 13, 14).

use rdb_protocol::admin::{PeerAddress, Promote};
use rdb_protocol::status::{NodeStatus, Role};

use super::detect::{self, Failure, Health, leader_health};
use super::draft::{AfterDone, Draft};
use super::elect;
use super::lease::promotion_wait;
use super::receipt;
use super::view::{View, is_fit, list};
use crate::plan::AdminCall;
use crate::status::{Opened, Phase};

/// Receipts of losses are kept until a person has surely seen them; a receipt has some hundred bytes, the whole resource
/// at most a megabyte.
const MAX_EARLIER_LOSSES: usize = 64;

/// A leader is chosen and was not seen open yet. True: nothing more to decide for it in this plan.
pub(super) fn go_on(view: &View, draft: &mut Draft) -> bool {
    let Some(leader) = &view.status().leader else { return false };
    if let Some(leading) = view.leading()
        && leading.opened
    {
        opened(view, draft, leading);
        return true;
    }
    match leader_health(view, leader) {
        Health::Failed(failure) => return retry(view, draft, failure),
        Health::Well { until } => draft.wake(view, until),
    }
    promote(view, draft);
    false
}

/// The chosen leader was lost before it opened: the election goes on with a new epoch, as soon as one can end.
fn retry(view: &View, draft: &mut Draft, failure: Failure) -> bool {
    rdb_protocol::if_planted!(ChosenTwice => {
        if elect::choose_again(view, draft) {
            return true;
        }
    });
    let Some(config) = &view.status().config else { return false };
    draft.leaderless = true;
    let have = view.likely_recruits();
    let leader = view.status().leader.as_ref();
    let counted = have.iter().any(|member| config.counts(member) || leader == Some(member));
    let accepted = view.loss_accepted() || view.status().election.as_ref().is_some_and(|e| e.loss_permitted);
    if elect::is_enough(view, config, &have) || (counted && (accepted || view.loss_allowed(&have))) {
        // One that has all its records too can be told from it by nothing else.
        let refusing = leader.filter(|leader| detect::refusal(view, leader).is_some());
        elect::start(view, draft, &failure, refusing.and_then(|leader| detect::substitute(view, leader)));
        return true;
    }
    draft.block(elect::missing_sentence(view, config, &have, view.status().epoch));
    // It may yet come back without having led; then the very same promotion is still good (rule 8).
    promote(view, draft);
    true
}

/// Rule 9's call. It is also how a leader hears of new settings and addresses: an obeyed promotion is repeated only if it
/// says something else.
pub(super) fn promote(view: &View, draft: &mut Draft) {
    let status = view.status();
    let (Some(leader), Some(config)) = (&status.leader, &status.config) else { return };
    let leads = view.leading().is_some();
    // A process that led this epoch and lost it must not be asked again.
    #[allow(unused_mut, reason = "changed by a planted bug")]
    let mut reported = view.instance(&leader.name).and_then(|instance| instance.status());
    rdb_protocol::if_planted!(PromotedAgain => { reported = None; });
    if !leads
        && reported.is_some_and(|s| s.led >= status.epoch || s.incarnation != leader.incarnation || !is_fit(s.state))
    {
        return;
    }
    let call = AdminCall::Promote(Promote {
        epoch: status.epoch,
        leader: leader.clone(),
        config: config.clone(),
        lease_wait_ms: u64::try_from(promotion_wait(view).as_millis()).unwrap_or(u64::MAX).saturating_add(1),
        lossy: status.loss_epoch == Some(status.epoch),
        peers: peers(view),
        settings: view.settings(),
    });
    let after_done = if leads { AfterDone::Rest } else { AfterDone::Repeat };
    draft.call(view, &leader.name, call, after_done);
}

/// Where all members are.
pub(super) fn peers(view: &View) -> Vec<PeerAddress> {
    let address = |(name, instance): (&rdb_protocol::NodeName, &crate::InstanceObservation)| {
        instance.address.clone().map(|address| PeerAddress { name: name.clone(), address })
    };
    view.observed.instances.iter().filter_map(address).collect()
}

fn opened(view: &View, draft: &mut Draft, leading: &NodeStatus) {
    let receipt = receipt::of_election(view);
    let (name, epoch, boot) = (leading.name.clone(), view.status().epoch, leading.boot);
    let outage =
        receipt.as_ref().map_or(String::new(), |receipt| format!(", {} ms after the failure", receipt.opened_ms));
    draft.event("LeaderOpened", format!("{name} is open as the leader of epoch {epoch}{outage}"), "");
    if let Some(receipt) = receipt.as_ref().filter(|receipt| receipt.lossy) {
        let message = format!(
            "{} acknowledged records of {} are known to be missing; the number is final once its log has been read",
            receipt.records_at_risk,
            receipt.from.as_ref().map_or("the old leader", |from| from.as_str()),
        );
        draft.warn(
            "RecordsAtRisk",
            message,
            format!("acknowledged {}, promoted {}", receipt.acknowledged, receipt.promoted),
        );
    }
    draft.decide(|status| {
        status.opened = Some(Opened { epoch: status.epoch, boot });
        status.phase = Phase::Steady;
        status.election = None;
        if receipt.is_some() {
            let earlier = std::mem::replace(&mut status.last_failover, receipt);
            status.earlier_losses.extend(earlier.filter(|earlier| earlier.lossy));
            let surplus = status.earlier_losses.len().saturating_sub(MAX_EARLIER_LOSSES);
            status.earlier_losses.drain(..surplus);
        }
    });
}

/// What the leader is waiting for, open or not.
pub(super) fn waiting_sentence(view: &View) -> String {
    let Some(config) = &view.status().config else { return String::new() };
    if config.standing().any(|standing| view.can_commit(standing)) {
        let leader = view.status().leader.as_ref();
        return match leader.and_then(|leader| Some((&leader.name, detect::refusal(view, leader)?))) {
            Some((name, words)) => format!(
                "The new leader, {name}, does not open: {words}. If that lasts, bring another instance back that has all \
                 records and can apply them: it is elected instead"
            ),
            None => "The new leader is opening".to_owned(),
        };
    }
    let answering = view.answering();
    let missing = config.current.cohort.iter().filter(|member| !answering.contains(member));
    let names = list(missing.map(|member| member.name.to_string()));
    let copies = config.current.acks.saturating_add(1);
    let what = if view.is_opened() { "The leader can't commit" } else { "The new leader can't open" };
    format!("{what}: a write needs {copies} copies, and {names} of the sync set can't be reached")
}

/// Is this report of a leader that stopped writes?
pub(super) fn is_stopped(status: &NodeStatus) -> bool {
    status.role == Role::Leader && status.state == rdb_protocol::status::NodeState::WritesStopped
}
