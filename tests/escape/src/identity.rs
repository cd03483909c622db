//! Becoming somebody, and being able to more.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::attempt::{Attempt, Failure, escapes};
use crate::sys::call;

const NOBODY: u32 = 65534;

fn effective() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.unwrap_or_default().trim().to_owned()
}

/// Who this process is.
pub(crate) fn own() -> Value {
    json!({
        "uid": rustix::process::geteuid().as_raw(),
        "gid": rustix::process::getegid().as_raw(),
        "capabilities": effective(),
    })
}

/// What a program that is executed says of itself, where `gained` finds it more than it was.
fn executed(program: PathBuf, gained: impl Fn(&Value) -> bool) -> Attempt {
    if !program.exists() {
        return Err(Failure::Unavailable("only root makes such a program".into()));
    }
    let output = Command::new(program).arg("--identity").stdin(Stdio::inherit()).output()?;
    let said: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::NoEffect(format!("{}: {error}", output.status)))?;
    if gained(&said) { Ok(said.to_string()) } else { Err(Failure::NoEffect(said.to_string())) }
}

fn capable(said: &Value) -> bool {
    said["capabilities"].as_str().is_some_and(|set| set.bytes().any(|digit| digit != b'0'))
}

escapes! { "identity":
    /// Executes a set-user-ID program.
    fn set_user_id(at) {
        executed(at.program("set-user-id")?, |said| said["uid"] == NOBODY)
    }

    /// Executes a set-group-ID program.
    fn set_group_id(at) {
        executed(at.program("set-group-id")?, |said| said["gid"] == NOBODY)
    }

    /// Executes a program that has capabilities, as a user that has none.
    fn file_capabilities(at) {
        // Root has them anyway; where this is not allowed the program runs as who it is.
        let _ = call!(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY);
        executed(at.program("capable")?, capable)
    }

    /// Executes a program as uid 0, to which the kernel gives every capability.
    fn capabilities_of_root(at) {
        executed(at.program("escape")?, capable)
    }

    /// Uses the capabilities that it has.
    fn capabilities(_) {
        let own = own();
        if capable(&own) { Ok(own.to_string()) } else { Err(Failure::NoEffect(own.to_string())) }
    }

    /// Raises a capability.
    fn raise_capability(_) {
        const VERSION_3: u32 = 0x2008_0522;
        const SYS_ADMIN: u32 = 1 << 21;
        let header: Vec<u8> = [VERSION_3, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        let sets = [SYS_ADMIN, SYS_ADMIN, 0, 0, 0, 0];
        let sets: Vec<u8> = sets.into_iter().flat_map(u32::to_ne_bytes).collect();
        call!(libc::SYS_capset, header.as_slice(), sets.as_slice())?;
        Ok(effective())
    }

    /// Becomes another user.
    fn change_user(_) {
        call!(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY)?;
        Ok("nobody".into())
    }

    /// Becomes of another group.
    fn change_group(_) {
        call!(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY)?;
        Ok("nobody".into())
    }

    /// Chooses its supplementary groups.
    fn change_groups(_) {
        call!(libc::SYS_setgroups, 1, &NOBODY.to_ne_bytes())?;
        Ok("nobody".into())
    }
}
