//! A person's word where rule 15 leads nowhere: two configs stand, and neither can be met because members of both lost
//! their data for good. By permission to lose acknowledged records for this epoch, and only then, a config of the members
//! that are left is written, under a new epoch, as for a lost status with a member missing. Where the spec permits losses,
//! nobody is asked about members that have given up their data.

use std::collections::BTreeSet;

use rdb_protocol::{ClusterConfig, ConfigPair, Member};

use super::detect::Failure;
use super::draft::Draft;
use super::target::asked_acks;
use super::view::{View, list};
use super::{elect, open};
use crate::plan::RequestKind;
use crate::status::Reason;

/// The chosen leader can't open, or the open one can't commit, under either config. True: it was decided.
pub(super) fn go_on(view: &View, draft: &mut Draft) -> bool {
    let status = view.status();
    let Some(pair) = status.config.as_ref().filter(|pair| pair.next.is_some()) else { return false };
    if view.leading().is_none() || pair.standing().any(|config| view.can_commit(config)) {
        return false;
    }
    let left = view.likely_recruits();
    let permitted = view.loss_accepted() || (view.loss_allowed(&left) && can_never_commit(view, pair));
    if !permitted {
        draft.block(format!(
            "{}. If their data is lost for good, accept the data loss for epoch {} to go on with {} alone",
            open::waiting_sentence(view),
            status.epoch,
            list(left.iter().map(|member| &member.name)),
        ));
        return false;
    }
    let config = alone(view, status.config_version.max(pair.version()).saturating_add(1), left);
    let evidence = "members that two configs need have lost their data, and the loss is permitted".to_owned();
    if view.loss_accepted() {
        draft.clear(RequestKind::AcceptDataLoss);
    }
    let failure = Failure { reason: Reason::Retry, evidence, last_sign: view.now };
    elect::start_with(view, draft, &failure, None, |status| {
        status.config_version = config.version;
        status.config = Some(ConfigPair::settled(config));
        if let Some(election) = &mut status.election {
            election.lossy = true;
        }
    });
    true
}

/// Too many of each config's members have another incarnation now: what they had is not coming back.
fn can_never_commit(view: &View, pair: &ConfigPair) -> bool {
    let is_gone = |member: &&Member| {
        let mut reports = view.reachable_members();
        reports.any(|(now, _)| now.name == member.name && now.incarnation != member.incarnation)
    };
    pair.standing().all(|config| {
        let left = config.cohort.iter().filter(|member| !is_gone(member)).count();
        left <= config.acks as usize
    })
}

fn alone(view: &View, version: u64, cohort: BTreeSet<Member>) -> ClusterConfig {
    let followers = u32::try_from(cohort.len()).unwrap_or(u32::MAX).saturating_sub(1);
    ClusterConfig { version, acks: asked_acks(view).min(followers), cohort }
}
