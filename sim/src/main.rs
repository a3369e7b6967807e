//! `sim`: runs worlds; see the library's header and `docs/simulation.md`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use sim::cli::{self, Command};

/// A world is made of small values that live briefly: a third of the time went into the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs ReplicatedDB's cores in simulated worlds.
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Threads; one seed runs on one.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Tell the story of this one seed.
    #[arg(long)]
    story: Option<u64>,
    /// Go on from where this file says, in parts of --seeds, until --until.
    #[arg(long)]
    resume: Option<PathBuf>,
    /// With --resume: seeds in all.
    #[arg(long, default_value_t = 1_000_000)]
    until: u64,
    /// Search for every planted bug (needs the feature `planted`).
    #[arg(long)]
    planted: bool,
    /// With --planted: only bugs with this in their name.
    #[arg(long)]
    only: Option<String>,
    /// Write small histories as JSON lines into this folder, for a linearizability checker.
    #[arg(long)]
    histories: Option<PathBuf>,
}

fn main() -> ExitCode {
    let Args { seeds, first, jobs, story, resume, until, planted, only, histories } = Args::parse();
    let command = match (story, planted, resume, histories) {
        (Some(seed), ..) => Command::Story { seed },
        (_, true, ..) => Command::Planted { most: seeds, only },
        (_, _, Some(path), _) => Command::Resume { path, part: seeds, until },
        (_, _, _, Some(folder)) => Command::Histories { folder, first, seeds },
        _ => Command::Seeds { first, seeds },
    };
    match cli::run(command, jobs) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}
