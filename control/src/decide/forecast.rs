//! What would happen if the leader died now: who would succeed, what could be lost, and who can't succeed and why.

use std::collections::BTreeSet;

use rdb_protocol::status::NodeStatus;
use rdb_protocol::{ConfigPair, Member, NodeName};

use super::view::{View, is_fit};
use crate::status::{Forecast, Veto};

/// `None` while there is no open leader: an election is more than a forecast.
pub(super) fn forecast(view: &View) -> Option<Forecast> {
    let leading = view.leading().filter(|leading| leading.opened)?;
    let config = view.status().config.as_ref()?;
    let mut candidates: Vec<&NodeStatus> = Vec::new();
    let mut vetoes = Vec::new();
    for name in view.observed.instances.keys().filter(|name| **name != leading.name) {
        match veto(view, config, leading, name) {
            Ok(status) => candidates.push(status),
            Err(reason) => vetoes.push(Veto { instance: name.clone(), reason }),
        }
    }
    let recruits: BTreeSet<Member> = candidates.iter().map(|status| status.member()).collect();
    let best = candidates.iter().max_by_key(|s| (s.flushed.rank(), std::cmp::Reverse(&s.name)));
    let safe = config.is_electable(&recruits, None);
    let at_risk = best.map_or(0, |best| leading.acknowledged.0.saturating_sub(best.flushed.index.0));
    Some(Forecast {
        successor: best.filter(|_| safe || view.loss_allowed(&recruits)).map(|best| best.name.clone()),
        acknowledged_at_risk: if safe { 0 } else { at_risk },
        vetoes,
    })
}

/// Why this instance can't succeed.
fn veto<'a>(
    view: &View<'a>,
    config: &ConfigPair,
    leading: &NodeStatus,
    name: &NodeName,
) -> Result<&'a NodeStatus, String> {
    let instance = view.instance(name).ok_or("there is no such instance")?;
    let status = instance.status().filter(|_| view.is_reachable(instance)).ok_or("it can't be reached")?;
    if !view.is_ours(status) {
        return Err("it has no data of this cluster".to_owned());
    }
    if !is_fit(status.state) {
        return Err(format!("it is {:?}", status.state));
    }
    let member = status.member();
    if !config.counts(&member) {
        return Err("it is not in the sync set".to_owned());
    }
    if view.progress(&member).is_some_and(|progress| !progress.caught_up) {
        let lag = leading.flushed.index.0.saturating_sub(status.flushed.index.0);
        return Err(format!("it lags {lag} records"));
    }
    Ok(status)
}
