//! What the API server refuses, and what it says then: the bounds of every field as one table, and the rules that join
//! fields as another. They say the same as [`rdb_control::Cluster::parse`], which stays the one that decides; a test holds
//! both against each other.
//!
//! The API server bounds the cost of a rule by the longest text that it may meet, so every text has a greatest length.

/// What a field may hold.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// A duration of one unit; days only where the upper bound is longer than a day, since CEL's durations have none.
    Span {
        low: &'static str,
        high: &'static str,
    },
    /// Like [`Bound::Span`], up to a number of days.
    LongSpan {
        low: &'static str,
        days: u32,
    },
    /// A number of bytes, perhaps with a unit.
    Size {
        low: &'static str,
        high: Option<&'static str>,
    },
    Number {
        low: u32,
        high: u32,
    },
    Text {
        max_length: u32,
    },
    /// Five fields, as cron has them.
    Cron,
    /// RFC 3339.
    PointInTime,
    /// A map of texts.
    Labels,
}

/// Every field of `spec` that is not an object, a switch or one of some words.
pub const BOUNDS: &[(&str, Bound)] = &[
    ("instances", Bound::Number { low: 1, high: 15 }),
    ("image", Bound::Text { max_length: 512 }),
    ("storage.size", Bound::Size { low: "32Mi", high: None }),
    ("storage.storageClass", Bound::Text { max_length: 253 }),
    ("replication.syncFollowers", Bound::Number { low: 1, high: 14 }),
    ("replication.minSyncFollowers", Bound::Number { low: 0, high: 14 }),
    ("replication.syncTimeout", Bound::Span { low: "1s", high: "10m" }),
    ("replication.logRetention.size", Bound::Size { low: "64Mi", high: None }),
    ("replication.logRetention.age", Bound::LongSpan { low: "1m", days: 30 }),
    ("failover.detectionTimeout", Bound::Span { low: "500ms", high: "10m" }),
    ("failover.heartbeatInterval", Bound::Span { low: "50ms", high: "10s" }),
    ("failover.leaseDuration", Bound::Span { low: "200ms", high: "60s" }),
    ("failover.progressTimeout", Bound::Span { low: "1s", high: "10m" }),
    ("failover.cooldown", Bound::Span { low: "0s", high: "1h" }),
    ("maintenance.until", Bound::PointInTime),
    ("snapshots.className", Bound::Text { max_length: 253 }),
    ("snapshots.schedule", Bound::Cron),
    ("snapshots.keep", Bound::Number { low: 1, high: 100 }),
    ("seeding.catchUpTimeout", Bound::LongSpan { low: "1s", days: 30 }),
    ("placement.nodeSelector", Bound::Labels),
    ("placement.priorityClassName", Bound::Text { max_length: 253 }),
    ("access.clientTokenSecret", Bound::Text { max_length: 253 }),
    ("access.maxRequestSize", Bound::Size { low: "1Ki", high: Some("1Gi") }),
    ("access.maxResultSize", Bound::Size { low: "1Ki", high: Some("1Gi") }),
    ("access.transactionTimeout", Bound::Span { low: "100ms", high: "10m" }),
    ("access.streamIdleTimeout", Bound::Span { low: "1s", high: "1h" }),
    ("podMetadata.labels", Bound::Labels),
    ("podMetadata.annotations", Bound::Labels),
];

/// A CEL rule at an object or field of `spec`.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Where `self` is; empty = the spec itself.
    pub at: &'static str,
    pub rule: &'static str,
    pub message: &'static str,
}

/// Rules that join fields, or the old and the new value of one.
pub const RULES: &[Rule] = &[
    Rule {
        at: "",
        rule: "self.instances == 1 || self.replication.mode != 'semiSync' \
               || self.replication.syncFollowers < self.instances",
        message: "replication.syncFollowers must be less than instances: the leader's own copy comes on top. Raise \
                  instances or lower syncFollowers",
    },
    Rule {
        at: "replication",
        rule: "self.minSyncFollowers <= self.syncFollowers",
        message: "minSyncFollowers must not be more than syncFollowers",
    },
    // Four times by addition: CEL's durations can't be multiplied.
    Rule {
        at: "failover",
        rule: "duration(self.heartbeatInterval) + duration(self.heartbeatInterval) + duration(self.heartbeatInterval) \
               + duration(self.heartbeatInterval) <= duration(self.leaseDuration)",
        message: "heartbeatInterval must be at most a quarter of leaseDuration, or a lost message ends the lease",
    },
    Rule {
        at: "failover",
        rule: "duration(self.leaseDuration) < duration(self.detectionTimeout)",
        message: "leaseDuration must be less than detectionTimeout, so that a silent leader's lease has ended before it \
                  is replaced",
    },
    Rule {
        at: "storage.size",
        rule: "quantity(self).compareTo(quantity(oldSelf)) >= 0",
        message: "storage.size may only grow: a volume can't be made smaller",
    },
    Rule {
        at: "storage.storageClass",
        rule: "self == oldSelf",
        message: "storage.storageClass can't be changed: a volume stays in its class. Make another ReplicatedDB of the \
                  wanted class and move the data",
    },
];

/// Rule at the resource itself, where `self.metadata.name` can be seen.
pub const NAME_RULE: Rule = Rule {
    at: "",
    rule: "self.metadata.name.size() <= 57 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    message: "metadata.name must be at most 57 characters of a-z, 0-9 and '-', starting with a letter: services and \
              instances are named after it",
};
