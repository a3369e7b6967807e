//! Ctrl-C and its like, as an input of the supervisor's loop.

use std::sync::mpsc::Sender;

use super::LocalError;
use super::input::Input;

/// Signals that end the cluster.
const ENDING: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Blocks the ending signals in this thread and all that it starts later, and passes the first to the loop.
pub fn pass_on(inputs: Sender<Input>) -> Result<(), LocalError> {
    // SAFETY: the set is initialised by `sigemptyset` before any other use, and outlives the calls.
    let set = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in ENDING {
            libc::sigaddset(&mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        set
    };
    let wait = move || {
        let mut signal = 0;
        // SAFETY: both pointers are to live locals of the right type.
        while unsafe { libc::sigwait(&set, &mut signal) } == 0 {
            if inputs.send(Input::Ending(signal)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map_err(LocalError::io("a thread"))?;
    Ok(())
}
