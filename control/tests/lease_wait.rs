//! How long a promoted leader has to wait before it opens (rules 16 and 17), as a table over what is known.

mod world;

use rdb_control::status::{Election, Opened, Reason};
use rdb_control::{Action, AdminCall, FenceAnswer, LeaseAnswered, Phase, decide};
use rdb_protocol::admin::Recruit;
use rdb_protocol::settings::Mode;
use rdb_protocol::{Epoch, Index};
use world::{World, name};

/// The leader db-1 of epoch 3 is to be replaced in epoch 4 by db-2.
struct Case {
    mode: Mode,
    /// The last leader that was seen open led this epoch.
    opened: u64,
    /// The process that was open then surely ended.
    exited: bool,
    /// (recruit, milliseconds since it last answered a leader, it had opened).
    recruits: &'static [(&'static str, u64, bool)],
    /// Milliseconds since the operator last answered a lease request.
    operator: Option<u64>,
    /// Milliseconds since the operator got its Lease.
    held: u64,
    wait_ms: u64,
    why: &'static str,
}

#[test]
fn the_wait_covers_every_lease_that_may_still_run() {
    use Mode::{Async, SemiSync};
    let semi = |opened, exited, recruits, wait_ms, why| Case {
        mode: SemiSync,
        opened,
        exited,
        recruits,
        operator: None,
        held: 60_000,
        wait_ms,
        why,
    };
    let lease = |opened, exited, recruits, operator, held, wait_ms, why| Case {
        mode: Async,
        opened,
        exited,
        recruits,
        operator,
        held,
        wait_ms,
        why,
    };
    let cases = [
        semi(3, false, &[("db-2", 400, false), ("db-3", 100, false)], 1000, "the youngest answer counts"),
        semi(3, false, &[("db-2", 5000, false), ("db-3", 5000, false)], 0, "all answers are old"),
        semi(3, true, &[("db-2", 0, false), ("db-3", 0, false)], 0, "its process ended"),
        semi(2, true, &[("db-2", 0, false), ("db-3", 0, false)], 1100, "the proof is about an older leader"),
        semi(3, false, &[("db-1", 0, true), ("db-2", 0, false)], 0, "it answered, and had opened"),
        semi(2, false, &[("db-1", 0, false), ("db-2", 200, false)], 1100, "it answered, but had not opened"),
        semi(2, false, &[("db-1", 5000, false)], 1100, "the shortcut without having opened waits from the choice"),
        semi(3, false, &[("db-2", 5000, false)], 1100, "too few recruits say nothing about a lease"),
        lease(
            2,
            false,
            &[("db-1", 5000, false), ("db-2", 5000, false), ("db-3", 5000, false)],
            Some(300),
            60_000,
            800,
            "the operator's answer is younger than the recruits'",
        ),
        lease(
            2,
            false,
            &[("db-1", 5000, false), ("db-2", 5000, false), ("db-3", 5000, false)],
            None,
            200,
            900,
            "another operator may have answered until we held the Lease",
        ),
        lease(3, true, &[("db-2", 0, false)], Some(0), 60_000, 0, "its process ended, so it has no lease of any kind"),
        lease(3, false, &[("db-2", 5000, false)], Some(5000), 60_000, 1100, "a choice with loss waits from the choice"),
    ];
    for case in cases {
        assert_eq!(promise_of_wait(&case), case.wait_ms + 1, "{}", case.why);
    }
}

fn promise_of_wait(case: &Case) -> u64 {
    let mut world = World::steady(|spec| spec.replication.mode = case.mode);
    world.run_until("all are members", |w| w.settled() && w.cohort().len() == 3);
    let member = |world: &World, text: &str| world.nodes[&name(text)].member();
    let (old, new) = (member(&world, "db-1"), member(&world, "db-2"));
    let now = world.now();
    let ago = |ms: u64| now.minus(std::time::Duration::from_millis(ms));
    for (text, answered_ms_ago, had_opened) in case.recruits {
        let recruit = Recruit {
            epoch: Epoch(4),
            member: member(&world, text),
            position: Default::default(),
            committed: Index(0),
            answered_ms_ago: *answered_ms_ago,
            had_opened: *had_opened,
            acknowledged: Index(0),
            config: None,
        };
        let answer = FenceAnswer { recruit, received_at: now };
        world.observed.instances.get_mut(&name(text)).unwrap().fence_answer = Some(answer);
    }
    let boot = world.nodes[&name("db-1")].boot;
    if case.exited {
        world.observed.instances.get_mut(&name("db-1")).unwrap().exited_boots.insert(boot);
    }
    world.observed.lease_answered = case.operator.map(|ms| LeaseAnswered { epoch: Epoch(3), request: 1, at: ago(ms) });
    world.observed.lease_held_since = Some(ago(case.held));
    world.observed.calls.clear();
    let status = &mut world.observed.status;
    status.epoch = Epoch(4);
    status.leader_epoch = Epoch(4);
    status.leader = Some(new);
    status.phase = Phase::Promoting;
    status.opened = Some(Opened { epoch: Epoch(case.opened), boot });
    status.election = Some(Election {
        reason: Reason::Silent,
        evidence: String::new(),
        from: Some(old.clone()),
        from_epoch: Epoch(3),
        started_unix_ms: 0,
        detected_ms: 0,
        acknowledged: Index(0),
        preferred: None,
        avoided: None,
        attempts: 1,
        loss_permitted: false,
        replaced: Some(old),
        replaced_epoch: Epoch(3),
        lossy: false,
        promoted: None,
    });
    let plan = decide(&world.cluster, &world.observed, now);
    let wait = plan.actions.iter().find_map(|action| match action {
        Action::Call { call: AdminCall::Promote(promote), .. } => Some(promote.lease_wait_ms),
        _ => None,
    });
    wait.unwrap_or_else(|| panic!("{}: no promotion in {plan:#?}", case.why))
}
