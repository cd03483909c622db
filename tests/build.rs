//! Builds the program that attempts escapes: a release, static where musl's target is installed, by a cargo
//! of its own into a target folder of its own. So a user that can't run cargo finds it ready.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The outer build's own, which would make the inner one something else.
const NOT_INHERITED: &[&str] = &[
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "RUSTC_WORKSPACE_WRAPPER",
    "CLIPPY_ARGS",
    "CARGO_MAKEFLAGS",
    "MAKEFLAGS",
    "LLVM_PROFILE_FILE",
];

fn main() {
    for source in ["build.rs", "escape/src", "escape/Cargo.toml", "../Cargo.toml"] {
        println!("cargo:rerun-if-changed={source}");
    }
    let host = variable("TARGET");
    let musl = host.replace("-gnu", "-musl");
    let target = if is_installed(&musl) { musl } else { host };
    let out = PathBuf::from(variable("OUT_DIR"));
    let shared = out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    let folder = shared.unwrap_or(&out).join("escape");
    let mut cargo = Command::new(variable("CARGO"));
    for name in NOT_INHERITED {
        cargo.env_remove(name);
    }
    cargo
        .args(["build", "--release", "--bin", "escape", "--target", &target])
        .args(["--manifest-path", "escape/Cargo.toml", "--target-dir"])
        .arg(&folder)
        // Static: what may be loaded is one of the things that are attempted.
        .env("CARGO_ENCODED_RUSTFLAGS", if target.ends_with("musl") { STATIC } else { "" })
        .env("CARGO_PROFILE_RELEASE_LTO", "off");
    let status = cargo.status().unwrap_or_else(|error| panic!("running {cargo:?}: {error}"));
    assert!(status.success(), "building the program failed: {cargo:?}");
    let program = folder.join(target).join("release/escape");
    println!("cargo:rustc-env=PORTCULLIS_ESCAPE={}", program.display());
}

const STATIC: &str = "-Crelocation-model=static\x1f-Ctarget-feature=+crt-static";

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for this build script"))
}

/// Whether the compiler has the standard library of `target`.
fn is_installed(target: &str) -> bool {
    let query = Command::new(variable("RUSTC"))
        .args(["--print", "target-libdir", "--target", target])
        .output();
    let Ok(output) = query else { return false };
    let folder = String::from_utf8_lossy(&output.stdout);
    output.status.success() && Path::new(folder.trim()).is_dir()
}
