//! Rule 15: config changes. While `next` stands, a record is committed under either config, and an election needs both. The
//! leader obeys one `settle` per (epoch, version); from then on only `keep` counts, and the change has ended when the `Config`
//! record that follows is committed under it.

use rdb_protocol::admin::{AdminRefusal, NextConfig, Settle};
use rdb_protocol::status::SettleReport;
use rdb_protocol::{ClusterConfig, ConfigPair, Epoch, Index};

use crate::leader::Leader;
use crate::step::Step;

/// The last `settle` that this leader obeyed.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    version: u64,
    keep: ClusterConfig,
    /// The `Config` record, once it is in the log.
    pub(crate) record: Option<Index>,
}

impl Settled {
    pub(crate) fn wants_record(&self) -> Option<ClusterConfig> {
        self.record.is_none().then(|| self.keep.clone())
    }

    pub(crate) fn report(&self, epoch: Epoch, committed: Index) -> SettleReport {
        #[allow(unused_mut, reason = "changed by a planted bug")]
        let mut committed = self.record.is_some_and(|record| record <= committed);
        rdb_protocol::if_planted!(ReportedEarly => { committed = true; });
        SettleReport { epoch, version: self.version, keep: self.keep.clone(), committed }
    }
}

pub(crate) fn refuse<T>(reason: impl Into<String>) -> Result<T, AdminRefusal> {
    Err(AdminRefusal::State { reason: reason.into() })
}

/// A config that no copies could ever satisfy is a mistake.
pub(crate) fn check(config: &ClusterConfig) -> Result<(), AdminRefusal> {
    let (members, copies) = (config.cohort.len(), u64::from(config.acks) + 1);
    if (members as u64) < copies {
        return refuse(format!("config {} wants {copies} copies of {members} members", config.version));
    }
    Ok(())
}

impl Leader {
    /// `config`: `next` counts from now on. Repeating it changes nothing.
    pub(crate) fn next_config(&mut self, step: &mut Step<'_>, call: NextConfig) -> Result<(), AdminRefusal> {
        let NextConfig { epoch: _, next } = call;
        check(&next)?;
        let ConfigPair { current, next: standing } = &self.config;
        if standing.as_ref() == Some(&next) {
            return Ok(());
        }
        if let Some(standing) = standing {
            return refuse(format!("the change to config {} is under way", standing.version));
        }
        let settled = self.settled.as_ref().map_or(0, |settled| settled.version);
        if next.version <= current.version.max(settled) {
            return refuse(format!("config {} is older than {}", next.version, current.version.max(settled)));
        }
        let behind = |member: &&rdb_protocol::Member| {
            !current.cohort.contains(member)
                && !step.shared.is_self(member)
                && !self.followers.get(member).is_some_and(|progress| progress.caught_up())
        };
        if let Some(member) = next.cohort.iter().find(behind) {
            return refuse(format!("{member} is not caught up"));
        }
        self.config.next = Some(next);
        self.config_changed(step);
        Ok(())
    }

    /// `settle`: only `keep` counts from now on. The caller appends the `Config` record after it has replied.
    pub(crate) fn settle(&mut self, step: &mut Step<'_>, call: Settle) -> Result<(), AdminRefusal> {
        let Settle { epoch: _, version, keep } = call;
        check(&keep)?;
        rdb_protocol::if_planted!(SettledTwice => {
            if self.settled.as_ref().is_some_and(|s| s.version == version && s.keep != keep) {
                self.config = ConfigPair::settled(keep.clone());
                self.settled = Some(Settled { version, keep, record: None });
                self.config_changed(step);
                return Ok(());
            }
        });
        if let Some(settled) = self.settled.as_ref().filter(|settled| settled.version >= version) {
            let repeated = settled.version == version && settled.keep == keep;
            return if repeated { Ok(()) } else { refuse(format!("config {} is settled", settled.version)) };
        }
        let ConfigPair { current, next } = &self.config;
        let is_given_up = keep == current.after_giving_up(version);
        let is_change = match next {
            Some(next) => next.version == version && (keep == *next || is_given_up),
            // The leader never heard of the change: it can be given up, but not adopted.
            None => version > current.version && is_given_up,
        };
        if !is_change {
            return refuse(format!("there is no change to config {version} with such an end"));
        }
        self.config = ConfigPair::settled(keep.clone());
        self.settled = Some(Settled { version, keep, record: None });
        self.config_changed(step);
        Ok(())
    }

    /// Persist, tell, and count again: the lease follows the configs that stand.
    fn config_changed(&mut self, step: &mut Step<'_>) {
        step.shared.durable.config = Some(self.config.clone());
        step.persist();
        self.renew_lease(step.shared);
        self.announce_config(step);
    }
}
