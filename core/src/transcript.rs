//! The transcript: a line for each state, notes that start with `# `.

use std::io::{self, Write};

use crate::state::{LauncherState, UnknownName};

/// Writes a transcript, and refuses to write one that breaks the protocol.
///
/// Lines are gathered and go out with [`flush`](Self::flush), which the launcher calls before each
/// step that may block, so that a reader is never behind by more than the step that runs.
///
/// ```
/// use portcullis_core::state::LauncherState;
/// use portcullis_core::transcript::TranscriptWriter;
///
/// let mut out = Vec::new();
/// let mut transcript = TranscriptWriter::new(&mut out);
/// transcript.state(LauncherState::LauncherStarted);
/// transcript.note("hello");
/// transcript.flush().unwrap();
/// assert_eq!(out, b"LauncherStarted\n# hello\n");
/// ```
#[derive(Debug)]
pub struct TranscriptWriter<W> {
    out: W,
    pending: Vec<u8>,
    last: Option<LauncherState>,
}

impl<W: Write> TranscriptWriter<W> {
    /// A transcript that has yet to begin.
    pub fn new(out: W) -> Self {
        Self { out, pending: Vec::with_capacity(1024), last: None }
    }

    /// Adds a state.
    ///
    /// # Panics
    ///
    /// Where the protocol does not allow the state here: the launcher's own mistake, which must not
    /// reach a supervisor as a transcript.
    pub fn state(&mut self, state: LauncherState) {
        let allowed = match self.last {
            None => state == LauncherState::LauncherStarted,
            Some(last) => last.may_precede(state),
        };
        assert!(allowed, "{state} can't follow {:?}", self.last);
        self.last = Some(state);
        self.pending.extend_from_slice(state.name().as_bytes());
        self.pending.push(b'\n');
    }

    /// Adds a note; line breaks in it become spaces, so that no note can pass for a state.
    pub fn note(&mut self, text: &str) {
        self.note_of(&[text]);
    }

    /// Adds a note that consists of these parts.
    ///
    /// ```
    /// use portcullis_core::transcript::TranscriptWriter;
    ///
    /// let mut transcript = TranscriptWriter::new(Vec::new());
    /// transcript.note_of(&["refusal=", "PlanInvalid"]);
    /// assert_eq!(transcript.take_text(), b"# refusal=PlanInvalid\n");
    /// ```
    pub fn note_of(&mut self, parts: &[&str]) {
        self.pending.extend_from_slice(b"# ");
        for part in parts {
            let start = self.pending.len();
            self.pending.extend_from_slice(part.as_bytes());
            blank_controls(&mut self.pending[start..]);
        }
        self.pending.push(b'\n');
    }

    /// Writes what is pending. What a failure leaves unwritten stays pending, so that a later flush goes
    /// on where this one ended and no line is lost or written twice.
    ///
    /// # Errors
    ///
    /// Those of the channel.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            match self.out.write(&self.pending) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.pending.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A transcript that goes on where this one is, in memory: what is to be told if all goes well. What is
    /// pending here it tells first.
    pub fn ahead(&self) -> TranscriptWriter<Vec<u8>> {
        let mut pending = Vec::with_capacity(4096);
        pending.extend_from_slice(&self.pending);
        TranscriptWriter { out: Vec::new(), pending, last: self.last }
    }

    /// Goes on where one that was [ahead](Self::ahead) is: what it told has been written.
    pub fn follow(&mut self, ahead: &TranscriptWriter<Vec<u8>>) {
        self.pending.clear();
        self.last = ahead.last;
    }

    /// The channel that is written to.
    pub fn channel(&self) -> &W {
        &self.out
    }

    /// The channel that is written to.
    pub fn channel_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// The last state added.
    pub fn last(&self) -> Option<LauncherState> {
        self.last
    }
}

impl TranscriptWriter<Vec<u8>> {
    /// Takes out what was told.
    pub fn take_text(&mut self) -> Vec<u8> {
        if self.out.is_empty() {
            return std::mem::take(&mut self.pending);
        }
        self.out.append(&mut self.pending);
        std::mem::take(&mut self.out)
    }
}

/// Makes control characters spaces. Eight bytes at a time are looked at, for most notes have none, and a
/// launch tells some 2,000 bytes of them.
fn blank_controls(text: &mut [u8]) {
    const EACH: u64 = 0x0101_0101_0101_0101;
    // A byte below 0x20 borrows into its top bit, which no byte of ASCII has; where another byte has it,
    // or takes part in the borrow, each is looked at.
    let suspicious = |word: u64| word.wrapping_sub(EACH * 0x20) | word;
    for word in text.chunks_mut(8) {
        let known = <[u8; 8]>::try_from(&*word).map(u64::from_ne_bytes);
        if known.is_ok_and(|word| suspicious(word) & (EACH * 0x80) == 0) {
            continue;
        }
        for byte in word {
            if *byte < b' ' {
                *byte = b' ';
            }
        }
    }
}

/// A transcript that was read: its states, one step after the other, and its notes.
///
/// ```
/// use portcullis_core::state::LauncherState;
/// use portcullis_core::transcript::Transcript;
///
/// let transcript = Transcript::parse(b"LauncherStarted\n# refusal=PlanInvalid\nSetupRefused\n").unwrap();
/// assert_eq!(transcript.terminal(), Some(LauncherState::SetupRefused));
/// assert_eq!(transcript.value("refusal"), Some("PlanInvalid"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Transcript {
    states: Vec<LauncherState>,
    notes: Vec<String>,
}

/// Why bytes are not a transcript.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TranscriptError {
    /// A line that is neither a state nor a note.
    #[error("{0}")]
    UnknownLine(#[from] UnknownName),
    /// A state that the protocol does not allow where it stands.
    #[error("{state} can't follow {after:?}")]
    OutOfOrder {
        /// The state before it.
        after: Option<LauncherState>,
        /// The state.
        state: LauncherState,
    },
    /// Bytes that are not UTF-8.
    #[error("a line that is not UTF-8")]
    NotText,
}

impl Transcript {
    /// Reads a whole transcript.
    ///
    /// # Errors
    ///
    /// Those of [`line`](Self::line).
    pub fn parse(bytes: &[u8]) -> Result<Self, TranscriptError> {
        let mut transcript = Self::default();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            transcript.line(line)?;
        }
        Ok(transcript)
    }

    /// Takes one more line, without its line break, and says which state it is.
    ///
    /// # Errors
    ///
    /// [`TranscriptError`]: not text, not a line of the protocol, or a state out of its order.
    pub fn line(&mut self, line: &[u8]) -> Result<Option<LauncherState>, TranscriptError> {
        let line = std::str::from_utf8(line).map_err(|_| TranscriptError::NotText)?;
        if let Some(note) = line.strip_prefix("# ") {
            self.notes.push(note.to_owned());
            return Ok(None);
        }
        let state: LauncherState = line
            .parse()
            .map_err(|UnknownName(line)| UnknownName(line.chars().take(80).collect()))?;
        let after = self.states.last().copied();
        let allowed = match after {
            None => state == LauncherState::LauncherStarted,
            Some(last) => last.may_precede(state),
        };
        if !allowed {
            return Err(TranscriptError::OutOfOrder { after, state });
        }
        self.states.push(state);
        Ok(Some(state))
    }

    /// The states, in their order.
    pub fn states(&self) -> &[LauncherState] {
        &self.states
    }

    /// The notes, in their order, without the `# `.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The terminal state, once it was written.
    pub fn terminal(&self) -> Option<LauncherState> {
        self.states.last().copied().filter(|state| state.is_terminal())
    }

    /// The value of the first note that is `NAME=VALUE`, alone or among others; a value ends at a
    /// space.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.notes.iter().find_map(|note| word(note, name))
    }

    /// What follows `PREFIX: ` in the first note that starts so.
    pub fn text(&self, prefix: &str) -> Option<&str> {
        self.notes.iter().find_map(|note| note.strip_prefix(prefix)?.strip_prefix(": "))
    }
}

/// The value of `NAME=VALUE` among the words of a note.
///
/// ```
/// use portcullis_core::transcript::word;
///
/// assert_eq!(word("workload exited code=7", "code"), Some("7"));
/// assert_eq!(word("workload exited code=7", "od"), None);
/// ```
pub fn word<'a>(note: &'a str, name: &str) -> Option<&'a str> {
    note.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_note_has_a_control_character_wherever_it_stands() {
        let plain = "é~ and more";
        for at in (0..=plain.len()).filter(|at| plain.is_char_boundary(*at)) {
            for control in ["\n", "\r", "\0", "\u{1f}", "\n\n\n\n\n\n\n\n\n"] {
                let mut text = plain.to_owned();
                text.insert_str(at, control);
                let mut transcript = TranscriptWriter::new(Vec::new());
                transcript.note_of(&[&text, &text[at..]]);
                let blanks = " ".repeat(control.len());
                let told = format!("# {text}{}", &text[at..]).replace(control, &blanks) + "\n";
                assert_eq!(String::from_utf8(transcript.take_text()).unwrap(), told);
            }
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut out = Vec::new();
        let mut writer = TranscriptWriter::new(&mut out);
        for &state in &LauncherState::ALL[..5] {
            writer.state(state);
        }
        writer.note("mechanism=clone3 child_pid=7");
        writer.note("two\nlines\nExecSucceeded");
        writer.state(LauncherState::SetupFaulted);
        writer.note("fault: it broke");
        writer.flush().unwrap();
        let transcript = Transcript::parse(&out).unwrap();
        assert_eq!(transcript.states()[..5], LauncherState::ALL[..5]);
        assert_eq!(transcript.terminal(), Some(LauncherState::SetupFaulted));
        assert_eq!(transcript.value("child_pid"), Some("7"));
        assert_eq!(transcript.notes()[1], "two lines ExecSucceeded");
        assert_eq!(transcript.text("fault"), Some("it broke"));
    }

    /// A channel that fails, is interrupted and takes a byte at a time, in turn.
    struct Moody(Vec<u8>, usize);

    impl Write for Moody {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            match self.1 % 3 {
                0 => Err(io::ErrorKind::Other.into()),
                1 => Err(io::ErrorKind::Interrupted.into()),
                _ => {
                    self.0.push(bytes[0]);
                    Ok(1)
                }
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flush_that_fails_loses_no_line_and_a_later_one_goes_on() {
        let mut writer = TranscriptWriter::new(Moody(Vec::new(), 0));
        writer.state(LauncherState::LauncherStarted);
        let mut failures = 0;
        while writer.flush().is_err() {
            failures += 1;
        }
        assert!(failures > 3);
        assert_eq!(writer.out.0, b"LauncherStarted\n");
    }

    #[test]
    fn nothing_is_written_out_of_order() {
        for states in [
            &[LauncherState::IdentityVerified][..],
            &[LauncherState::LauncherStarted, LauncherState::PlanVerified],
            &[
                LauncherState::LauncherStarted,
                LauncherState::SetupRefused,
                LauncherState::SetupFaulted,
            ],
        ] {
            let lines: Vec<_> = states.iter().map(|state| state.name()).collect();
            let error = Transcript::parse(lines.join("\n").as_bytes()).unwrap_err();
            assert!(matches!(error, TranscriptError::OutOfOrder { .. }));
            let states = states.to_vec();
            let write = move || {
                let mut writer = TranscriptWriter::new(Vec::new());
                for state in states {
                    writer.state(state);
                }
            };
            assert!(std::panic::catch_unwind(write).is_err());
        }
    }

    #[test]
    fn a_line_of_another_language_is_an_error_by_name() {
        assert!(matches!(Transcript::parse(b"hello\n"), Err(TranscriptError::UnknownLine(_))));
        assert_eq!(Transcript::parse(b"\xff\n"), Err(TranscriptError::NotText));
    }
}
