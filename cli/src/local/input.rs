//! What the supervisor's loop takes in, and the clock by which it is dated.

use std::sync::mpsc::Sender;

use rdb_control::{CallOutcome, Time};
use rdb_protocol::NodeName;
use rdb_protocol::admin::Recruit;
use rdb_protocol::status::NodeStatus;

use super::control_socket::{Request, Sent};
use crate::clock;

/// Something that happened.
pub enum Input {
    /// A status line of a node, from the process of this launch.
    Line {
        node: NodeName,
        launch: u64,
        status: Box<NodeStatus>,
        at: Time,
    },
    /// A node's status stream ended or could not be had; sent once for each change.
    Disconnected {
        node: NodeName,
        refused: bool,
        at: Time,
    },
    /// A node's process was waited for.
    Exited {
        node: NodeName,
        launch: u64,
        how: String,
        at: Time,
    },
    /// The answer to the admin call with this number.
    Answered {
        call: u64,
        outcome: CallOutcome,
        recruit: Option<Recruit>,
        at: Time,
    },
    Command {
        request: Request,
        reply: Sender<Sent>,
    },
    /// A signal asks us to end.
    Ending(i32),
}

/// The driver's one clock.
pub fn now() -> Time {
    Time(clock::boottime_us())
}
