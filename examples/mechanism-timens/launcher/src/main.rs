//! A launcher with the built-in mechanisms and one more.

#![no_main]

use mechanism_timens as _;
use portcullis_mechanisms as _;

portcullis_launcher::main!();
