//! A launcher with the built-in mechanisms and one more.

#![no_main]

use limit_open_files as _;
use portcullis_mechanisms as _;

portcullis_launcher::main!();
