//! The background check: every page is read now and then and compared with what was written, so that damage is found before
//! somebody needs the page. Each record proves only the pages that it touches.

use std::sync::Arc;
use std::time::Duration;

use rdb_engine::EngineError;

use super::Node;

/// After each part, so that a check of a large database takes a tenth of the disk's time at most.
const PAUSE: Duration = Duration::from_millis(5);

/// The thread.
pub(super) fn scrub_forever(node: &Arc<Node>, interval: Duration) {
    loop {
        wait(interval);
        if node.view.serving() {
            scrub(node);
        }
    }
}

fn wait(time: Duration) {
    // The channel's only purpose is to give its message late.
    let _ = crossbeam_channel::after(time).recv();
}

fn scrub(node: &Arc<Node>) {
    let generation = node.lock().generation;
    let Some(engine) = node.engine() else { return };
    // Without a table of what was written there is nothing to compare with.
    if engine.content().is_none() {
        return;
    }
    let checked = engine.seed_session().and_then(|mut session| {
        let index = session.info().index;
        session.verify(|| wait(PAUSE)).map(|sound| (index, sound))
    });
    match checked {
        Ok((_, true)) => {}
        Ok((index, false)) => {
            damaged(node, generation, &format!("its pages at record {index} are not what was written"));
        }
        Err(EngineError::Corrupt { why, .. }) => damaged(node, generation, &why),
        Err(error) => tracing::warn!(%error, "the background check of the database could not be made"),
    }
}

fn damaged(node: &Node, generation: u64, why: &str) {
    let what = format!("the background check found the database damaged: {why}");
    if node.view.is_open() {
        // A leader gives its place to a follower whose database is whole; this node then starts anew as one.
        super::die("the database of the leader is damaged", &what);
    }
    node.diverged(generation, what);
}
