//! What a cluster's task has to take in. Everything that can come often is kept in its newest form only, so that a mailbox
//! stays small however fast nodes report and however long the task waits for the API server.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use rdb_control::{CallOutcome, Time};
use rdb_protocol::NodeName;
use rdb_protocol::admin::Recruit;
use rdb_protocol::status::NodeStatus;
use tokio::sync::Notify;

/// Something that happened once.
#[derive(Debug)]
pub enum Input {
    /// A pod as it was reported: each report may hold evidence that the next one has not.
    Pod(Arc<Pod>),
    /// An instance's status stream ended or could not be had; sent once for each change.
    Disconnected { instance: NodeName, stream: u64, refused: bool, at: Time },
    /// The answer to the admin call with this number.
    Answered { call: u64, outcome: CallOutcome, recruit: Option<Recruit>, at: Time },
    /// A write of the routes ended.
    Routed(Result<(), String>),
}

/// The newest status line of an instance.
#[derive(Debug)]
pub struct Line {
    pub stream: u64,
    pub status: Box<NodeStatus>,
    pub at: Time,
}

/// What has come since the mailbox was last emptied.
#[derive(Debug, Default)]
pub struct Pending {
    /// The resource itself, as the caches have it.
    pub resource: bool,
    /// Pods, volumes, secrets, machines.
    pub objects: bool,
    /// The operator got or lost its Lease.
    pub lease: bool,
    pub lines: BTreeMap<NodeName, Line>,
    pub inputs: VecDeque<Input>,
}

impl Pending {
    fn has_only_lines(&self) -> bool {
        !self.lines.is_empty() && !self.resource && !self.objects && !self.lease && self.inputs.is_empty()
    }
}

/// Written by many, emptied by one.
#[derive(Debug, Default)]
pub struct Mailbox {
    pending: Mutex<Pending>,
    arrived: Notify,
    /// Lines that say nothing new wake the reader too.
    attentive: AtomicBool,
}

impl Mailbox {
    /// Puts something in and wakes the reader.
    pub fn put(&self, change: impl FnOnce(&mut Pending)) {
        change(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        self.arrived.notify_one();
    }

    pub fn push(&self, input: Input) {
        self.put(|pending| pending.inputs.push_back(input));
    }

    /// Puts an instance's newest line in. One that says nothing new waits there until somebody looks.
    pub fn line(&self, instance: &NodeName, line: Line, is_news: bool) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        match pending.lines.get_mut(instance) {
            Some(held) => *held = line,
            None => {
                pending.lines.insert(instance.clone(), line);
            }
        }
        drop(pending);
        if is_news || self.attentive.load(Ordering::Relaxed) {
            self.arrived.notify_one();
        }
    }

    pub fn be_attentive(&self, attentive: bool) {
        self.attentive.store(attentive, Ordering::Relaxed);
    }

    /// Takes what is there, perhaps nothing.
    pub fn take(&self) -> Pending {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until there is something. May return early, with nothing there.
    pub async fn arrival(&self) {
        self.arrived.notified().await;
    }

    /// Nothing but status lines: they may be gathered for a moment.
    pub fn has_only_lines(&self) -> bool {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).has_only_lines()
    }
}
