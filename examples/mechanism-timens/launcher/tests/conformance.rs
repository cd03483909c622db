//! The mechanism conforms, and so do the built-in ones in its company.

use mechanism_timens as _;

fn main() -> std::process::ExitCode {
    portcullis::testkit::main(env!("CARGO_BIN_EXE_timens-launcher"))
}
