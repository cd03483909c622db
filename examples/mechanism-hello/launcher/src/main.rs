//! A launcher with the built-in mechanisms and one more.

// ANCHOR: main
#![no_main]

use mechanism_hello as _;
use portcullis_mechanisms as _;

portcullis_launcher::main!();
// ANCHOR_END: main
