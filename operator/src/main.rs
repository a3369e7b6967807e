//! The `rdb-operator` binary.

use anyhow::Context;
use clap::Parser;
use rdb_operator::args::{Arguments, Command, RunArguments};
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    let Arguments { command, run } = Arguments::parse();
    match command.unwrap_or(Command::Run(run)) {
        Command::Crd => {
            print!("{}", rdb_operator::crd::definition::yaml().context("cannot make the resource definition")?);
            Ok(())
        }
        Command::Check { url } => rdb_operator::check::check(&url),
        Command::Run(arguments) => {
            start_log(&arguments);
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.context("cannot start the runtime")?.block_on(rdb_operator::run::run(arguments))
        }
    }
}

fn start_log(arguments: &RunArguments) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if arguments.log_json {
        log.json().init();
    } else {
        log.init();
    }
}
