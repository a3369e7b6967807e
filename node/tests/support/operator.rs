//! A cluster, led by hand: the calls that an operator would make, one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rdb_protocol::admin::{AdminRefusal, Done, Fence, Follow, Init, NextConfig, PeerAddress, Promote, Recruit, Settle};
use rdb_protocol::settings::NodeSettings;
use rdb_protocol::{ClusterConfig, ClusterId, ConfigPair, Epoch, Member};
use tempfile::TempDir;

use super::{Ledger, Node, random, wait_for, wait_until};

pub struct Cluster {
    pub nodes: Vec<Node>,
    pub settings: NodeSettings,
    pub epoch: Epoch,
    pub leader: usize,
    /// Permits the loss of records: to the next leader, and to those who follow it.
    pub lossy: bool,
    /// Where node .0 finds node .1, when not at its own address.
    pub detours: BTreeMap<(usize, usize), String>,
    config: ClusterConfig,
    pub cluster: ClusterId,
    dir: TempDir,
}

impl Cluster {
    /// A running cluster with default settings: one follower's copy per write, or none when alone.
    pub fn start(size: usize) -> Cluster {
        let mut cluster = Cluster::prepare(size);
        cluster.bootstrap(size);
        cluster
    }

    /// Nodes that do not run yet.
    pub fn prepare(size: usize) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let node = |i: usize| Node::new(dir.path(), &format!("node-{i}"), dir.path().join(format!("node-{i}")));
        Cluster {
            nodes: (0..size).map(node).collect(),
            settings: NodeSettings::default(),
            epoch: Epoch(0),
            leader: 0,
            lossy: false,
            detours: BTreeMap::new(),
            config: ClusterConfig { version: 2, cohort: BTreeSet::new(), acks: 0 },
            cluster: ClusterId(random()),
            dir,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the first `size` nodes and makes them a cluster that node 0 leads.
    pub fn bootstrap(&mut self, size: usize) {
        self.nodes[0].start();
        self.init(0, true);
        self.config.cohort = BTreeSet::from([self.nodes[0].member()]);
        self.elect(0);
        for i in 1..size {
            self.nodes[i].start();
            self.init(i, false);
            self.follow(i);
        }
        self.reconfigure(&(0..size).collect::<Vec<_>>(), u32::from(size > 1));
    }

    pub fn init(&self, i: usize, create: bool) {
        let node = &self.nodes[i];
        let call = Init { cluster: self.cluster, incarnation: node.status().incarnation, create };
        node.admin::<Done>("init", &call).unwrap();
    }

    pub fn leader(&self) -> &Node {
        &self.nodes[self.leader]
    }

    pub fn followers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().enumerate().filter(|(i, node)| *i != self.leader && node.is_running()).map(|(_, node)| node)
    }

    fn peers(&self, of: usize) -> Vec<PeerAddress> {
        let peer = |(i, node): (usize, &Node)| PeerAddress {
            name: node.name.clone(),
            address: self.detours.get(&(of, i)).cloned().unwrap_or_else(|| node.address.to_string()),
        };
        self.nodes.iter().enumerate().map(peer).collect()
    }

    /// A cluster of one ends, begins anew with all that it had, and ends: what a small disk needs before it goes.
    pub fn restart_alone(&mut self, ledger: &Ledger) {
        self.nodes[0].kill();
        self.nodes[0].start();
        self.elect(0);
        ledger.check(self.leader());
        self.assert_equal_content();
        self.nodes[0].kill();
    }

    pub fn follow(&self, i: usize) {
        self.try_follow(i).unwrap();
    }

    pub fn try_follow(&self, i: usize) -> Result<Done, AdminRefusal> {
        let call = Follow {
            epoch: self.epoch,
            leader: self.leader().member(),
            peers: self.peers(i),
            settings: self.settings.clone(),
            loss_permitted: self.lossy,
        };
        self.nodes[i].admin("follow", &call)
    }

    /// Asks every running node but `leave_out` for its promise of the next epoch.
    pub fn fence(&mut self, leave_out: Option<usize>) -> Vec<Recruit> {
        self.epoch = self.epoch.next();
        let call = Fence { epoch: self.epoch };
        let asked = self.nodes.iter().enumerate().filter(|(i, node)| Some(*i) != leave_out && node.is_running());
        asked.map(|(_, node)| node.admin("fence", &call).unwrap()).collect()
    }

    /// A new epoch that node `leader` leads, open for clients on return; the running others follow.
    pub fn elect(&mut self, leader: usize) {
        self.elect_without(leader, None);
    }

    /// As [`Cluster::elect`], without a word to node `leave_out`.
    pub fn elect_without(&mut self, leader: usize, leave_out: Option<usize>) {
        let leads = leave_out != Some(self.leader) && self.nodes[self.leader].is_running();
        if leads && self.leader().status().opened {
            self.wait_same_log(leader);
        }
        let recruits = self.fence(leave_out);
        let members: BTreeSet<Member> = recruits.iter().map(|recruit| recruit.member.clone()).collect();
        let before = self.nodes[self.leader].is_running().then(|| self.leader().try_status()).flatten();
        let old = before.filter(|_| leave_out != Some(self.leader)).map(|status| status.member());
        let first = self.epoch == Epoch(1);
        assert!(first || self.config.is_electable(&members, old.as_ref()), "too few recruits");
        let ours = recruits.iter().find(|recruit| recruit.member.name == self.nodes[leader].name).unwrap();
        assert!(recruits.iter().all(|recruit| recruit.position.rank() <= ours.position.rank()), "not the best");
        // The old leader has promised not to lead, or is gone.
        self.promote(leader, leave_out, 0);
    }

    /// A new epoch that node `leader` leads, whatever the others had. Alone: they may have to give their data up.
    pub fn elect_with_loss(&mut self, leader: usize) {
        let cohort = BTreeSet::from([self.nodes[leader].member()]);
        self.config = ClusterConfig { version: self.config.version + 1, cohort, acks: 0 };
        self.lossy = true;
        self.fence(None);
        self.promote(leader, None, 0);
        self.lossy = false;
    }

    /// Makes node `leader` lead the epoch that was promised, and the running others but `leave_out` follow it.
    pub fn promote(&mut self, leader: usize, leave_out: Option<usize>, lease_wait_ms: u64) {
        self.try_promote(leader, lease_wait_ms).unwrap();
        self.leader = leader;
        for i in (0..self.nodes.len()).filter(|i| *i != leader && Some(*i) != leave_out) {
            if self.nodes[i].is_running() {
                self.follow(i);
            }
        }
        wait_until("the leader is open", || self.leader().status().opened);
    }

    pub fn try_promote(&self, leader: usize, lease_wait_ms: u64) -> Result<Done, AdminRefusal> {
        let node = &self.nodes[leader];
        let call = Promote {
            epoch: self.epoch,
            leader: node.member(),
            config: ConfigPair::settled(self.config.clone()),
            lease_wait_ms,
            lossy: self.lossy,
            peers: self.peers(leader),
            settings: self.settings.clone(),
        };
        node.admin("promote", &call)
    }

    /// Changes to a config in which these nodes' copies count, and waits until it is in force.
    pub fn reconfigure(&mut self, cohort: &[usize], acks: u32) {
        for i in cohort {
            self.wait_caught_up(*i);
        }
        let cohort = cohort.iter().map(|i| self.nodes[*i].member()).collect();
        let keep = ClusterConfig { version: self.config.version + 1, cohort, acks };
        let next = NextConfig { epoch: self.epoch, next: keep.clone() };
        self.leader().admin::<Done>("config", &next).unwrap();
        let settle = Settle { epoch: self.epoch, version: keep.version, keep: keep.clone() };
        self.leader().admin::<Done>("settle", &settle).unwrap();
        wait_until("the config is settled", || {
            let report = self.leader().status().settled;
            report.is_some_and(|report| report.version == keep.version && report.committed)
        });
        self.config = keep;
    }

    /// Waits until node `i` follows in the present epoch and has what it lacked.
    #[track_caller]
    pub fn wait_caught_up(&self, i: usize) {
        if i == self.leader {
            return;
        }
        wait_until(&format!("node {i} is caught up"), || {
            let Some(status) = self.nodes[i].try_status() else { return false };
            let leader = self.leader().status();
            let follower = leader.followers.iter().find(|follower| follower.member == status.member());
            follower.is_some_and(|follower| follower.caught_up && follower.connected)
        });
    }

    /// Waits until node `i` has every record that the leader has.
    #[track_caller]
    pub fn wait_same_log(&self, i: usize) {
        wait_until(&format!("node {i} has all records"), || {
            self.nodes[i].status().flushed.rank() >= self.leader().status().flushed.rank()
        });
    }

    /// Waits until node `i` shows all that is committed.
    #[track_caller]
    pub fn wait_applied(&self, i: usize) {
        let wanted = self.leader().status().committed;
        wait_until(&format!("node {i} has applied all"), || self.nodes[i].status().applied >= wanted);
    }

    /// Stops the followers when they have all that the leader has: what it gets from now on is its own alone.
    pub fn kill_followers(&mut self) {
        for i in (0..self.nodes.len()).filter(|i| *i != self.leader) {
            self.wait_same_log(i);
        }
        for i in (0..self.nodes.len()).filter(|i| *i != self.leader) {
            self.nodes[i].kill();
        }
    }

    /// Starts a node again and tells it whom to follow.
    pub fn restart(&mut self, i: usize) {
        self.nodes[i].kill();
        self.nodes[i].start();
        self.follow(i);
    }

    /// All running nodes hold the same pages, and SQLite finds nothing wrong with them.
    #[track_caller]
    pub fn assert_equal_content(&self) {
        let wanted = self.leader().status().committed;
        let mut first: Option<Vec<u8>> = None;
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            wait_for("it has applied what is committed", || node.try_status().filter(|now| now.applied >= wanted));
            assert_eq!(node.query_any("PRAGMA integrity_check").value(), "ok", "{}", node.name);
            let content = masked(node.snapshot());
            match &first {
                None => first = Some(content),
                Some(first) => assert!(*first == content, "{} holds something else than the first node", node.name),
            }
        }
    }
}

/// Without the bytes that SQLite counts differently on leader and follower.
fn masked(mut database: Vec<u8>) -> Vec<u8> {
    for range in [24..28, 92..100] {
        database[range].fill(0);
    }
    database
}
