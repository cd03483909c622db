//! A launcher whose author forgot to link any mechanism.

#![no_main]

portcullis_launcher::main!();
