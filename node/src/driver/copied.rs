//! A data directory that came with a copied volume: a clone, or a restored snapshot.
//!
//! The control file ended the incarnation before anything else was done (rule 18), so whatever this node says from now on does
//! not count for the member that the copy was made of. What is left to decide is whether the content is of use: it is when it
//! is what the operator meant to give this node. A snapshot is an image as a crash would leave it, so it is opened like one.

use rdb_log::{ControlState, DataState, Log};
use rdb_protocol::status::SeedReport;
use rdb_protocol::{ClusterId, Position};

use super::Node;
use super::boot::BootError;
use super::core::Core;
use crate::args::Args;

/// What the operator recorded when the snapshot was taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) cluster: ClusterId,
    pub(super) position: Option<Position>,
}

impl Expected {
    pub(super) fn of(args: &Args) -> Option<Expected> {
        args.seed_cluster.map(|cluster| Expected { cluster, position: args.seed_position })
    }

    /// Why content of this state is not what was meant, as far as the control file tells; `None` when it may be.
    fn differs_from(&self, state: &ControlState) -> Option<String> {
        if state.cluster != Some(self.cluster) {
            let found = state.cluster.map_or("none".to_owned(), |cluster| cluster.to_string());
            return Some(format!("the copied volume is of cluster {found}, not {}", self.cluster));
        }
        let ready = matches!(state.data, DataState::Ready);
        (!ready).then(|| "the copied volume holds no complete database".to_owned())
    }

    /// Why this log is not the one that was meant.
    fn differs_from_log(&self, log: &Log) -> Option<String> {
        let wanted = self.position?;
        let (base, last) = (log.base(), log.last());
        let there = match log.position(wanted.index) {
            Some(found) => found == wanted,
            // Its records were dropped, after later ones: only the order of epochs is left to compare.
            None => wanted.index < base.index && wanted.epoch <= base.epoch,
        };
        (!there).then(|| {
            format!(
                "the copied volume does not contain position {wanted} (chain {}) that was recorded when the snapshot was taken; \
                 its log goes from {base} to {last}",
                wanted.chain
            )
        })
    }
}

/// Looks at a copied directory before it is opened. True: it was of no use, and the node is empty now.
pub(super) fn judge_state(node: &Node, core: &mut Core, expected: Option<Expected>) -> Result<bool, BootError> {
    let state = core.control.state();
    tracing::warn!(
        volume = state.volume,
        incarnation = %state.incarnation,
        "the volume is a copy of another one: this node is a new member"
    );
    match expected.and_then(|expected| expected.differs_from(state)) {
        Some(reason) => start_over(node, core, reason).map(|()| true),
        None => Ok(false),
    }
}

/// Looks at what was opened. True: it was of no use, and the node is empty now.
pub(super) fn judge_log(node: &Node, core: &mut Core, expected: Option<Expected>) -> Result<bool, BootError> {
    let Some(running) = &core.running else { return Ok(false) };
    if let Some(reason) = expected.and_then(|expected| expected.differs_from_log(&running.log)) {
        return start_over(node, core, reason).map(|()| true);
    }
    let position = running.log.last();
    core.control.update(|state| {
        state.copied = false;
        state.seed = Some(SeedReport { method: "snapshot".to_owned(), position });
    })?;
    tracing::info!(%position, "goes on from the content of the copied volume");
    Ok(false)
}

/// Forgets the content, durably, before its files go: what remains of them after a crash belongs to no cluster, and is removed
/// at the next start.
fn start_over(node: &Node, core: &mut Core, reason: String) -> Result<(), BootError> {
    core.problem("SEED_MISMATCH", format!("{reason}; its content was removed, and this node waits to be seeded"));
    core.running = None;
    node.set_engine(None);
    node.view.set_committed(rdb_protocol::Index::ZERO);
    node.view.set_applied(rdb_protocol::Index::ZERO);
    core.control.update(|state| {
        let fresh = ControlState::new(state.name.clone(), state.incarnation);
        *state = ControlState { volume: state.volume.take(), ..fresh };
    })?;
    remove_content(node)
}

/// Removes whatever is not of an empty node.
pub(super) fn remove_content(node: &Node) -> Result<(), BootError> {
    let io = |error| BootError::Io("remove the content of a copied volume", error);
    let paths = &node.paths;
    for directory in [&paths.log, &paths.given_up(), &paths.archive, &paths.seed()] {
        gone(std::fs::remove_dir_all(directory)).map_err(io)?;
    }
    for file in paths.database_files() {
        gone(std::fs::remove_file(file)).map_err(io)?;
    }
    Ok(())
}

/// That there was nothing to remove is well.
fn gone(removed: std::io::Result<()>) -> std::io::Result<()> {
    removed.or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}
