//! One task per `ReplicatedDB`. A task is started when its resource is first seen and ends with it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::cluster::mailbox::{Mailbox, Pending};
use crate::cluster::run;
use crate::context::Context;
use crate::kubernetes::cache::ClusterKey;

/// The clusters' mailboxes.
#[derive(Clone)]
pub struct Fleet {
    context: Arc<Context>,
    mailboxes: Arc<Mutex<BTreeMap<ClusterKey, Arc<Mailbox>>>>,
}

impl Fleet {
    pub fn new(context: Arc<Context>) -> Fleet {
        Fleet { context, mailboxes: Arc::default() }
    }

    /// The resource itself changed, or came, or went.
    pub fn resource(&self, cluster: &ClusterKey) {
        let mut mailboxes = self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mailbox) = mailboxes.get(cluster) {
            mailbox.put(|pending| pending.resource = true);
            return;
        }
        if self.context.caches.resources.get(cluster, &cluster.name).is_none() {
            return;
        }
        let mailbox = Arc::new(Mailbox::default());
        mailboxes.insert(cluster.clone(), Arc::clone(&mailbox));
        tokio::spawn(self.clone().work(cluster.clone(), mailbox));
    }

    async fn work(self, cluster: ClusterKey, mailbox: Arc<Mailbox>) {
        loop {
            run(Arc::clone(&self.context), cluster.clone(), Arc::clone(&mailbox)).await;
            let mut mailboxes = self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner);
            // One of that name may have come between the task's last look and this one.
            if self.context.caches.resources.get(&cluster, &cluster.name).is_none() {
                mailboxes.remove(&cluster);
                return;
            }
        }
    }

    /// Something of one cluster changed.
    pub fn put(&self, cluster: &ClusterKey, change: impl FnOnce(&mut Pending)) {
        let mailboxes = self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mailbox) = mailboxes.get(cluster) {
            mailbox.put(change);
        }
    }

    /// Something that concerns every cluster changed.
    pub fn put_all(&self, change: impl Fn(&mut Pending)) {
        let mailboxes = self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner);
        mailboxes.values().for_each(|mailbox| mailbox.put(&change));
    }
}
