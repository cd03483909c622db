//! The launcher with the built-in mechanisms.

use portcullis_mechanisms as _;

#[global_allocator]
static MEMORY: portcullis_launcher::Arena = portcullis_launcher::Arena::new();

fn main() -> std::process::ExitCode {
    portcullis_launcher::main()
}
