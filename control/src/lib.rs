//! The decision core: `decide(&Cluster, &Observed, now) -> Plan`, pure and total. It knows neither Kubernetes nor
//! processes, sockets or clocks, so the operator, `rdb local` and the simulator run the very same decisions.
//!
//! | module | holds |
//! | --- | --- |
//! | [`spec`] | what a user may write, field by field, with the defaults |
//! | [`cluster`] | the spec parsed into a valid type; everything below relies on its bounds |
//! | [`status`] | the stored status: the decisions made so far (compare-and-swap only) and what is told to people |
//! | [`observed`] | what a driver saw: the stored status, the nodes' reports, evidence, answers, requests |
//! | [`upkeep`] | what every driver does alike to keep that |
//! | [`plan`] | what a driver has to do |
//! | [`mod@decide`] | the decisions, one file per concern |
//! | [`time`] | points in time as the driver's clock counts them |
//!
//! ## How a driver uses it
//!
//! 1. Keep an [`Observed`] up to date from the nodes' status streams, process evidence and the status store.
//! 2. On every change, and at the plan's [`Action::WakeAt`], call [`decide()`].
//! 3. Carry out the actions in order. Calls run beside each other and never hold up the loop; [`Action::SwapStatus`] is
//!    the last action and a compare-and-swap on `Observed::version`. If it fails, read the status again and decide again.
//!
//! A decision is only acted on after it was swapped into the status and read back from there (rule 1). That is why the
//! core is idempotent: a second operator, or the same one after a crash, goes on from the status alone.

pub mod cluster;
pub mod decide;
pub mod observed;
pub mod plan;
pub mod spec;
pub mod status;
pub mod time;
pub mod upkeep;

pub use cluster::{Cluster, InvalidSpec};
pub use decide::decide;
pub use observed::{
    CallKey, CallOutcome, CallRecord, Connection, Elections, FenceAnswer, InstanceObservation, LeaseAnswered,
    Lifecycle, Observed, Report, Requests, SnapshotsObservation,
};
pub use plan::{Action, AdminCall, CallKind, Event, Plan, RequestKind};
pub use spec::ClusterSpec;
pub use status::{ClusterStatus, Phase};
pub use time::Time;
pub use upkeep::{CallInFlight, ExitedBoots, SwapInFlight};
