//! Node processes: started by us, waited for by us, and gone when we are.
//!
//! A node's end is proof that it will never again acknowledge or answer anything (rule 16), so it must never be claimed
//! too early: it is reported only after the parent's wait returned. The wait first looks without reaping and reaps under a
//! lock, so that a signal never goes to a process id that the kernel has given to somebody else.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use rdb_protocol::NodeName;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::LocalError;
use super::layout::Layout;

/// How to start nodes.
#[derive(Clone, Debug)]
pub struct Launcher {
    pub binary: PathBuf,
    pub layout: Layout,
}

/// A started node process.
pub struct NodeProcess {
    pid: Pid,
    /// `None` once it was reaped: from then on its id is not ours to signal.
    child: Arc<Mutex<Option<Child>>>,
}

impl Launcher {
    /// The `rdb-node` beside the running executable.
    pub fn default_binary() -> Result<PathBuf, LocalError> {
        let own = std::env::current_exe().map_err(LocalError::io("the running executable"))?;
        Ok(own.with_file_name("rdb-node"))
    }

    /// Starts a node; `ended` is called once, from a thread of its own, after its end was waited for.
    ///
    /// Call it from a thread that lives as long as the node shall: the kernel ends the node together with it.
    pub fn start(
        &self,
        name: &NodeName,
        address: &str,
        ended: impl FnOnce(String) + Send + 'static,
    ) -> Result<NodeProcess, LocalError> {
        let log_path = self.layout.node_log(name);
        let log = OpenOptions::new().create(true).append(true).open(&log_path).map_err(LocalError::io(&log_path))?;
        let errors = log.try_clone().map_err(LocalError::io(&log_path))?;
        let mut command = Command::new(&self.binary);
        command
            .args(["--name", name.as_str(), "--listen", address, "--data"])
            .arg(self.layout.node_data(name))
            .arg("--peer-token-file")
            .arg(self.layout.peer_token())
            .arg("--admin-token-file")
            .arg(self.layout.admin_token())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            // A Ctrl-C at the terminal is for the supervisor, which ends its nodes in order.
            .process_group(0);
        die_with_this_thread(&mut command);
        let child = command.spawn().map_err(LocalError::io(&self.binary))?;
        let pid = Pid::from_child(&child);
        let child = Arc::new(Mutex::new(Some(child)));
        let waited = Arc::clone(&child);
        std::thread::Builder::new()
            .name(format!("wait-{name}"))
            .spawn(move || ended(wait_and_reap(pid, &waited)))
            .map_err(LocalError::io("a thread"))?;
        Ok(NodeProcess { pid, child })
    }
}

impl NodeProcess {
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// False if it has already ended.
    pub fn signal(&self, signal: Signal) -> bool {
        let child = self.child.lock();
        child.is_some() && kill_process(self.pid, signal).is_ok()
    }
}

/// Blocks until the process has ended, reaps it and says how it ended.
fn wait_and_reap(pid: Pid, child: &Mutex<Option<Child>>) -> String {
    // NOWAIT leaves a zombie, whose id stays taken until the reaping below. An interrupted wait is taken up again; any
    // other failure (the id is not our child) can't happen before the reaping, and `wait` below blocks in that case.
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {}
    let Some(mut child) = child.lock().take() else {
        return "ended".to_owned();
    };
    match child.wait() {
        Ok(status) => status.to_string(),
        Err(error) => format!("could not be waited for: {error}"),
    }
}

#[cfg(target_os = "linux")]
fn die_with_this_thread(command: &mut Command) {
    let parent = rustix::process::getpid();
    let prepare = move || {
        // The supervisor blocks the signals that it waits for; a node must get its own.
        // SAFETY: `set` is initialised by `sigemptyset` before it is used.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
        }
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // If the supervisor ended before the line above, nobody will send that signal.
        if rustix::process::getppid() != Some(parent) {
            return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes plain system calls only: no allocation, no locks.
    unsafe { command.pre_exec(prepare) };
}

#[cfg(not(target_os = "linux"))]
fn die_with_this_thread(_: &mut Command) {}
