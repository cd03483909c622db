//! What this kernel, for this user, can do: each mechanism tries itself out in a child.

use portcullis_child::CloneOptions;
use portcullis_core::lowering::{Lowered, Lowering};
use portcullis_core::mechanism::{Declaration, Host, Rehearsal, Stop, Support};
use portcullis_core::plan::Target;
use portcullis_core::program::Op;
use portcullis_core::registry::Registry;
use rustix::io::Errno;
use serde::Serialize;

use crate::process::{self, Progress};
use crate::{FAULTED, complain, print};

struct ThisHost;

impl Host for ThisHost {
    fn rehearse(&self, lower: &mut Rehearsal<'_>) -> Result<(), Stop> {
        let target = Target::default();
        let mut lowering = Lowering::new(&target, &[]);
        lower(&mut lowering)?;
        let Lowered { program, clone, .. } = lowering.finish(vec![Op::empty_signal_mask()]);
        let options = CloneOptions {
            namespaces: clone.namespaces,
            cgroup: clone.cgroup,
            ..CloneOptions::default()
        };
        let mut child = process::spawn(program, None, options)
            .map_err(|error| Stop::fault(format!("clone3: {error}")))?;
        child.wait().map_err(|error| Stop::fault(format!("waiting for a child: {error}")))?;
        match child.progress() {
            Progress::Complete => Ok(()),
            Progress::Stopped { step } => {
                let op = &child.program().ops()[step].1;
                Err(Stop::fault(format!("the child ended at {op}")))
            }
            Progress::Failed { step, errno } => {
                let op = &child.program().ops()[step].1;
                let errno = Errno::from_raw_os_error(errno);
                Err(Stop::fault(format!("{op} failed: {errno}")))
            }
        }
    }
}

/// What is said of a mechanism: its declaration, and whether this host supports it.
#[derive(Serialize)]
struct Described {
    #[serde(flatten)]
    declaration: &'static Declaration,
    phase_code: u32,
    decl_digest: String,
    #[serde(flatten)]
    support: Support,
}

/// The registered mechanisms, each tried out in a child, as a JSON array.
///
/// ```
/// # use portcullis_mechanisms as _;
/// assert!(portcullis_launcher::mechanisms()?.contains("linux.exec.v1"));
/// # Ok::<(), String>(())
/// ```
///
/// # Errors
///
/// Two mechanisms of one id are linked in, and which.
pub fn mechanisms() -> Result<String, String> {
    let registry = Registry::collect().map_err(|error| error.to_string())?;
    let described: Vec<_> = registry
        .iter()
        .map(|mechanism| {
            let declaration = mechanism.declaration();
            Described {
                declaration,
                phase_code: declaration.phase.code(),
                decl_digest: declaration.digest().to_string(),
                support: mechanism.probe(&ThisHost),
            }
        })
        .collect();
    serde_json::to_string_pretty(&described).map_err(|error| error.to_string())
}

/// Prints them.
// Inlined, its frame would be that of every launcher.
#[inline(never)]
pub(crate) fn describe() -> u8 {
    match mechanisms() {
        Ok(text) => print(&text),
        Err(error) => {
            complain(&error);
            FAULTED
        }
    }
}
