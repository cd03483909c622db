//! What processes share without a file: System V IPC, POSIX message queues, keys.

use std::ffi::CString;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use rustix::io::Errno;

use crate::attempt::{Failure, escapes};
use crate::sys::{call, owned};

fn text(bytes: &[u8], length: i64) -> String {
    let length = usize::try_from(length).unwrap_or(0).min(bytes.len());
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

escapes! { "ipc":
    /// Reads System V shared memory that was made outside.
    fn shared_memory(at) {
        let address = call!(libc::SYS_shmat, at.number::<i32>("shm")?, 0, libc::SHM_RDONLY)?;
        let address = u64::try_from(address).map_err(|_| Errno::FAULT)?;
        let mut bytes = [0; 36];
        File::open("/proc/self/mem")?.read_exact_at(&mut bytes, address)?;
        Ok(text(&bytes, 36))
    }

    /// Takes a message from a System V queue that was made outside.
    fn message_queue(at) {
        let mut message = [0; 8 + 64];
        let queue = at.number::<i32>("msg")?;
        let length = call!(libc::SYS_msgrcv, queue, &mut message, 64, 0, libc::IPC_NOWAIT)?;
        Ok(text(&message[8..], length))
    }

    /// Sets a System V semaphore that was made outside.
    fn semaphore(at) {
        call!(libc::SYS_semctl, at.number::<i32>("sem")?, 0, libc::SETVAL, 7)?;
        Ok("7".into())
    }

    /// Takes a message from a POSIX queue that was made outside.
    fn posix_queue(at) {
        // The system call takes the name without the slash that the C library strips.
        let unusable = |_| Failure::Unavailable("no name".into());
        let name = CString::new(at.text("queue")?).map_err(unusable)?;
        let flags = libc::O_RDONLY | libc::O_NONBLOCK;
        let queue = owned(call!(libc::SYS_mq_open, name.as_c_str(), flags, 0, 0)?)?;
        let mut message = [0; 64];
        let length = call!(libc::SYS_mq_timedreceive, &queue, &mut message, 64, 0, 0)?;
        Ok(text(&message, length))
    }

    /// Reads a key of the kernel's that was made outside.
    fn read_key(at) {
        let mut payload = [0; 64];
        let key = at.number::<i32>("key")?;
        let length = call!(libc::SYS_keyctl, libc::KEYCTL_READ, key, &mut payload, 64)?;
        Ok(text(&payload, length))
    }

    /// Leaves a key in the user's keyring.
    fn add_key(_) {
        let ring = libc::KEY_SPEC_USER_KEYRING;
        let key = call!(libc::SYS_add_key, c"user", c"portcullis-escape", b"escaped", 7, ring)?;
        call!(libc::SYS_keyctl, libc::KEYCTL_INVALIDATE, key)?;
        Ok(format!("key {key}"))
    }

    /// Looks for a key in the keyrings that it inherited.
    fn session_keyring(_) {
        let ring = libc::KEY_SPEC_SESSION_KEYRING;
        let serial = call!(libc::SYS_keyctl, libc::KEYCTL_GET_KEYRING_ID, ring, 0)?;
        Ok(format!("keyring {serial}"))
    }
}
