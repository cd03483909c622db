//! Builds the launcher that the library embeds.
//!
//! The launcher's sources are those of the `portcullis-launcher` dependency, wherever cargo has put
//! them. It is built by a cargo of its own into a target folder of its own, always as a release and
//! with the settings below, whatever the library is built as: the launcher's start-up is part of each
//! launch.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What `[profile.release]` of the workspace says, for a build from a registry that has no workspace.
const PROFILE: &[(&str, &str)] = &[
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s"),
    ("CARGO_PROFILE_RELEASE_STRIP", "true"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
];

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
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(bundled)");
    // docs.rs builds without a network and runs nothing.
    if env::var_os("CARGO_FEATURE_BUNDLED_LAUNCHER").is_none() || env::var_os("DOCS_RS").is_some() {
        return;
    }
    let launcher = PathBuf::from(variable("DEP_PORTCULLIS_LAUNCHER_MANIFEST_DIR"));
    for source in sources(&launcher) {
        println!("cargo:rerun-if-changed={}", source.display());
    }
    let host = variable("TARGET");
    let target = musl_of(&host).filter(|musl| is_installed(musl)).unwrap_or_else(|| {
        let musl = musl_of(&host).unwrap_or_else(|| "a musl target".into());
        println!(
            "cargo:warning=the launcher is built for {host}: a launch takes several times as long to \
             start as with a static one. `rustup target add {musl}` brings what is missing"
        );
        host.clone()
    });
    let out = PathBuf::from(variable("OUT_DIR"));
    let folder = shared_folder(&out).unwrap_or_else(|| out.clone());
    let binary = build(&launcher, &target, &folder);
    println!("cargo:rustc-env=PORTCULLIS_BUNDLED_LAUNCHER={}", binary.display());
    println!("cargo:rustc-cfg=bundled");
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for this build script"))
}

/// The sources that the launcher is made of: its own, and in the workspace those of its siblings.
fn sources(launcher: &Path) -> Vec<PathBuf> {
    let workspace = launcher.join("..");
    let own = ["src", "Cargo.toml", "build.rs", "layout.ld", "child/src", "child/Cargo.toml"];
    let siblings =
        ["Cargo.lock", "core/src", "core/Cargo.toml", "mechanisms/src", "mechanisms/Cargo.toml"];
    let own = own.iter().map(|it| launcher.join(it));
    let siblings = siblings.iter().map(|it| workspace.join(it));
    own.chain(siblings).filter(|it| it.exists()).collect()
}

/// The musl target of a Linux target's architecture.
fn musl_of(target: &str) -> Option<String> {
    let architecture = target.split('-').next().filter(|_| target.contains("-linux-"))?;
    Some(format!("{architecture}-unknown-linux-musl"))
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

/// A folder beside the outer build's profiles, so that they share one launcher.
fn shared_folder(out: &Path) -> Option<PathBuf> {
    let target = out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists())?;
    Some(target.join("bundled-launcher"))
}

fn build(launcher: &Path, target: &str, folder: &Path) -> PathBuf {
    let mut cargo = Command::new(variable("CARGO"));
    for name in NOT_INHERITED {
        cargo.env_remove(name);
    }
    // Fixed addresses and no loader: a relocation is a page touched at start-up.
    let flags = if target.ends_with("musl") {
        "-Crelocation-model=static\x1f-Ctarget-feature=+crt-static"
    } else {
        ""
    };
    cargo
        .arg("build")
        .arg("--release")
        .args(["--bin", "portcullis-launcher", "--target", target])
        .arg("--manifest-path")
        .arg(launcher.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(folder)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .envs(PROFILE.iter().copied());
    let status = cargo.status().unwrap_or_else(|error| panic!("running {cargo:?}: {error}"));
    assert!(status.success(), "building the launcher failed: {cargo:?}");
    folder.join(target).join("release/portcullis-launcher")
}
