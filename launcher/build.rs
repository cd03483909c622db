//! Tells the crates that depend on this one where its sources are, and the linker where the functions of
//! a program go: the launcher's, and the command line's, which has a layout of its own.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=layout.ld");
    println!("cargo:rerun-if-env-changed=RUSTC_LINKER");
    let folder = env!("CARGO_MANIFEST_DIR");
    println!("cargo:manifest_dir={folder}");
    // A linker that is started itself, and not by a compiler, has no -Xlinker; without the layout a launch
    // is slower, and nothing else.
    let by_compiler = env::var("RUSTC_LINKER").map_or(true, |linker| !linker.ends_with("lld"));
    if env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|it| it == "musl") && by_compiler {
        // Code and constants in one segment: fewer to map, and no gap between them. A static program at a fixed
        // address has no relocations to protect, so that no page of its own is needed for them.
        let layout = format!("{folder}/layout.ld");
        for argument in ["-T", &layout, "-z", "noseparate-code", "-z", "norelro"] {
            println!("cargo:rustc-link-arg-bins=-Xlinker");
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}
