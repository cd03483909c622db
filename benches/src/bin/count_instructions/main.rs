//! Counts the instructions that a launcher and its child execute in user space, from the launcher's first
//! to the workload's exec, by executing them one at a time ([ptrace(2)], `PTRACE_SINGLESTEP`).
//!
//! Unlike valgrind this executes the program itself: every system call is the kernel's own, Landlock's and
//! a `clone3` that shares memory included. Unlike a counter of the CPU it is there in every guest.
//!
//! Arguments: two FIFOs. A process that writes its pid to the first and waits for the second is traced
//! from then on; its next exec is the launcher's. Prints the number, and then the addresses in the launcher's
//! file that were executed or read, as nm(1) writes them, in the order in which they first were. What the
//! kernel reads there is not seen.
//!
//! [ptrace(2)]: https://man7.org/linux/man-pages/man2/ptrace.2.html

#[cfg(target_arch = "x86_64")]
mod steps;

#[cfg(not(target_arch = "x86_64"))]
fn main() -> std::process::ExitCode {
    eprintln!("count-instructions: it knows the instructions of x86_64 alone");
    std::process::ExitCode::FAILURE
}

#[cfg(target_arch = "x86_64")]
fn main() -> std::process::ExitCode {
    use std::fmt::Write as _;
    use std::process::ExitCode;

    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let counted = match &arguments[..] {
        [tells, waits] => traced(tells, waits),
        _ => Err("two FIFOs are wanted".into()),
    };
    match counted {
        Ok(steps::Counted { instructions, addresses, .. }) => {
            let mut text = format!("{instructions}\n");
            for address in addresses {
                let _ = writeln!(text, "{address:016x}");
            }
            print!("{text}");
        }
        Err(error) => {
            eprintln!("count-instructions: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

#[cfg(target_arch = "x86_64")]
fn traced(tells: &str, waits: &str) -> Result<steps::Counted, Box<dyn std::error::Error>> {
    use std::fs;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    let pid = Pid::from_raw(fs::read_to_string(tells)?.trim().parse()?);
    let counted = steps::count(pid, || fs::write(waits, "\n"));
    if counted.is_err() {
        // It waits for a tracer that does not come.
        let _ = kill(pid, Signal::SIGKILL);
    }
    counted
}
