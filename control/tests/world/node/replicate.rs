//! Replication between nodes, in steps.

use std::collections::{BTreeMap, BTreeSet};

use rdb_protocol::settings::LogFormat;
use rdb_protocol::status::{DivergenceReport, RecordPlace, Role};
use rdb_protocol::{Incarnation, Index, Member, NodeName};

use super::super::checker::Checker;
use super::{LEASE_MS, Node, position_at};

/// One step of replication, writes and opening.
pub fn replicate(nodes: &mut BTreeMap<NodeName, Node>, now: u64, checker: &mut Checker) {
    let works = |node: &Node| node.alive && !node.frozen;
    let leaders: Vec<NodeName> =
        nodes.values().filter(|n| works(n) && n.role == Role::Leader).map(|n| n.name.clone()).collect();
    for leader_name in leaders {
        let mut leader = nodes[&leader_name].clone();
        if leader.stuck_since_ms.is_none() && now >= leader.stopped_writes_until_ms && leader.opened {
            let id = checker.next_record();
            leader.log.push((leader.led, id));
            leader.note_form();
        }
        let mut holders = BTreeSet::new();
        if leader.stuck_since_ms.is_none() {
            holders.insert(leader.member());
        }
        for follower in nodes.values_mut().filter(|node| node.name != leader_name) {
            let follows = follower.promise.epoch == leader.led && follower.promise.leader == Some(leader.member());
            let reached = works(follower) && follows && !follower.isolated && !leader.isolated && !follower.starved;
            if !reached || follower.role != Role::Follower {
                if let Some(progress) = leader.followers.get_mut(&follower.member()) {
                    progress.0 = false;
                }
                continue;
            }
            catch_up(follower, &leader, now);
            leader.followers.insert(follower.member(), (true, now, follower.log.len()));
            holders.insert(follower.member());
        }
        let was_open = leader.opened;
        commit(&mut leader, &holders, now, checker);
        if leader.opened && !was_open {
            // With W = 0 leases are safe even then; with more, accepting a loss accepts stale reads of the old side too.
            let copies = leader.config.as_ref().is_some_and(|config| config.standing().any(|c| c.acks > 0));
            let checked = !(leader.lossy && copies);
            for old in nodes.values().filter(|old| checked && old.alive && old.is_leader() && old.led < leader.led) {
                let (name, epoch) = (&leader.name, leader.led);
                assert!(old.lease_until_ms <= now, "{name} opened epoch {epoch} within the lease of {}", old.name);
            }
        }
        nodes.insert(leader_name, leader);
    }
}

/// What a re-seed does to an incarnation here.
const RESEEDED: u64 = 1 << 40;

fn catch_up(follower: &mut Node, leader: &Node, now: u64) {
    let common = follower.log.iter().zip(&leader.log).take_while(|(a, b)| a == b).count();
    if common < follower.log.len() {
        follower.divergences.push(DivergenceReport {
            archive: format!("tail-{common}"),
            incarnation: follower.incarnation,
            acknowledged: Index(follower.acknowledged as u64),
            from: position_at(&follower.log, common.max(follower.dropped)),
            to: follower.position(),
            complete: true,
        });
        if common < follower.committed {
            // Its database shows what is cut: it is given up, and with it the incarnation (rule 18).
            follower.incarnation = Incarnation(follower.incarnation.0 ^ RESEEDED);
            follower.layout = 0;
        }
    }
    if follower.layout == 0 {
        (follower.layout, follower.other_layout) = (leader.layout, false);
    } else if leader.opened && leader.log.len() > follower.log.len() {
        follower.apply_form(leader, now);
    }
    follower.log = leader.log.clone();
    follower.rows_until = leader.rows_until;
    follower.committed = leader.committed;
    follower.config = leader.config.clone();
    follower.heard_ms = Some(now);
    follower.answered_ms = now;
}

fn commit(leader: &mut Node, holders: &BTreeSet<Member>, now: u64, checker: &mut Checker) {
    let Some(config) = leader.config.clone() else { return };
    leader.waits_lease = config.standing().all(|config| config.acks == 0 && config.cohort.len() > 1);
    // Rule 3: flushed by the leader, and by W+1 of K.
    if !holders.contains(&leader.member()) || !config.is_durable(holders) {
        leader.waiting_since_ms.get_or_insert(now);
        return;
    }
    leader.waiting_since_ms = None;
    leader.committed = leader.log.len();
    if let Some(settled) = &mut leader.settled {
        settled.committed |= leader.committed >= leader.settle_index;
    }
    if !leader.opened && now >= leader.open_at_ms && !leader.incompatible {
        leader.opened = true;
        leader.opened_epoch = leader.led;
        checker.opened(leader, leader.lossy);
    }
    let everybody = config.standing().all(|config| config.cohort.iter().all(|member| holders.contains(member)));
    if !leader.waits_lease || everybody {
        leader.lease_until_ms = now + LEASE_MS;
    }
    if leader.opened && (!leader.waits_lease || now < leader.lease_until_ms) {
        let fresh = leader.log[leader.acknowledged.min(leader.log.len())..].to_vec();
        leader.acknowledged = leader.committed;
        checker.acknowledged(&fresh);
    }
}

impl Node {
    /// It logged a record of a client.
    fn note_form(&mut self) {
        self.other_layout = false;
        if self.settings.log_format == LogFormat::Logical {
            self.exact = RecordPlace::default();
            self.rows_until = self.log.len();
        } else if self.exact.epoch != self.led {
            self.exact = self.last_place();
        }
    }

    /// It applies a record as this leader logs them now.
    fn apply_form(&mut self, leader: &Node, now: u64) {
        if self.log.len() < leader.rows_until {
            self.layout = self.incarnation.0 << 32 | now;
        }
        self.other_layout = self.layout != leader.layout;
        self.exact = if self.other_layout { RecordPlace::default() } else { leader.last_place() };
        let rows = leader.settings.log_format == LogFormat::Logical || leader.settings.rows_for_all;
        assert!(rows || !self.other_layout, "{} has other pages than {}, which logs no rows", self.name, leader.name);
    }

    fn last_place(&self) -> RecordPlace {
        RecordPlace { epoch: self.led, index: Index(self.log.len() as u64) }
    }
}
