//! The process outside, which nothing confines: it has what the escapes are after, and tells what became of
//! it. Ends with its standard input, and removes what would outlive it.

use std::ffi::CString;
use std::fs::File;
use std::io::{BufRead as _, stdin};
use std::os::fd::AsRawFd as _;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::json;

use crate::sys::{call, owned};

/// Of linux/ioprio.h.
const WHO_PROCESS: i32 = 1;

static MEMORY: [AtomicU8; 64] = [const { AtomicU8::new(0) }; 64];
static TOKEN: OnceLock<String> = OnceLock::new();

/// Holds `token` in memory, in IPC of every kind and as a key, and the file `secret` open.
pub(crate) fn run(token: &str) -> ExitCode {
    let token = TOKEN.get_or_init(|| token.to_owned());
    for (byte, letter) in MEMORY.iter().zip(token.bytes()) {
        byte.store(letter, Ordering::Relaxed);
    }
    // A signal that arrives stays to be seen.
    let mask = (1_u64 << (libc::SIGUSR1 - 1)).to_ne_bytes();
    let _ = call!(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &mask, 0, 8);
    let secret = File::open("secret").ok();
    let (shm, sem, msg) = (shared_memory(token), semaphore(), message_queue(token));
    let queue = posix_queue(token);
    let key = key(token);
    let line = json!({
        "address": MEMORY.as_ptr().expose_provenance(),
        "fd": secret.as_ref().map(std::os::fd::AsRawFd::as_raw_fd),
        "shm": shm, "sem": sem, "msg": msg, "queue": queue, "key": key,
    });
    println!("{line}");
    while stdin().lock().read_line(&mut String::new()).is_ok_and(|length| length > 0) {
        let memory: Vec<u8> =
            MEMORY[..36].iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
        let semaphore = sem.and_then(|sem| call!(libc::SYS_semctl, sem, 0, libc::GETVAL, 0).ok());
        let io_priority = call!(libc::SYS_ioprio_get, WHO_PROCESS, 0).ok();
        let memory = String::from_utf8_lossy(&memory);
        let state = json!({"memory": memory, "semaphore": semaphore, "io-priority": io_priority});
        println!("{state}");
    }
    let remove = |kind: i64, id: Option<i64>, command: [i32; 2]| {
        let _ = id.map(|id| call!(kind, id, command[0], command[1], 0));
    };
    remove(libc::SYS_shmctl, shm, [libc::IPC_RMID, 0]);
    remove(libc::SYS_msgctl, msg, [libc::IPC_RMID, 0]);
    remove(libc::SYS_semctl, sem, [0, libc::IPC_RMID]);
    if let Some(name) = queue.and_then(|name| CString::new(name).ok()) {
        let _ = call!(libc::SYS_mq_unlink, name.as_c_str());
    }
    let _ = key.map(|key| call!(libc::SYS_keyctl, libc::KEYCTL_INVALIDATE, key));
    ExitCode::SUCCESS
}

fn shared_memory(token: &str) -> Option<i64> {
    let id = call!(libc::SYS_shmget, libc::IPC_PRIVATE, 4096, libc::IPC_CREAT | 0o600).ok()?;
    let address = call!(libc::SYS_shmat, id, 0, 0).ok()?;
    let address = u64::try_from(address).ok()?;
    let own = File::options().write(true).open("/proc/self/mem").ok()?;
    std::os::unix::fs::FileExt::write_all_at(&own, token.as_bytes(), address).ok()?;
    Some(id)
}

fn semaphore() -> Option<i64> {
    call!(libc::SYS_semget, libc::IPC_PRIVATE, 1, libc::IPC_CREAT | 0o600).ok()
}

fn message_queue(token: &str) -> Option<i64> {
    let id = call!(libc::SYS_msgget, libc::IPC_PRIVATE, libc::IPC_CREAT | 0o600).ok()?;
    let message = [&1_i64.to_ne_bytes()[..], token.as_bytes()].concat();
    call!(libc::SYS_msgsnd, id, message.as_slice(), token.len(), 0).ok()?;
    Some(id)
}

fn posix_queue(token: &str) -> Option<String> {
    let name = format!("portcullis-{}", std::process::id());
    // mq_attr: flags, longest queue, longest message, length; then room.
    let attributes: Vec<u8> =
        [0, 1, 64, 0, 0, 0, 0, 0].into_iter().flat_map(i64::to_ne_bytes).collect();
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let path = CString::new(name.as_str()).ok()?;
    let queue =
        call!(libc::SYS_mq_open, path.as_c_str(), flags, 0o600, attributes.as_slice()).ok()?;
    let queue = owned(queue).ok()?;
    call!(libc::SYS_mq_timedsend, queue.as_raw_fd(), token.as_bytes(), token.len(), 0, 0).ok()?;
    Some(name)
}

/// A key of the user's keyring that all of the user's processes may view and read.
fn key(token: &str) -> Option<i64> {
    const ALL_OF_POSSESSOR_VIEW_AND_READ_OF_USER: i32 = 0x3f03_0000;
    let ring = libc::KEY_SPEC_USER_KEYRING;
    let name = CString::new(format!("portcullis-{}", std::process::id())).ok()?;
    let (payload, length) = (token.as_bytes(), token.len());
    let key = call!(libc::SYS_add_key, c"user", name.as_c_str(), payload, length, ring).ok()?;
    let permissions = ALL_OF_POSSESSOR_VIEW_AND_READ_OF_USER;
    call!(libc::SYS_keyctl, libc::KEYCTL_SETPERM, key, permissions).ok()?;
    Some(key)
}
