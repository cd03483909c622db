//! What the launcher takes that does not depend on the machine's speed: its file, and its memory.

use portcullis_benches::launcher::{PEAK_LIMIT, SIZE_LIMIT, peak};
use portcullis_benches::stage::STAGES;

#[test]
fn the_launchers_file_is_within_its_limit() {
    let size = portcullis::bundled_launcher().expect("it is embedded").len();
    assert!(size <= SIZE_LIMIT, "{size} bytes are more than {SIZE_LIMIT}");
}

#[test]
fn a_launcher_that_waits_has_taken_no_more_than_its_limit_of_memory() {
    for stage in STAGES {
        // A kernel that lacks a mechanism says so in the tests of confinement.
        let Ok(peak) = peak(stage) else { continue };
        assert!(peak > 0 && peak <= PEAK_LIMIT, "{}: {peak} KiB", stage.name);
    }
}
