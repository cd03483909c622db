//! This process becomes the program.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use portcullis_core::transcript::Transcript;
use portcullis_launcher::here::{Here, NotHere, become_workload};

use crate::error::Error;
use crate::plan::Plan;
use crate::report::Report;
use crate::stdio::{Stdio, Streams};

/// Becomes what `plan` says, in `directory` and with `stdio`, or says why not. Where there is no way back,
/// `failed` is told and names the status to end with.
pub(crate) fn become_it(
    plan: &Plan<Vec<u8>>,
    directory: Option<&OwnedFd>,
    stdio: &[Option<Stdio>; 3],
    failed: &dyn Fn(&Error) -> u8,
) -> Result<Infallible, Error> {
    let streams = Streams::open(stdio, &Stdio::INHERITED)?;
    let place = |(fd, at)| (fd, RawFd::try_from(at).unwrap_or(RawFd::MAX));
    let not_here = become_workload(&Here {
        plan: &plan.frame,
        slots: &plan.slots,
        stdio: streams.placed().map(place).collect(),
        directory: directory.map(AsFd::as_fd),
        failed: &|transcript| failed(&told(plan, transcript)),
    });
    Err(match not_here {
        NotHere::NeedsLauncher(why) => Error::NeedsLauncher { why },
        NotHere::Stopped(transcript) => told(plan, &transcript),
    })
}

/// What the transcript of a launch that stopped tells.
fn told(plan: &Plan<Vec<u8>>, transcript: &[u8]) -> Error {
    match Transcript::parse(transcript) {
        Ok(transcript) => {
            let mut report = Report::of(transcript);
            report.missing.extend_from_slice(&plan.left_out);
            let silent = || Error::Answer("the transcript has no end".into());
            Error::stopped(report).unwrap_or_else(silent)
        }
        Err(error) => error.into(),
    }
}
