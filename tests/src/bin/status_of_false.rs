//! Runs a program that fails, and prints how it ended: for a process that ignores its children.

use portcullis::Command;

fn main() {
    let ended = Command::new("false").status().map(|status| status.code());
    println!("{ended:?}");
}
