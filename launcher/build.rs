//! Tells the crates that depend on this one where its sources are.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:manifest_dir={}", env!("CARGO_MANIFEST_DIR"));
}
