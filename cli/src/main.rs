//! `rdb`, also `kubectl-rdb`: see the library for the map.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = rdb_cli::args::Arguments::parse();
    match rdb_cli::run(arguments) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("rdb: {failure}");
            failure.exit_code()
        }
    }
}
