//! Carrying out what the replication core orders, in order, under the lock.

use std::sync::atomic::Ordering;

use rdb_log::LogError;
use rdb_protocol::Index;
use rdb_protocol::settings::NodeSettings;
use rdb_replication::{Output, RoleView};

use super::Node;
use super::core::{Core, Effects};
use super::disk::Needed;
use crate::http::backend::{Lead, Limits, Place};

impl Node {
    /// Does what one output says; what follows in the same step must wait for it.
    pub(super) fn carry_out(&self, core: &mut Core, output: Output, effects: &mut Effects) -> Result<(), NoRoom> {
        match output {
            Output::PersistControl(persistent) => {
                let others = core.control.state().settings != persistent.settings;
                if let Err(error) = core.persist(*persistent) {
                    super::die("cannot write the control file", &error);
                }
                if others {
                    self.take_settings(&core.control.state().settings);
                }
                self.publish(core);
            }
            Output::Append(entry) => {
                // Whoever leads next goes on from here, though its own clock be slow.
                self.hybrid_clock.fetch_max(entry.timestamp(), Ordering::AcqRel);
                append(core, &entry)?;
                self.disk.set_unfit(Needed::Record, false);
                return Ok(());
            }
            Output::ArchiveTail { from } => self.keep_tail(core, from),
            Output::Truncate { after } => {
                if let Some(Err(error)) = core.running.as_mut().map(|running| running.log.truncate_after(after)) {
                    super::die("cannot cut the log", &error);
                }
            }
            Output::Sync => effects.sync = core.running.as_mut().map(|running| running.log.sync_handle()),
            Output::Send { to, message } => {
                if let Some((_, link)) = core.links.get(&to) {
                    core.sends.push(link, message);
                }
            }
            Output::Fetch { to, prev, max_bytes } => {
                if let Some(running) = &core.running {
                    self.tasks.fetch(running.log.reader(), core.generation, to, prev, max_bytes);
                }
            }
            Output::Committed { index } => {
                effects.committed = true;
                self.committed(core, index);
            }
            Output::ProposalRefused { reason, .. } => effects.refused = Some(reason),
            Output::AdminReply { token, reply } => {
                if let Some(waiting) = core.replies.remove(&token) {
                    // The caller may have gone away; what it asked for is done all the same.
                    let _ = waiting.send(reply);
                }
                self.view.status_changed();
            }
            Output::Became(change) => {
                tracing::info!(?change, "role");
                self.publish(core);
            }
            Output::Dial { leader } => {
                self.dialer.aim(Some(leader));
                self.publish(core);
            }
            Output::Hangup => self.dialer.aim(None),
            Output::Disconnect { member } => {
                if let Some((_, link)) = core.links.get(&member) {
                    link.close();
                }
            }
            Output::SeedNeeded { leader, reason } => {
                tracing::warn!(%leader, ?reason, "this node needs a base copy");
                core.given_up = true;
                self.publish(core);
                self.seeding.request(core.generation, format!("{reason:?}"));
            }
            Output::Halt { code, reason } => {
                core.problem(code.as_str(), reason);
                self.publish(core);
            }
        }
        Ok(())
    }

    /// Goes by what the operator asks for. Here and not where its call comes in: a call that is refused changes nothing, and a
    /// leader's first record is already as it was asked for.
    fn take_settings(&self, settings: &NodeSettings) {
        *self.limits.write() = Limits::of(settings);
        *self.recording.write() = super::recording(settings);
        self.result_limit.store(settings.max_result_bytes, Ordering::Relaxed);
    }

    /// A leader's writer waits for this; a follower's worker applies.
    fn committed(&self, core: &Core, index: Index) {
        self.view.set_committed(index);
        self.view.notify();
        let Some(running) = &core.running else { return };
        // The leader's writer notes its own groups by itself; a record that is nobody's group (a probe) needs it, too.
        if !running.replica.is_open() || self.group_since.load(Ordering::Acquire) == 0 {
            self.worker.wake();
        }
        if running.replica.config().is_some_and(|config| config.next.is_some()) {
            self.view.status_changed();
        }
    }

    /// Makes a change of role, epoch or leader known to everybody who reads the view.
    pub fn publish(&self, core: &Core) {
        let state = core.control.state();
        let (role, epoch) = match &core.running {
            Some(running) => (running.replica.role(), running.replica.epoch()),
            None => (RoleView::Follower, state.promise.epoch),
        };
        let was_open = self.view.is_open();
        let changed = self.view.set_role(role, epoch);
        if was_open && !self.view.is_open() {
            self.demoted.send_modify(|count| *count += 1);
        }
        let usable = matches!(state.data, rdb_log::DataState::Ready) && !core.given_up && core.unverified.is_none();
        let ready = usable && role != RoleView::Halted;
        self.view.set_serving(ready && core.running.is_some());
        let place = match (role, core.running.as_ref().and_then(|running| running.replica.leader())) {
            (RoleView::Open | RoleView::WritesStopped, _) => Place::Here,
            (RoleView::Follower, Some(leader)) if leader.name != state.name => state
                .peers
                .iter()
                .find(|peer| peer.name == leader.name)
                .map_or(Place::Unknown, |peer| Place::There(peer.address.as_str().into())),
            _ => Place::Unknown,
        };
        let lead = Lead { epoch, place };
        self.view.lead.send_if_modified(|now| std::mem::replace(now, lead.clone()) != lead);
        if changed {
            self.view.notify();
            self.worker.wake();
        }
        self.view.status_changed();
    }
}

/// The log has no room for this record; the disk is otherwise well.
pub(super) struct NoRoom(pub(super) Index);

fn append(core: &mut Core, entry: &rdb_record::Entry) -> Result<(), NoRoom> {
    let Some(running) = &mut core.running else { return Ok(()) };
    match running.log.append(entry) {
        Ok(()) => Ok(()),
        Err(LogError::Full(_)) => Err(NoRoom(entry.position.index)),
        Err(error) => super::die("cannot append to the log", &error),
    }
}
