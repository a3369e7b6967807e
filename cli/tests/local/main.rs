//! Runs `rdb local` with fake nodes: real processes, the real supervisor and the real decisions, but no database.
//!
//! This executable plays both parts. The supervisor starts it with the arguments of a node, and then it is one; started by
//! the test runner, it runs the scenarios one after the other, or those whose name holds the given word.

#![allow(clippy::disallowed_methods, reason = "a test driver, and a node without a driver of its own")]

mod cluster;
mod fake_node;
mod fake_server;
#[path = "../support/http.rs"]
mod http;
mod scenarios;

use std::collections::BTreeMap;
use std::time::Instant;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--listen") {
        let pairs = arguments.chunks(2).filter_map(|pair| Some((pair.first()?.clone(), pair.get(1)?.clone())));
        return fake_server::run(&pairs.collect::<BTreeMap<_, _>>());
    }
    let word = arguments.iter().find(|argument| !argument.starts_with('-'));
    let chosen: Vec<_> =
        scenarios::ALL.iter().filter(|(name, _)| word.is_none_or(|word| name.contains(word.as_str()))).collect();
    println!("\nrunning {} scenarios", chosen.len());
    for (name, scenario) in chosen {
        let started = Instant::now();
        scenario();
        println!("test {name} ... ok ({} ms)", started.elapsed().as_millis());
    }
    println!();
}
