//! A terminal of a test's own.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// The two ends of a new pseudo-terminal (pty(7)): the one that a program has, and the one behind it.
pub fn terminal() -> (File, OwnedFd) {
    let behind = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&behind).and_then(|()| unlockpt(&behind)).unwrap();
    let name = ptsname(&behind, Vec::new()).unwrap();
    let terminal = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (terminal, behind)
}
