//! What will be done to a world, and when: faults, and the wishes of the people who own the cluster. The plan is drawn from
//! the seed before the run, so that it can be shortened.

use rdb_protocol::settings::{LogFormat, Mode, SyncSet, WhenUnavailable};

use crate::event::{At, MS, SECOND};
use crate::rng::Rng;

/// Whom a fault hits, found when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Leader,
    /// Whom the status names as the leader, open or not.
    Chosen,
    /// The n-th of those who do not lead.
    Follower(u64),
    /// The n-th of all.
    Any(u64),
}

/// How the network is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// One node from everybody.
    Isolated(Target),
    /// One node from operators and other nodes: only its clients reach it.
    Marooned(Target),
    /// One node from the operators only.
    Unobserved(Target),
    /// What operators send to one node is lost, what it sends arrives.
    Untold(Target),
    /// One node from the other nodes only.
    Unpeered(Target),
    /// What one node sends is lost, what it is sent arrives; the other way round.
    Mute(Target),
    Deaf(Target),
    /// Two halves, each with one operator.
    Split(u64),
    /// One operator from the API server; from all nodes.
    OperatorFromApi(u64),
    OperatorFromNodes(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`: the page cache stays.
    Crash(Target),
    /// After so many more outputs of the core.
    CrashWithin(Target, u64),
    /// The machine: what was not flushed is gone, and it is away for a while.
    PowerLoss(Target, At),
    /// Every node at once.
    AllDown(At),
    Pause(Target, At),
    Cut(Cut, At),
    SlowDisk(Target, At),
    StuckDisk(Target, At),
    FullDisk(Target, At),
    /// The next flush fails.
    FlushError(Target),
    /// Found at the next start of the process, which follows.
    DamageLog(Target),
    DamageDatabase(Target),
    /// Its claim is deleted and made again, empty.
    LoseVolume(Target),
    /// Its claim is made again from an older snapshot.
    RollBack(Target),
    DeletePod(Target),
    /// The pod object goes at once, the process lives on for a while.
    ForceDeletePod(Target),
    OperatorCrash(u64, At),
    /// After so many more actions.
    OperatorCrashWithin(u64, u64),
    OperatorPause(u64, At),
    /// The leader stands still from the moment at which it has sent a heartbeat round: the answers wait for it.
    PauseAtRound(At),
    /// As soon as a leader is told of a change of the config: this one is killed, and what operators call nodes for within
    /// the span arrives seconds later, long after they gave the calls up.
    AtNextChange(Target, At),
    ApiOutage(At),
    /// The resource as it was some backups ago.
    ApiRestore(u64),
    TakeSnapshot(Target),
    Wish(Wish),
}

/// What people ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Switchover(Target),
    Reseed(Target),
    Instances(u32),
    Mode(Mode),
    SyncSet(SyncSet),
    WhenUnavailable(WhenUnavailable),
    Format(LogFormat),
    Maintenance(At),
    Paused(At),
    Fence(Target, At),
    Hibernate(At),
    Upgrade,
    /// Its machine is emptied: it says so, and after a while the pod is evicted.
    Drain(Target, At),
}

impl Fault {
    /// The counter of the summary.
    pub fn scenario(&self) -> &'static str {
        match self {
            Fault::Crash(_) => "fault: process killed",
            Fault::CrashWithin(..) => "fault: process killed between two outputs",
            Fault::PowerLoss(..) => "fault: power lost",
            Fault::AllDown(_) => "fault: power lost everywhere",
            Fault::Pause(..) => "fault: process paused",
            Fault::Cut(cut, _) => match cut {
                Cut::Isolated(_) => "fault: node cut off",
                Cut::Marooned(_) => "fault: node cut off from all but its clients",
                Cut::Unobserved(_) => "fault: node cut off from the operators",
                Cut::Untold(_) => "fault: node not reached by the operators' calls",
                Cut::Unpeered(_) => "fault: node cut off from its peers",
                Cut::Mute(_) => "fault: node not heard",
                Cut::Deaf(_) => "fault: node hears nothing",
                Cut::Split(_) => "fault: network split",
                Cut::OperatorFromApi(_) => "fault: operator cut off from the API",
                Cut::OperatorFromNodes(_) => "fault: operator cut off from the nodes",
            },
            Fault::SlowDisk(..) => "fault: slow disk",
            Fault::StuckDisk(..) => "fault: stuck disk",
            Fault::FullDisk(..) => "fault: full disk",
            Fault::FlushError(_) => "fault: flush fails",
            Fault::DamageLog(_) => "fault: log damaged",
            Fault::DamageDatabase(_) => "fault: database damaged",
            Fault::LoseVolume(_) => "fault: volume lost",
            Fault::RollBack(_) => "fault: volume rolled back",
            Fault::DeletePod(_) => "fault: pod deleted",
            Fault::ForceDeletePod(_) => "fault: pod deleted by force",
            Fault::OperatorCrash(..) => "fault: operator killed",
            Fault::OperatorCrashWithin(..) => "fault: operator killed between two actions",
            Fault::OperatorPause(..) => "fault: operator paused",
            Fault::PauseAtRound(_) => "fault: leader paused between a round and its answers",
            Fault::AtNextChange(..) => "fault: calls held up at a change of the config",
            Fault::ApiOutage(_) => "fault: API server down",
            Fault::ApiRestore(_) => "fault: API server restored from a backup",
            Fault::TakeSnapshot(_) => "wish: snapshot taken",
            Fault::Wish(wish) => match wish {
                Wish::Switchover(_) => "wish: switchover",
                Wish::Reseed(_) => "wish: re-seed",
                Wish::Instances(_) => "wish: scaling",
                Wish::Mode(_) => "wish: mode",
                Wish::SyncSet(_) => "wish: sync set",
                Wish::WhenUnavailable(_) => "wish: when unavailable",
                Wish::Format(_) => "wish: log format",
                Wish::Maintenance(_) => "wish: maintenance",
                Wish::Paused(_) => "wish: paused",
                Wish::Fence(..) => "wish: instance stopped",
                Wish::Hibernate(_) => "wish: hibernation",
                Wish::Upgrade => "wish: rolling upgrade",
                Wish::Drain(..) => "wish: machine drained",
            },
        }
    }
}

fn target(rng: &mut Rng) -> Target {
    match rng.below(10) {
        0..=3 => Target::Leader,
        4 => Target::Chosen,
        5..=7 => Target::Follower(rng.below(4)),
        _ => Target::Any(rng.below(5)),
    }
}

/// From a moment to about half a minute.
fn span(rng: &mut Rng) -> At {
    rng.skewed(20 * MS, 30 * SECOND)
}

fn cut(rng: &mut Rng) -> Cut {
    let whom = target(rng);
    match rng.below(10) {
        0 | 1 => Cut::Isolated(whom),
        9 => Cut::Marooned(whom),
        2 => Cut::Unobserved(whom),
        3 => Cut::Unpeered(whom),
        4 => Cut::Mute(whom),
        5 => Cut::Deaf(whom),
        6 => Cut::Split(rng.word()),
        7 => Cut::OperatorFromApi(rng.below(2)),
        _ => Cut::OperatorFromNodes(rng.below(2)),
    }
}

fn wish(rng: &mut Rng) -> Wish {
    match rng.below(26) {
        24 | 25 => Wish::Drain(target(rng), span(rng)),
        0..=6 => Wish::Switchover(Target::Follower(rng.below(4))),
        7 => Wish::Reseed(Target::Follower(rng.below(4))),
        8..=10 => Wish::Instances(rng.between(1, 5) as u32),
        11..=14 => Wish::Mode([Mode::Async, Mode::SemiSync, Mode::Sync][rng.below(3) as usize]),
        15 => Wish::SyncSet([SyncSet::All, SyncSet::One][rng.below(2) as usize]),
        16 => Wish::WhenUnavailable([WhenUnavailable::Block, WhenUnavailable::Degrade][rng.below(2) as usize]),
        17 => Wish::Format([LogFormat::Page, LogFormat::Statement, LogFormat::Logical][rng.below(3) as usize]),
        18 => Wish::Maintenance(span(rng)),
        19 => Wish::Paused(span(rng)),
        20 => Wish::Fence(target(rng), span(rng)),
        21 => Wish::Hibernate(rng.between(SECOND, 10 * SECOND)),
        _ => Wish::Upgrade,
    }
}

/// Which kinds of faults this seed has: each seed a few, so that they meet in many different company.
pub fn draw(rng: &mut Rng, until: At) -> Vec<(At, Fault)> {
    let weights: Vec<u64> = (0..KINDS).map(|_| if rng.chance(350) { rng.between(1, 8) } else { 0 }).collect();
    let total: u64 = weights.iter().sum();
    if total == 0 {
        return Vec::new();
    }
    let pause = rng.between(2 * SECOND, 12 * SECOND);
    let mut plan = Vec::new();
    let mut at = rng.between(0, 10 * SECOND);
    while at < until {
        let mut left = rng.below(total);
        let kind = weights.iter().position(|weight| {
            let here = left < *weight;
            left = left.saturating_sub(*weight);
            here
        });
        plan.push((at, fault(rng, kind.unwrap_or(0))));
        // Faults come in bursts: what goes wrong in the middle of something else is what finds bugs.
        at += if rng.chance(400) { rng.skewed(MS, 2 * SECOND) } else { rng.between(pause / 4, pause * 2) };
    }
    plan
}

/// The spec's times that sequences of faults go by.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub lease: At,
    pub detection: At,
    pub progress: At,
}

/// Sequences that look for a certain hole, at times drawn by chance: what single faults meet too rarely. With `only`, that one
/// again and again.
pub fn scripts(rng: &mut Rng, until: At, times: Times, only: Option<u64>) -> Vec<(At, Fault)> {
    let mut plan = Vec::new();
    let mut begin = rng.between(5 * SECOND, 20 * SECOND);
    while begin < until {
        let mut at = begin;
        let which = only.unwrap_or_else(|| rng.below(SCRIPTS));
        for (pause, fault) in script(rng, which, times) {
            at += pause;
            plan.push((at, fault));
        }
        begin = at + rng.between(10 * SECOND, 40 * SECOND);
    }
    plan
}

/// How many sequences any world may draw.
pub const SCRIPTS: u64 = 14;
/// And some for worlds of their own. A change of the config whose end is asked for twice, each time otherwise, and the first
/// answer comes last.
pub const TWO_ENDS: u64 = SCRIPTS;
/// A leader that stands still with answers in front of it until its successor is open.
pub const OLD_ANSWERS: u64 = SCRIPTS + 1;
/// A copy that writes were acknowledged by is damaged, and the leader is away before it could send the records again.
pub const DAMAGED_COPY: u64 = SCRIPTS + 2;

fn script(rng: &mut Rng, which: u64, times: Times) -> Vec<(At, Fault)> {
    let Times { lease, detection, progress } = times;
    let long = rng.between(3 * SECOND, 20 * SECOND);
    let soon = rng.skewed(MS, 600 * MS);
    let moment = rng.skewed(0, SECOND);
    match which {
        // An old leader with a lease that is not heard any more, while its successors come and go.
        0 => vec![
            (0, Fault::Wish(Wish::Switchover(Target::Follower(0)))),
            (soon, Fault::Cut(Cut::Isolated(Target::Leader), long)),
            (moment, Fault::Crash(Target::Chosen)),
            (moment, Fault::Crash(Target::Follower(0))),
            (0, Fault::Crash(Target::Follower(1))),
        ],
        // A leader that answers and does not commit, with the same end.
        1 => vec![
            (0, Fault::StuckDisk(Target::Leader, progress + long)),
            (progress + moment, Fault::Crash(Target::Chosen)),
            (soon, Fault::Crash(Target::Chosen)),
            (moment, Fault::Crash(Target::Follower(0))),
        ],
        // A long tail that nobody acknowledged, and a short log of a later epoch.
        2 => vec![
            (0, Fault::Cut(Cut::Unpeered(Target::Leader), progress + long + 20 * SECOND)),
            (progress + 3 * SECOND + moment, Fault::PowerLoss(Target::Leader, long)),
        ],
        // Flushes that are on their way when the fence comes.
        3 => vec![
            (0, Fault::Cut(Cut::Unpeered(Target::Follower(1)), progress + 2 * SECOND)),
            (50 * MS, Fault::StuckDisk(Target::Leader, progress + 2 * SECOND)),
            (0, Fault::StuckDisk(Target::Follower(0), progress + 2 * SECOND + moment)),
        ],
        // A leader whom only its clients reach, and that comes back with what it told them.
        4 => vec![(0, Fault::Cut(Cut::Marooned(Target::Leader), long))],
        // A copy that comes back older than it was, when it is needed.
        5 => {
            let whom = Target::Any(rng.below(3));
            vec![
                (0, Fault::TakeSnapshot(whom)),
                (long, Fault::RollBack(whom)),
                (soon + SECOND, Fault::PowerLoss(Target::Leader, 20 * SECOND)),
            ]
        }
        // A change of the config, and the leader's end in the middle of it.
        6 => vec![
            (0, Fault::Wish(wish_for_a_change(rng))),
            (rng.skewed(MS, 400 * MS), Fault::PowerLoss(Target::Leader, long)),
            (moment, Fault::Cut(Cut::Isolated(Target::Follower(rng.below(3))), long)),
        ],
        // The same, with a leader that goes on unseen.
        7 => vec![
            (0, Fault::Wish(wish_for_a_change(rng))),
            (rng.skewed(MS, 400 * MS), Fault::Cut(Cut::Marooned(Target::Leader), long)),
            (moment, Fault::OperatorCrash(rng.below(2), SECOND)),
        ],
        // A record that only a follower with a slow disk has, and a leader whom no fence reaches.
        8 => vec![
            (0, Fault::StuckDisk(Target::Follower(0), progress + rng.between(0, SECOND))),
            (
                rng.between(0, 40 * MS),
                Fault::Cut(Cut::Unpeered(Target::Follower(1)), progress + rng.between(0, SECOND)),
            ),
            (rng.between(0, 100 * MS), Fault::Cut(Cut::Untold(Target::Leader), progress + long)),
        ],
        // An old leader with a record of its own comes back when its successor has little more than a beginning.
        9 => {
            let until = detection + rng.between(0, lease + SECOND);
            vec![
                (0, Fault::Cut(Cut::Marooned(Target::Leader), until)),
                (detection + rng.between(0, lease + 500 * MS), Fault::PowerLoss(Target::Chosen, long)),
            ]
        }
        // A change of the config while an operator stands still; a member that is to count lags, and the leader ends.
        10 => {
            let still = rng.between(300 * MS, 2 * SECOND);
            let before_its_end = rng.between(0, 200 * MS);
            vec![
                (0, Fault::Wish(Wish::Instances(rng.between(2, 4) as u32))),
                (rng.skewed(MS, 30 * MS), Fault::OperatorPause(0, still)),
                (0, Fault::OperatorPause(1, still)),
                (still - before_its_end, Fault::Cut(Cut::Unpeered(Target::Follower(rng.below(2))), long)),
                (before_its_end + rng.between(MS, 400 * MS), Fault::PowerLoss(Target::Leader, long)),
            ]
        }
        // A leader that hears nothing has a lease for as long as it may last; those who gave it begin anew.
        11 => vec![
            (0, Fault::Cut(Cut::Deaf(Target::Leader), detection + long)),
            (rng.between(0, progress + 100 * MS), Fault::Crash(Target::Follower(0))),
            (rng.skewed(0, 100 * MS), Fault::Crash(Target::Follower(1))),
        ],
        // The same, with a wait that follows from their answers.
        12 => vec![(0, Fault::Cut(Cut::Deaf(Target::Leader), detection + long))],
        // A leader that stood still finds old answers, and nobody any more.
        13 => vec![
            (0, Fault::Pause(Target::Leader, rng.between(detection / 2, detection + lease))),
            (rng.between(0, 200 * MS), Fault::Cut(Cut::Isolated(Target::Leader), detection + lease + long)),
        ],
        DAMAGED_COPY => vec![
            (0, Fault::Cut(Cut::Unpeered(Target::Follower(1)), detection + long)),
            (SECOND + moment, Fault::DamageLog(Target::Follower(0))),
            (MS, Fault::PowerLoss(Target::Leader, detection + long)),
        ],
        OLD_ANSWERS => vec![
            (0, Fault::PauseAtRound(detection + rng.between(0, lease + SECOND))),
            (detection, Fault::Cut(Cut::Isolated(Target::Leader), lease + long)),
        ],
        // A member ends when the change to a rule that needs it has just begun: the change is to be given up, but that call is
        // held up. The member is back, and the change is carried through; then the call arrives. What is written from now
        // on by the old rule, that member does not get, and it alone is left.
        _ => {
            let member = Target::Follower(1);
            vec![
                (0, Fault::Wish(Wish::Mode(Mode::SemiSync))),
                (15 * SECOND, Fault::AtNextChange(member, rng.skewed(10 * MS, 2 * SECOND))),
                (0, Fault::Wish(Wish::Mode(Mode::Sync))),
                (rng.between(3 * SECOND, 8 * SECOND), Fault::Cut(Cut::Unpeered(member), 2 * long)),
                (rng.between(100 * MS, 600 * MS), Fault::PowerLoss(Target::Leader, 2 * long)),
                (0, Fault::Cut(Cut::Isolated(Target::Follower(0)), long)),
            ]
        }
    }
}

fn wish_for_a_change(rng: &mut Rng) -> Wish {
    match rng.below(3) {
        0 => Wish::Mode([Mode::SemiSync, Mode::Sync][rng.below(2) as usize]),
        _ => Wish::Instances(rng.between(2, 5) as u32),
    }
}

const KINDS: usize = 20;

fn fault(rng: &mut Rng, kind: usize) -> Fault {
    let whom = target(rng);
    match kind {
        0 => Fault::Crash(whom),
        1 => Fault::CrashWithin(whom, rng.below(20)),
        2 => Fault::PowerLoss(whom, span(rng)),
        3 => Fault::Pause(whom, span(rng)),
        4..=6 => {
            let cut = cut(rng);
            Fault::Cut(cut, span(rng))
        }
        7 => match rng.below(3) {
            0 => Fault::StuckDisk(whom, span(rng)),
            _ => Fault::SlowDisk(whom, span(rng)),
        },
        8 => match rng.below(2) {
            0 => Fault::FullDisk(whom, span(rng)),
            _ => Fault::FlushError(whom),
        },
        9 => match rng.below(2) {
            0 => Fault::DamageLog(whom),
            _ => Fault::DamageDatabase(whom),
        },
        10 => match rng.below(3) {
            0 => Fault::LoseVolume(whom),
            1 => Fault::RollBack(whom),
            _ => Fault::TakeSnapshot(whom),
        },
        11 => match rng.below(2) {
            0 => Fault::DeletePod(whom),
            _ => Fault::ForceDeletePod(whom),
        },
        12 => Fault::OperatorCrash(rng.below(2), rng.skewed(10 * MS, 10 * SECOND)),
        13 => Fault::OperatorCrashWithin(rng.below(2), rng.below(30)),
        14 => Fault::OperatorPause(rng.below(2), span(rng)),
        15 => match rng.below(5) {
            0 => Fault::ApiRestore(rng.below(6)),
            _ => Fault::ApiOutage(span(rng)),
        },
        16 if rng.chance(300) => Fault::AllDown(rng.between(100 * MS, 5 * SECOND)),
        16 => Fault::Crash(whom),
        _ => Fault::Wish(wish(rng)),
    }
}
