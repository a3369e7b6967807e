//! The operator's calls. Each handler begins with the fence: a call of a lower epoch than promised is refused (rule 5).

use std::time::Duration;

use rdb_protocol::Epoch;
use rdb_protocol::admin::{
    AdminRefusal, Fence, Follow, LeaseAnswer, NextConfig, Promote, ResumeWrites, Settle, StopWrites,
};
use rdb_protocol::status::Promise;

use crate::config_change::{check, refuse};
use crate::io::{AdminAnswer, AdminCall, Output, RoleChange, Token};
use crate::leader::Leader;
use crate::replica::{Role, become_follower};
use crate::step::Step;

type Reply = Result<(), AdminRefusal>;

fn epoch_of(call: &AdminCall) -> Epoch {
    match call {
        AdminCall::Fence(Fence { epoch, .. })
        | AdminCall::Promote(Promote { epoch, .. })
        | AdminCall::Follow(Follow { epoch, .. })
        | AdminCall::NextConfig(NextConfig { epoch, .. })
        | AdminCall::Settle(Settle { epoch, .. })
        | AdminCall::StopWrites(StopWrites { epoch, .. })
        | AdminCall::ResumeWrites(ResumeWrites { epoch, .. })
        | AdminCall::Lease(LeaseAnswer { epoch, .. }) => *epoch,
    }
}

pub(crate) fn admin(role: &mut Role, step: &mut Step<'_>, token: Token, call: AdminCall) {
    if epoch_of(&call) < step.shared.promised() {
        let reply = Err(step.shared.refusal());
        return step.out.push(Output::AdminReply { token, reply });
    }
    let reply = match call {
        AdminCall::Fence(call) => return fence(role, step, token, call),
        AdminCall::Promote(call) => promote(role, step, call),
        AdminCall::Follow(call) => follow(role, step, call),
        AdminCall::NextConfig(call) => leading(role, call.epoch).and_then(|leader| leader.next_config(step, call)),
        AdminCall::Settle(call) => leading(role, call.epoch).and_then(|leader| leader.settle(step, call)),
        AdminCall::StopWrites(call) => leading(role, call.epoch).and_then(|leader| stop_writes(leader, step, &call)),
        AdminCall::ResumeWrites(call) => leading(role, call.epoch).map(|leader| leader.resume_writes(step)),
        AdminCall::Lease(call) => leading(role, call.epoch).map(|leader| answer_lease(leader, step, &call)),
    };
    // The reply goes before appends, which a full disk may end.
    step.out.push(Output::AdminReply { token, reply: reply.map(|()| AdminAnswer::Done) });
    if let Role::Leader(leader) = role {
        leader.advance(step);
        leader.append_own(step);
    }
}

fn leading(role: &mut Role, epoch: Epoch) -> Result<&mut Leader, AdminRefusal> {
    match role {
        Role::Leader(leader) if leader.epoch == epoch => Ok(leader),
        _ => refuse(format!("this node does not lead epoch {epoch}")),
    }
}

/// Rule 6: stop leading below; flush what is in flight; persist the promise; then answer with the frozen position.
fn fence(role: &mut Role, step: &mut Step<'_>, token: Token, call: Fence) {
    let Fence { epoch } = call;
    rdb_protocol::if_planted!(LateFlush => {
        if let (Role::Follower(follower), Some(leader)) = (&*role, step.shared.dialled.clone())
            && epoch > step.shared.promised()
        {
            step.shared.late = Some((step.shared.promised(), leader, follower.verified()));
            step.shared.raise(Promise { epoch, leader: None }, false, step.out);
            *role = Role::Follower(crate::follower::Follower::default());
            return step.shared.fence(token, epoch, step.now, step.out);
        }
    });
    if epoch > step.shared.promised() {
        step.shared.raise(Promise { epoch, leader: None }, false, step.out);
        become_follower(role, step);
    } else if step.shared.durable.promise.leader.is_some() {
        // Rule 8: the epoch has its leader. Only an operator whose status was put back asks again.
        let reply = Err(step.shared.refusal());
        return step.out.push(Output::AdminReply { token, reply });
    }
    step.shared.fence(token, epoch, step.now, step.out);
}

/// Rule 9: only with the promise of this very epoch, and only once.
fn promote(role: &mut Role, step: &mut Step<'_>, call: Promote) -> Reply {
    if let Role::Leader(leader) = role
        && leader.epoch == call.epoch
    {
        // Repeated: nothing of the reign changes, but members may have moved and the settings may be others.
        let durable = &mut step.shared.durable;
        if durable.peers != call.peers || durable.settings != call.settings {
            durable.peers = call.peers;
            durable.settings = call.settings;
            step.persist();
        }
        return Ok(());
    }
    let durable = &step.shared.durable;
    if durable.promise.epoch != call.epoch {
        return refuse(format!("promised epoch {}, not {}: fence first", durable.promise.epoch, call.epoch));
    }
    if call.leader != durable.member {
        return refuse(format!("this is {}, not {}", durable.member, call.leader));
    }
    if let Some(other) = durable.promise.leader.as_ref().filter(|leader| **leader != durable.member) {
        return refuse(format!("epoch {} has the leader {other}", call.epoch));
    }
    #[allow(unused_mut, reason = "changed by a planted bug")]
    let mut led = durable.led;
    rdb_protocol::if_planted!(PromotedAgain => { led = Epoch::ZERO; });
    if led >= call.epoch {
        return refuse(format!("this node led epoch {} before; it needs a new one", durable.led));
    }
    if step.shared.halted {
        return refuse("halted");
    }
    for config in call.config.standing() {
        check(config)?;
    }
    let durable = &mut step.shared.durable;
    durable.led = call.epoch;
    if call.lossy {
        durable.lossy = call.epoch;
    }
    durable.promise.leader = Some(durable.member.clone());
    durable.config = Some(call.config.clone());
    durable.peers.clone_from(&call.peers);
    durable.settings = call.settings.clone();
    step.persist();
    step.dial(None);
    step.out.push(Output::Became(RoleChange::Leader { epoch: call.epoch }));
    let mut leader = Leader::promoted(&call, step.now);
    leader.begin_round(step);
    *role = Role::Leader(Box::new(leader));
    Ok(())
}

/// Names the epoch's leader, and says where everybody is.
fn follow(role: &mut Role, step: &mut Step<'_>, call: Follow) -> Reply {
    let Follow { epoch, leader, peers, settings, loss_permitted } = call;
    if let Some(known) = step.shared.durable.promise.leader.as_ref()
        && epoch == step.shared.promised()
        && *known != leader
    {
        return refuse(format!("epoch {epoch} has the leader {known}"));
    }
    let before = step.shared.durable.clone();
    let durable = &mut step.shared.durable;
    durable.peers = peers;
    durable.settings = settings;
    if epoch > before.promise.epoch {
        step.shared.raise(Promise { epoch, leader: Some(leader) }, loss_permitted, step.out);
    } else {
        durable.promise.leader = Some(leader);
        // A permission, once given for an epoch, is not taken back in it.
        durable.loss_permitted |= loss_permitted;
        if *durable != before {
            step.persist();
        }
    }
    let unhalted = loss_permitted && std::mem::take(&mut step.shared.halted);
    if unhalted || before.promise != step.shared.durable.promise {
        become_follower(role, step);
    }
    Ok(())
}

fn stop_writes(leader: &mut Leader, step: &mut Step<'_>, call: &StopWrites) -> Reply {
    if !leader.opened {
        return refuse("not open yet");
    }
    let until = step.now.after(Duration::from_millis(call.deadline_ms));
    if leader.writes_stopped_until.replace(until).is_none() {
        step.out.push(Output::Became(RoleChange::WritesStopped));
    }
    Ok(())
}

/// Rule 17: the answer counts from when the request was made.
fn answer_lease(leader: &mut Leader, step: &mut Step<'_>, call: &LeaseAnswer) {
    if call.request <= leader.rounds.newest() {
        leader.operator_answered = leader.operator_answered.max(call.request);
        leader.renew_lease(step.shared);
    }
}
