//! What the benchmarks share: what is launched, in which ways, how it is timed, and how that is told.

#![deny(missing_docs)]
#![forbid(unsafe_code)]
#![allow(
    clippy::missing_panics_doc,
    reason = "a benchmark whose launch fails has nothing to measure"
)]

pub mod floor;
pub mod launcher;
pub mod measure;
pub mod plot;
pub mod stage;
pub mod table;
pub mod way;
pub mod workload;
