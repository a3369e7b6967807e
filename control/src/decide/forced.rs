//! A person's word where rule 15 leads nowhere: two configs stand, and neither can be met because members of both lost
//! their data for good. By permission to lose acknowledged records for this epoch, and only then, a config of the members
//! that are left is written, under a new epoch, as for a lost status with a member missing.

use std::collections::BTreeSet;

use rdb_protocol::{BOOTSTRAP_VERSION, ClusterConfig, ConfigPair, Member};

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
    // The config of the bootstrap holds no client's write, and is never gone back to.
    let mut useful = pair.standing().filter(|config| config.version != BOOTSTRAP_VERSION);
    if view.leading().is_none() || useful.any(|config| view.can_commit(config)) {
        return false;
    }
    let left = view.likely_recruits();
    if !view.loss_accepted() {
        draft.block(format!(
            "{}. If their data is lost for good, accept the data loss for epoch {} to go on with {} alone",
            open::waiting_sentence(view),
            status.epoch,
            list(left.iter().map(|member| &member.name)),
        ));
        return false;
    }
    let config = alone(view, status.config_version.max(pair.version()).saturating_add(1), left);
    let evidence = "a person accepted the loss of the members that two configs need".to_owned();
    draft.clear(RequestKind::AcceptDataLoss);
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

fn alone(view: &View, version: u64, cohort: BTreeSet<Member>) -> ClusterConfig {
    let followers = u32::try_from(cohort.len()).unwrap_or(u32::MAX).saturating_sub(1);
    ClusterConfig { version, acks: asked_acks(view).min(followers), cohort }
}
