//! What the launcher takes that does not depend on the machine's speed: its file, and its memory. And that
//! what was done for its speed leaves no memory that can be both written and executed.

use portcullis_benches::launcher::{PEAK_LIMIT, SIZE_LIMIT, peak, resident_peak};
use portcullis_benches::stage::STAGES;

#[test]
fn the_launchers_file_is_within_its_limit() {
    let size = portcullis::bundled_launcher().expect("it is embedded").len();
    assert!(size <= SIZE_LIMIT, "{size} bytes are more than {SIZE_LIMIT}");
}

/// The program headers of elf(5), as a layout of our own makes them.
#[test]
fn no_segment_of_the_launcher_is_writable_and_executable() {
    const SEGMENTS_AT: usize = 32;
    const SEGMENT_LEN: usize = 54;
    const SEGMENTS: usize = 56;
    const FLAGS: usize = 4;
    const EXECUTABLE: u8 = 1;
    const WRITABLE: u8 = 2;
    let image = portcullis::bundled_launcher().expect("it is embedded");
    let number = |at: usize| usize::from(u16::from_le_bytes([image[at], image[at + 1]]));
    let first = u64::from_le_bytes(image[SEGMENTS_AT..SEGMENTS_AT + 8].try_into().unwrap());
    let segments = image[usize::try_from(first).unwrap()..].chunks(number(SEGMENT_LEN));
    let flags: Vec<_> = segments.take(number(SEGMENTS)).map(|segment| segment[FLAGS]).collect();
    let has = |flag| flags.iter().any(|flags| flags & flag != 0);
    assert!(has(EXECUTABLE) && has(WRITABLE), "{flags:?}");
    let both = EXECUTABLE | WRITABLE;
    assert!(flags.iter().all(|flags| flags & both != both), "{flags:?}");
}

#[test]
fn a_launcher_that_waits_has_taken_no_more_than_its_limit_of_memory() {
    let mut measured = 0;
    for stage in STAGES {
        match peak(stage) {
            Ok(peak) => {
                assert!(peak > 0 && peak <= PEAK_LIMIT, "{}: {peak} KiB", stage.name);
                measured += 1;
            }
            // A kernel that lacks a mechanism says so in the tests of confinement; the first stage takes none.
            Err(error) => println!("{}: not measured: {error}", stage.name),
        }
    }
    assert!(measured > 0, "no launch was made");
}

#[test]
fn a_resident_launcher_takes_no_more_than_that_after_a_hundred_launches() {
    let peak = resident_peak(&STAGES[0]).unwrap();
    assert!(peak > 0 && peak <= PEAK_LIMIT, "{peak} KiB");
}
