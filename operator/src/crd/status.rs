//! The status as it is stored. It is `control`'s [`ClusterStatus`] field by field, but for the conditions, which have the
//! form that `kubectl wait` and others know, and for `summary`, which the columns of `kubectl get` show. Reading back what
//! was written gives the same status again: `decide` compares them.

use jiff::Timestamp;
use rdb_control::ClusterStatus;
use rdb_control::status::Condition;
use serde_json::{Map, Value, json};

use super::label;

/// Why a stored status can't be read. It is never guessed: without it nothing is decided.
#[derive(Debug, thiserror::Error)]
#[error("the stored status cannot be read: {0}")]
pub struct UnreadableStatus(String);

/// What the summary says beside the status itself.
pub struct Shown<'a> {
    pub cluster: &'a str,
    pub asked_instances: u32,
    pub image: &'a str,
}

/// The stored form. Fields without a value are left out.
pub fn to_stored(status: &ClusterStatus, shown: &Shown<'_>) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(status)?;
    let conditions = status.conditions.iter().map(|condition| stored_condition(condition, status.observed_generation));
    if let Value::Object(map) = &mut value {
        map.insert("conditions".to_owned(), conditions.collect());
        map.insert("summary".to_owned(), summary(status, shown));
    }
    remove_nulls(&mut value);
    Ok(value)
}

/// Reads a stored status; none is the empty one.
pub fn from_stored(stored: Option<&Value>) -> Result<ClusterStatus, UnreadableStatus> {
    let unreadable = |error: serde_json::Error| UnreadableStatus(error.to_string());
    let Some(mut value) = stored.cloned() else { return Ok(ClusterStatus::default()) };
    let conditions = match &mut value {
        Value::Object(map) => {
            map.remove("summary");
            map.remove("conditions")
        }
        _ => None,
    };
    let mut status: ClusterStatus = serde_json::from_value(value).map_err(unreadable)?;
    let conditions = conditions.as_ref().and_then(Value::as_array).into_iter().flatten();
    status.conditions = conditions.map(read_condition).collect::<Option<_>>().ok_or_else(|| {
        UnreadableStatus("a condition lacks its type, status, reason, message or lastTransitionTime".to_owned())
    })?;
    Ok(status)
}

fn stored_condition(condition: &Condition, generation: u64) -> Value {
    let Condition { kind, status, reason, message, since_unix_ms } = condition;
    json!({
        "type": kind,
        "status": if *status { "True" } else { "False" },
        "reason": reason,
        "message": message,
        "lastTransitionTime": rfc3339(*since_unix_ms),
        "observedGeneration": generation,
    })
}

fn read_condition(value: &Value) -> Option<Condition> {
    let text = |key: &str| value.get(key)?.as_str();
    let since: Timestamp = text("lastTransitionTime")?.parse().ok()?;
    Some(Condition {
        kind: text("type")?.to_owned(),
        status: text("status")? == "True",
        reason: text("reason")?.to_owned(),
        message: text("message")?.to_owned(),
        since_unix_ms: u64::try_from(since.as_millisecond()).unwrap_or_default(),
    })
}

/// With milliseconds where there are any: nothing is lost by storing it.
pub fn rfc3339(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

fn summary(status: &ClusterStatus, shown: &Shown<'_>) -> Value {
    let leader = status.leader.as_ref().filter(|_| status.has_leader());
    let row = leader.and_then(|leader| status.instances.iter().find(|row| row.name == leader.name));
    let lag = status.instances.iter().filter(|row| row.sync).map(|row| row.lag_records).max();
    let config = status.config.as_ref().map(|pair| &pair.current);
    json!({
        "ready": format!("{}/{}", status.ready_instances, shown.asked_instances),
        "leader": leader.map(|leader| leader.name.to_string()).unwrap_or_default(),
        "position": row.map(|row| format!("{}/{}", row.epoch, row.index)).unwrap_or_default(),
        "lag": lag.map(|lag| lag.to_string()).unwrap_or_default(),
        "sync": config.map(|c| format!("{}, {} acks", c.cohort.len(), c.acks)).unwrap_or_default(),
        "image": shown.image,
        "selector": format!("{}={}", label::CLUSTER, shown.cluster),
    })
}

fn remove_nulls(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        Value::Object(map) => {
            let kept = std::mem::take(map).into_iter().filter(|(_, value)| !value.is_null());
            *map = kept.collect::<Map<_, _>>();
            map.values_mut().for_each(remove_nulls);
        }
        _ => {}
    }
}
