//! Signals that are sent to portcullis reach the program.

use std::io;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{
    SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::emulate_default_handler;
use signal_hook::low_level::siginfo::{Cause, Origin};

/// What reaches the program when it is sent to portcullis.
const FORWARDED: &[i32] =
    &[SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGUSR1, SIGUSR2, SIGWINCH];

/// Has this process handle them, and SIGCHLD, for a parent's ignoring it to end: children of who ignores
/// it can't be waited for.
///
/// What was ignored when this process started stays so, and the program ignores it too, as under nohup(1).
pub(crate) fn take() -> io::Result<SignalsInfo<WithOrigin>> {
    let ignored = ignored();
    let heeded = FORWARDED.iter().filter(|signal| ignored >> (**signal - 1) & 1 == 0);
    SignalsInfo::new(heeded.chain(&[SIGCHLD]))
}

/// A bit for each signal that this process ignores
/// ([proc_pid_status(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html)).
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Hands on to the launcher, and so to the program, each signal that another process sends to this
/// one. What the terminal sends it sends to the program itself, and a second one would be one too many, but
/// where `kernels_too` says that the program has no terminal.
pub(crate) fn forward(mut signals: SignalsInfo<WithOrigin>, launcher: u32, kernels_too: bool) {
    thread::spawn(move || {
        for Origin { signal, cause, .. } in signals.forever() {
            if signal == SIGCHLD {
                continue;
            }
            let pid = i32::try_from(launcher).ok().and_then(Pid::from_raw);
            let forwarded = kernels_too || matches!(cause, Cause::Sent(_));
            if let (true, Some(pid), Some(signal)) =
                (forwarded, pid, Signal::from_named_raw(signal))
            {
                // One that has ended needs no signal any more.
                let _ = kill_process(pid, signal);
            }
            if signal == SIGTSTP {
                // The shell that waits for this process is to see that it stopped.
                let _ = emulate_default_handler(SIGTSTP);
            }
        }
    });
}
