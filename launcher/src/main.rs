//! The launcher with the built-in mechanisms.

use portcullis_mechanisms as _;

fn main() -> std::process::ExitCode {
    portcullis_launcher::main()
}
