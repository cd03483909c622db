//! A launcher that counts what it allocates. It is asked to explain a launch, which it prepares as it does any,
//! and does not make; a line after the explanation has the counts.

use std::alloc::System;
use std::process::ExitCode;

use portcullis_mechanisms as _;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> ExitCode {
    let code = portcullis_launcher::main();
    let counts = ALLOCATOR.stats();
    println!("{} allocations, {} bytes", counts.allocations, counts.bytes_allocated);
    code
}
