//! `portcullis run --each-line`: a run for each line of standard input, several at once.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead as _, IsTerminal as _};
use std::num::NonZeroUsize;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use portcullis::{Command, Error, Output, Resident, Stdio, Template};
use rustix::fs::FileType;

use crate::report::Reporting;
use crate::{OWN_FAILURE, complain};

/// A run failed: the convention of xargs(1).
const SOME_FAILED: u8 = 123;
/// What a line takes the place of.
const PLACE: &[u8] = b"{}";

/// Whether there is a run for each line, and how many at once.
#[derive(Debug, Default, PartialEq, Args)]
pub(crate) struct EachLine {
    /// Run PROGRAM once for each line of standard input: the line takes the place of each {} in ARGS, or is
    /// the last argument where there is none. Empty lines are passed over. Each run has /dev/null as its
    /// standard input. Exits with 123 when a run failed, and with 125 when one could not be made.
    #[arg(long, conflicts_with_all = ["explain", "report_file"])]
    each_line: bool,
    /// How many runs are made at once; as many as there are CPUs unless set.
    #[arg(long, value_name = "N", requires = "each_line")]
    jobs: Option<NonZeroUsize>,
}

impl EachLine {
    pub(crate) fn is_wanted(&self) -> bool {
        self.each_line
    }

    /// Makes the runs.
    ///
    /// # Errors
    ///
    /// What kept the first of them from being made.
    pub(crate) fn run(
        &self,
        command: &Command,
        arguments: &[OsString],
        reporting: &Reporting,
    ) -> Result<ExitCode, Error> {
        let template = command.template()?;
        let cpus = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let jobs = self.jobs.map_or(cpus, NonZeroUsize::get);
        // One sets up one launch at a time: as many as can do so at once.
        let residents = (0..jobs.min(cpus)).map(|_| template.resident());
        let residents = residents.collect::<Result<Vec<_>, _>>()?;
        let (tally, progress) = (Tally::default(), progress());
        let runs = Runs { template, arguments, reporting, tally, progress };
        thread::scope(|scope| {
            for resident in residents.iter().cycle().take(jobs) {
                scope.spawn(|| runs.work(resident));
            }
        });
        runs.progress.finish_and_clear();
        complain(&runs.tally.words());
        Ok(runs.tally.code())
    }
}

/// What the threads that make the runs share.
struct Runs<'r> {
    template: Template,
    arguments: &'r [OsString],
    reporting: &'r Reporting,
    tally: Tally,
    progress: ProgressBar,
}

impl Runs<'_> {
    /// Makes a run for each line that no other thread has taken.
    fn work(&self, resident: &Resident) {
        while let Some(line) = self.next_line() {
            match self.make(resident, &line) {
                Ok(true) => self.tally.count(&self.tally.succeeded),
                Ok(false) => self.tally.count(&self.tally.failed),
                Err(error) => {
                    self.tally.count(&self.tally.not_made);
                    self.aloud(|| {
                        complain(&format_args!("{line:?}: {error}"));
                        if let Some(report) = error.report() {
                            self.reporting.tell(report);
                        }
                    });
                    // There is nobody left to make another.
                    if matches!(error, Error::LauncherEnded { .. }) {
                        self.tally.stop();
                    }
                }
            }
            self.progress.set_message(self.tally.words());
            self.progress.inc(line.len() as u64 + 1);
        }
    }

    /// Makes a run, and says whether its status was zero.
    fn make(&self, resident: &Resident, line: &OsStr) -> Result<bool, Error> {
        let template = self.template.with_arguments(with(self.arguments, line))?;
        let stdio = [Stdio::null(), Stdio::inherit(), Stdio::inherit()];
        let Output { status, report, .. } = resident.output_with(&template, stdio)?;
        self.aloud(|| self.reporting.tell(&report));
        Ok(status.success())
    }

    /// Says something on standard error that the progress, and what other threads say, is not to mix with.
    fn aloud(&self, say: impl FnOnce()) {
        static SAYING: Mutex<()> = Mutex::new(());
        let _one = SAYING.lock();
        self.progress.suspend(say);
    }

    fn next_line(&self) -> Option<OsString> {
        let mut line = Vec::new();
        let mut input = io::stdin().lock();
        while !self.tally.is_stopped() {
            line.clear();
            match input.read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => {
                    complain(&format_args!("reading standard input: {error}"));
                    self.tally.count(&self.tally.not_made);
                    self.tally.stop();
                    return None;
                }
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            if !line.is_empty() {
                return Some(OsString::from_vec(line));
            }
            self.progress.inc(1);
        }
        None
    }
}

/// How many runs went how.
#[derive(Default)]
struct Tally {
    succeeded: AtomicUsize,
    failed: AtomicUsize,
    not_made: AtomicUsize,
    /// Not zero when no more runs are to be made.
    stopped: AtomicUsize,
}

impl Tally {
    #[allow(clippy::unused_self, reason = "the counter is one of this tally's")]
    fn count(&self, counter: &AtomicUsize) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn stop(&self) {
        self.stopped.store(1, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) != 0
    }

    fn counts(&self) -> [usize; 3] {
        [&self.succeeded, &self.failed, &self.not_made].map(|it| it.load(Ordering::Relaxed))
    }

    fn words(&self) -> String {
        let [succeeded, failed, not_made] = self.counts();
        format!("{succeeded} succeeded, {failed} failed, {not_made} not made")
    }

    fn code(&self) -> ExitCode {
        match self.counts() {
            [_, 0, 0] => ExitCode::SUCCESS,
            [_, _, 0] => SOME_FAILED.into(),
            _ => OWN_FAILURE.into(),
        }
    }
}

/// The arguments of the run for a line.
fn with(arguments: &[OsString], line: &OsStr) -> Vec<OsString> {
    let mut has_place = false;
    let mut with: Vec<_> = arguments
        .iter()
        .map(|argument| {
            let (mut rest, mut whole) = (argument.as_bytes(), Vec::new());
            while let Some(at) = rest.windows(PLACE.len()).position(|it| it == PLACE) {
                has_place = true;
                whole.extend_from_slice(&rest[..at]);
                whole.extend_from_slice(line.as_bytes());
                rest = &rest[at + PLACE.len()..];
            }
            whole.extend_from_slice(rest);
            OsString::from_vec(whole)
        })
        .collect();
    if !has_place {
        with.push(line.to_owned());
    }
    with
}

/// How far the runs are, where there is a terminal to see it on.
fn progress() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let length = length_of_input();
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
    let words = match length {
        Some(_) => "{bar:30} {percent:>3} % {elapsed} {msg}",
        None => "{spinner} {elapsed} {msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(words) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// How many bytes standard input has; `None` where it is no file, and has no end that is known.
fn length_of_input() -> Option<u64> {
    let input = io::stdin();
    let stat = rustix::fs::fstat(&input).ok()?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let read = is_file.then(|| rustix::fs::tell(&input).ok()).flatten()?;
    u64::try_from(stat.st_size).ok()?.checked_sub(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &[&str], line: &str) -> Vec<OsString> {
        let arguments: Vec<OsString> = text.iter().map(Into::into).collect();
        with(&arguments, line.as_ref())
    }

    #[test]
    fn a_line_takes_its_places_or_comes_last() {
        assert_eq!(arguments(&[], "x"), ["x"]);
        assert_eq!(arguments(&["-v", "--"], "a b"), ["-v", "--", "a b"]);
        assert_eq!(arguments(&["{}.in", "-o", "{}-{}"], "x"), ["x.in", "-o", "x-x"]);
        // A line's own braces are text.
        assert_eq!(arguments(&["{}"], "{}"), ["{}"]);
    }
}
