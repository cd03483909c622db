//! Nothing but a place for the benchmarks' dependencies; see `launch.rs`.

#![forbid(unsafe_code)]
