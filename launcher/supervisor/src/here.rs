//! This process becomes the program.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::rc::Rc;

use portcullis_core::plan::LaunchPlan;
use portcullis_core::transcript::Transcript;
use portcullis_launcher::here::{Here, NotHere, become_workload};

use crate::error::Error;
use crate::plan::Opened;
use crate::report::{Remark, Report};
use crate::stdio::{Stdio, Streams};

/// Becomes what was `opened`, in `directory` and with `stdio`, or says why not. `handled` are the signals that
/// this process may handle, where that is known. Where there is no way back, `failed` is told and names the status to
/// end with.
pub(crate) fn become_it(
    opened: Opened,
    directory: Option<&OwnedFd>,
    stdio: &[Option<Stdio>; 3],
    handled: Option<&[i32]>,
    failed: &dyn Fn(&Error) -> u8,
) -> Result<Infallible, Error> {
    let streams = Streams::open(stdio, &Stdio::INHERITED)?;
    let place = |(fd, at)| (fd, RawFd::try_from(at).unwrap_or(RawFd::MAX));
    let Opened { body, slots, left_out, registry } = opened;
    let left_out = &left_out[..];
    let not_here = become_workload(&Here {
        plan: Rc::new(LaunchPlan::own(body)?),
        registry: &registry,
        slots: &slots,
        stdio: streams.placed().map(place).collect(),
        directory: directory.map(AsFd::as_fd),
        handled,
        failed: &|transcript| failed(&told(left_out, transcript)),
    });
    Err(match not_here {
        NotHere::NeedsLauncher(why) => Error::NeedsLauncher { why },
        NotHere::Stopped(transcript) => told(left_out, &transcript),
    })
}

/// What the transcript of a launch that stopped tells.
fn told(left_out: &[Remark], transcript: &[u8]) -> Error {
    match Transcript::parse(transcript) {
        Ok(transcript) => {
            let mut report = Report::of(transcript);
            report.missing.extend_from_slice(left_out);
            let silent = || Error::Answer("the transcript has no end".into());
            Error::stopped(report).unwrap_or_else(silent)
        }
        Err(error) => error.into(),
    }
}
