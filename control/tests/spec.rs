//! The spec: defaults, units, bounds.

use rdb_control::spec::{Size, Span};
use rdb_control::{Cluster, ClusterSpec};
use rdb_protocol::settings::{Mode, NodeSettings};

#[test]
fn an_empty_spec_has_the_documented_defaults() {
    let spec: ClusterSpec = serde_json::from_str("{}").unwrap();
    assert_eq!(spec, ClusterSpec::default());
    let cluster = Cluster::parse("orders", &spec).unwrap();
    assert_eq!((cluster.name(), cluster.instances()), ("orders", 3));
    assert_eq!(*cluster.settings(), NodeSettings::default());
}

#[test]
fn a_spec_survives_json() {
    let spec = ClusterSpec { instances: 5, ..ClusterSpec::default() };
    let text = serde_json::to_string(&spec).unwrap();
    assert!(text.contains(r#""detectionTimeout":"3s""#) && text.contains(r#""size":"1Gi""#), "{text}");
    assert_eq!(serde_json::from_str::<ClusterSpec>(&text).unwrap(), spec);
}

#[test]
fn an_unknown_field_is_an_error() {
    let error = serde_json::from_str::<ClusterSpec>(r#"{"replication": {"syncFolowers": 2}}"#).unwrap_err();
    assert!(error.to_string().contains("syncFolowers"), "{error}");
}

#[test]
fn durations_and_sizes_have_units() {
    for (text, ms) in [("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("24h", 86_400_000), ("30d", 2_592_000_000)] {
        assert_eq!(text.parse::<Span>().unwrap().millis(), ms, "{text}");
    }
    for (text, bytes) in [("1000", 1000), ("64Mi", 64 << 20), ("1Gi", 1 << 30)] {
        assert_eq!(text.parse::<Size>().unwrap(), Size(bytes), "{text}");
    }
    for text in ["", "10", "s", "-1s", "1.5s", "10 s", "99999999999999999999s", "9999999999999999d"] {
        assert!(text.parse::<Span>().is_err(), "{text}");
    }
    for text in ["", "1G", "Gi", "-1", "99999999999999Ti"] {
        assert!(text.parse::<Size>().is_err(), "{text}");
    }
    assert_eq!([Span::from_millis(1500).to_string(), Span::from_secs(0).to_string()], ["1500ms", "0s"]);
}

#[test]
fn each_bound_is_kept_and_names_its_field() {
    type Change = fn(&mut ClusterSpec);
    let cases: [(&str, Change); 16] = [
        ("instances", |s| s.instances = 0),
        ("instances", |s| s.instances = 16),
        ("replication.syncFollowers", |s| s.replication.sync_followers = 0),
        ("replication.syncFollowers", |s| s.replication.sync_followers = 3),
        ("replication.minSyncFollowers", |s| s.replication.min_sync_followers = 2),
        ("replication.syncTimeout", |s| s.replication.sync_timeout = Span::from_millis(999)),
        ("replication.logRetention.size", |s| s.replication.log_retention.size = Size(1 << 20)),
        ("replication.logRetention.age", |s| s.replication.log_retention.age = Span::from_secs(31 * 86_400)),
        ("failover.detectionTimeout", |s| s.failover.detection_timeout = Span::from_secs(601)),
        ("failover.heartbeatInterval", |s| s.failover.heartbeat_interval = Span::from_millis(10)),
        ("failover.heartbeatInterval", |s| s.failover.heartbeat_interval = Span::from_millis(251)),
        ("failover.leaseDuration", |s| s.failover.lease_duration = Span::from_secs(3)),
        ("failover.progressTimeout", |s| s.failover.progress_timeout = Span::from_millis(1)),
        ("failover.cooldown", |s| s.failover.cooldown = Span::from_secs(3601)),
        ("maintenance.until", |s| s.maintenance.until = Some("tomorrow".to_owned())),
        ("snapshots.keep", |s| s.snapshots.keep = 101),
    ];
    for (field, change) in cases {
        let mut spec = ClusterSpec::default();
        change(&mut spec);
        assert_eq!(Cluster::parse("db", &spec).unwrap_err().field, field);
    }
    assert_eq!(Cluster::parse("No Label", &ClusterSpec::default()).unwrap_err().field, "metadata.name");
}

#[test]
fn one_instance_needs_no_follower_and_other_modes_ignore_their_number() {
    let mut spec = ClusterSpec { instances: 1, ..ClusterSpec::default() };
    assert!(Cluster::parse("db", &spec).is_ok());
    spec.instances = 2;
    spec.replication.sync_followers = 2;
    assert!(Cluster::parse("db", &spec).is_err());
    spec.replication.mode = Mode::Sync;
    assert!(Cluster::parse("db", &spec).is_ok());
}
