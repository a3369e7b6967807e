//! Programs of this machine.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};

/// For any single command; a docker daemon with frozen containers answers within a second.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs a program; gives what it prints, fails with what it complains about.
pub async fn run(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let shown = || format!("{program} {}", args.join(" "));
    let child = tokio::process::Command::new(program).args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(LIMIT, child).await.with_context(|| format!("{}: no end", shown()))?;
    let output = output.with_context(shown)?;
    if !output.status.success() {
        bail!("{}: {}", shown(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub async fn docker(args: &[&str]) -> anyhow::Result<String> {
    run("docker", args).await
}

/// Runs a script in a node of the kind cluster.
pub async fn on_node(node: &str, script: &str) -> anyhow::Result<String> {
    run("docker", &["exec", node, "sh", "-c", script]).await
}

/// The same without waiting on a runtime: for guards that are dropped. Complaints go to stderr.
pub fn run_now(program: &str, args: &[String]) -> bool {
    let output = std::process::Command::new(program).args(args).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            tracing::debug!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
            false
        }
        Err(error) => {
            tracing::warn!("{program}: {error}");
            false
        }
    }
}
