//! A launch in words, before it is made.

use std::io::{self, Write};

use portcullis_core::lowering::Lowered;
use portcullis_core::plan::LaunchPlan;
use portcullis_core::schedule::Schedule;

/// Of sched.h: with clone3 alone, for the older calls have their exit signal there.
const CLONE_NEWTIME: i32 = 0x80;

/// Writes what `plan` asks for, what is scheduled for it, and what the child will do.
///
/// # Errors
///
/// Those of `out`.
pub(crate) fn write(
    out: &mut impl Write,
    plan: &LaunchPlan,
    schedule: &Schedule<'_>,
    lowered: &Lowered,
    in_place: bool,
) -> io::Result<()> {
    let body = plan.body();
    writeln!(out, "plan: version {}, h_l {}", plan.version(), body.h_l)?;
    writeln!(out, "  argv {:?}", body.target.argv)?;
    for (name, value) in &body.target.envp {
        writeln!(out, "  env  {name:?}={value:?}")?;
    }
    for slot in &body.descriptor_table {
        let shape = slot.expected;
        let writable = if shape.writable { ", writable" } else { "" };
        writeln!(out, "  fd {:<3} {:?}: {:?}{writable}", slot.slot_index, slot.role, shape.kind)?;
    }
    writeln!(out, "schedule:")?;
    for it in schedule.entries() {
        let declared = it.mechanism.declaration();
        writeln!(out, "  {} {:<18} {}", declared.phase.code(), declared.phase, declared.id)?;
        if !it.entry.params.is_empty() {
            let params = serde_json::to_string(&it.entry.params).map_err(io::Error::other)?;
            writeln!(out, "    {params}")?;
        }
    }
    let clone = lowered.clone;
    writeln!(out, "{}:", if in_place { "unshare" } else { "clone3" })?;
    for (flag, name) in [
        (libc::CLONE_NEWUSER, "CLONE_NEWUSER"),
        (libc::CLONE_NEWNET, "CLONE_NEWNET"),
        (libc::CLONE_NEWNS, "CLONE_NEWNS"),
        (libc::CLONE_NEWPID, "CLONE_NEWPID"),
        (libc::CLONE_NEWIPC, "CLONE_NEWIPC"),
        (libc::CLONE_NEWUTS, "CLONE_NEWUTS"),
        (libc::CLONE_NEWCGROUP, "CLONE_NEWCGROUP"),
        (CLONE_NEWTIME, "CLONE_NEWTIME"),
    ] {
        if clone.namespaces & u64::from(flag.unsigned_abs()) != 0 {
            writeln!(out, "  {name}")?;
        }
    }
    if let Some(fd) = clone.cgroup {
        writeln!(out, "  into the cgroup of fd {fd}")?;
    }
    writeln!(
        out,
        "  {}",
        if in_place {
            "the launcher itself becomes the workload"
        } else if clone.rendezvous {
            "the child waits to be released"
        } else {
            "the launcher waits for the exec"
        }
    )?;
    writeln!(out, "program:")?;
    for (place, (owner, op)) in lowered.program.ops().iter().enumerate() {
        let whose = schedule.id_of(*owner);
        writeln!(out, "  {place:<3} {whose:<25} {op}")?;
    }
    Ok(())
}
