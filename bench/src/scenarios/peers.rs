//! Other systems, measured by scripts that print lines in the form of our own. A script that cannot run here exits with
//! status 75 and says why on its standard error.

use std::process::Stdio;

use tokio::process::Command;

use super::report::Line;
use super::{ScenarioError, Settings};

/// Of a script whose system is not installed (`EX_TEMPFAIL` of sysexits.h).
const SKIPPED: i32 = 75;

/// Runs every `*.sh` of the folder of peers, in the order of their names.
pub async fn run(settings: &Settings) -> Result<Vec<Line>, ScenarioError> {
    let failed = |what: String| ScenarioError::Failed(what);
    let entries =
        std::fs::read_dir(&settings.peers).map_err(|error| failed(format!("{}: {error}", settings.peers.display())))?;
    let mut scripts: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    scripts.retain(|path| path.extension().is_some_and(|extension| extension == "sh"));
    scripts.sort();
    let mut lines = Vec::new();
    for script in scripts {
        let output = Command::new("bash")
            .arg(&script)
            .arg(settings.measure.as_secs().max(1).to_string())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| failed(format!("{}: {error}", script.display())))?;
        let text = String::from_utf8_lossy(&output.stdout);
        lines.extend(text.lines().filter_map(Line::parse));
        match output.status.code() {
            Some(0) => {}
            Some(SKIPPED) => eprintln!("  {} is skipped", script.display()),
            _ => return Err(failed(format!("{}: {}", script.display(), output.status))),
        }
    }
    Ok(lines)
}
