//! The launcher with the built-in mechanisms.

#![no_main]

use portcullis_mechanisms as _;

portcullis_launcher::main!();
