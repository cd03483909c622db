//! The mechanism conforms, and so do the built-in ones in its company.

// ANCHOR: conformance
use mechanism_hello as _;

fn main() -> std::process::ExitCode {
    portcullis::testkit::main(env!("CARGO_BIN_EXE_hello-launcher"))
}
// ANCHOR_END: conformance
