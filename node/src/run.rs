//! Wires a node together and runs it until it is told to stop.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Args;
use crate::driver::Node;
use crate::driver::service::Service;
use crate::http::Server;
use crate::http::server::{DRAIN_LIMIT, FOLLOWER_LINGER, LEADER_LINGER};

/// Runs the node that `args` describe. Returns after a signal or the operator's `shutdown`.
pub async fn run(args: Args) -> Result<(), anyhow::Error> {
    let node = {
        let args = args.clone();
        tokio::task::spawn_blocking(move || Node::start(&args)).await??
    };
    let listener = TcpListener::bind(args.listen).await?;
    let server = Server::start(listener, Arc::new(Service(node.clone())), node.tokens.tokens(), node.peer_hook())?;
    tracing::info!(name = %node.name, address = %server.local_address(), "serving");
    let mut demoted = node.demoted.subscribe();
    let mut shutdown = node.shutdown.subscribe();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    loop {
        tokio::select! {
            Ok(()) = demoted.changed() => server.close_clients(),
            _ = shutdown.wait_for(|told| *told) => break,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("stopping");
    let linger = if node.is_leader() { LEADER_LINGER } else { FOLLOWER_LINGER };
    server.drain(DRAIN_LIMIT, linger).await;
    node.lock().persist_hints();
    server.stop();
    Ok(())
}
