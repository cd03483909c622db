//! `BVISOR_TRACE=1`: spans become notes with the microseconds that each stage took.
//!
//! Without it no subscriber is set, and a span is one load and one branch.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// The spans so far. An id is a place in the list, from one on.
static SPANS: Mutex<Vec<(&'static str, Instant)>> = Mutex::new(Vec::new());
/// What has ended since the last [`notes`].
static ENDED: Mutex<Vec<String>> = Mutex::new(Vec::new());
static ON: AtomicUsize = AtomicUsize::new(0);

/// Starts tracing where the environment asks for it.
pub(crate) fn start() {
    set(std::env::var_os("BVISOR_TRACE").is_some_and(|value| value == "1"));
}

/// Traces from here on, or does not, and forgets what was traced before.
pub(crate) fn set(on: bool) {
    if on {
        // It fails where it has been set before.
        let _ = tracing::subscriber::set_global_default(Stages);
    }
    if let (Ok(mut spans), Ok(mut ended)) = (SPANS.lock(), ENDED.lock()) {
        spans.clear();
        ended.clear();
    }
    ON.store(on.into(), Ordering::Relaxed);
}

/// The notes of the spans that have ended since the last call.
pub(crate) fn notes() -> Vec<String> {
    if ON.load(Ordering::Relaxed) == 0 {
        return Vec::new();
    }
    ENDED.lock().map(|mut ended| std::mem::take(&mut *ended)).unwrap_or_default()
}

/// A stage between whose begin and end other launches' stages may come: it is noted by who holds it.
pub(crate) struct Stopwatch(Option<(&'static str, Instant)>);

impl Stopwatch {
    /// Starts, where this launch is traced.
    pub(crate) fn start(stage: &'static str) -> Self {
        Self((ON.load(Ordering::Relaxed) != 0).then(|| (stage, Instant::now())))
    }

    /// The note of the stage, if it ends now.
    pub(crate) fn note(&self) -> Option<String> {
        self.0.map(|(stage, start)| note(stage, start))
    }
}

fn note(stage: &str, start: Instant) -> String {
    format!("trace stage={stage} us={}", start.elapsed().as_micros())
}

/// Times spans.
struct Stages;

impl Subscriber for Stages {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("portcullis")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let Ok(mut spans) = SPANS.lock() else { return Id::from_u64(1) };
        spans.push((span.metadata().name(), Instant::now()));
        Id::from_u64(spans.len() as u64)
    }

    fn exit(&self, id: &Id) {
        let place = usize::try_from(id.into_u64()).unwrap_or(0).wrapping_sub(1);
        let (Ok(spans), Ok(mut ended)) = (SPANS.lock(), ENDED.lock()) else { return };
        if let Some((name, start)) = spans.get(place) {
            ended.push(note(name, *start));
        }
    }

    fn enter(&self, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
}
