//! The terminal that is shared with whoever started the program. It is the standard input here.

use std::fs::OpenOptions;
use std::io::Write as _;

use crate::attempt::{Failure, escapes};
use crate::sys::call;

/// Of asm-generic/ioctls.h, as their types differ among C libraries.
const TIOCSCTTY: u32 = 0x540e;
const TIOCSTI: u32 = 0x5412;

/// Becomes the session's leader, where it is not, with the terminal for its own: what is typed into a
/// terminal may be so by processes of its session alone.
fn take() -> Result<(), Failure> {
    let _ = call!(libc::SYS_setsid);
    let taken = call!(libc::SYS_ioctl, 0, TIOCSCTTY, 0).map(drop);
    taken.map_err(|errno| Failure::NoEffect(format!("the terminal is not to be had: {errno}")))
}

escapes! { "terminal":
    /// Types into the terminal, as if at the keyboard (TIOCSTI).
    fn type_into_terminal(at) {
        take()?;
        for letter in at.text("typed")?.bytes() {
            call!(libc::SYS_ioctl, 0, TIOCSTI, &[letter])?;
        }
        Ok("typed".into())
    }

    /// Types into the terminal by a request whose upper half, which the kernel ignores, is not zero.
    fn type_with_high_bits(at) {
        take()?;
        for letter in at.text("typed")?.bytes() {
            call!(libc::SYS_ioctl, 0, 1 << 32 | u64::from(TIOCSTI), &[letter])?;
        }
        Ok("typed".into())
    }

    /// Pastes into a virtual console (TIOCLINUX).
    fn paste_into_console(_) {
        const TIOCLINUX: u32 = 0x541c;
        const PASTE: [u8; 1] = [3];
        match call!(libc::SYS_ioctl, 0, TIOCLINUX, &PASTE) {
            Err(rustix::io::Errno::NOTTY) => Err(Failure::Unavailable("no virtual console".into())),
            other => Ok(format!("{}", other?)),
        }
    }

    /// Opens the controlling terminal by /dev/tty, and writes there.
    fn open_terminal(at) {
        take()?;
        let mut terminal = OpenOptions::new().write(true).open("/dev/tty")?;
        terminal.write_all(at.text("typed")?.as_bytes())?;
        Ok("written".into())
    }

    /// Writes to the terminal that is its standard input.
    fn write_to_terminal(at) {
        let text = at.text("typed")?.as_bytes();
        call!(libc::SYS_write, 0, text, text.len())?;
        Ok("written".into())
    }
}
