//! The programs that are launched.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;

/// A program, and what it is called with.
#[derive(Debug, Clone)]
pub struct Workload {
    /// What tables call it.
    pub name: &'static str,
    /// Its file.
    pub program: PathBuf,
    /// Its arguments, without its own name.
    pub arguments: &'static [&'static str],
}

impl Workload {
    /// Its arguments, its name first.
    pub fn argv(&self) -> impl Iterator<Item = &OsStr> {
        [self.program.as_os_str()].into_iter().chain(self.arguments.iter().map(OsStr::new))
    }
}

/// A program of one system call, `exit_group(0)`: what is left of a launch is the launch.
pub fn smallest() -> Workload {
    static FILE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, program) = FILE.get_or_init(|| {
        // Below the root that every stage may write to, and so execute from.
        let folder = tempfile::Builder::new().tempdir_in("/tmp").expect("a folder in /tmp");
        let program = folder.path().join("smallest");
        fs::write(&program, elf()).expect("a file in /tmp");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
        (folder, program)
    });
    Workload { name: "the smallest static program", program: program.clone(), arguments: &[] }
}

/// `/bin/true`, which a dynamic loader loads.
pub fn true_() -> Workload {
    Workload { name: "/bin/true", program: "/bin/true".into(), arguments: &[] }
}

/// An interpreter's start.
pub fn python() -> Option<Workload> {
    let program = Path::new("/usr/bin/python3");
    let workload = || Workload {
        name: "python3 -c pass",
        program: program.into(),
        arguments: &["-c", "pass"],
    };
    program.exists().then(workload)
}

/// An ELF file of one segment, as [elf(5)](https://man7.org/linux/man-pages/man5/elf.5.html) has it, whose
/// code follows its headers.
fn elf() -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    const BASE: u64 = 0x40_0000;
    #[cfg(target_arch = "x86_64")]
    // mov eax, 231 (exit_group); xor edi, edi; syscall
    let (machine, code) = (62_u16, [0xb8, 0xe7, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]);
    #[cfg(target_arch = "aarch64")]
    // mov w8, #94 (exit_group); mov w0, #0; svc #0
    let (machine, code) = (183_u16, [0xc8, 0x0b, 0x80, 0x52, 0, 0, 0x80, 0x52, 0x01, 0, 0, 0xd4]);
    let length = HEADERS + code.len() as u64;
    let mut file = Vec::new();
    // 64 bits, little endian, version 1.
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let [executable, version] = [2_u16, 1];
    file.extend([executable, machine, version, 0].map(u16::to_le_bytes).as_flattened());
    let [entry, segments_at, sections_at] = [BASE + HEADERS, 64, 0_u64];
    file.extend([entry, segments_at, sections_at].map(u64::to_le_bytes).as_flattened());
    // Flags, and the sizes and numbers of what is there: this header, one segment, no section.
    file.extend([0, 0, 64, 56, 1, 64, 0, 0].map(u16::to_le_bytes).as_flattened());
    let [load, read_execute] = [1_u32, 5];
    file.extend([load, read_execute].map(u32::to_le_bytes).as_flattened());
    // From the file's begin to `BASE`, all of it, on pages of 64 KiB at the most.
    file.extend([0, BASE, BASE, length, length, 0x1_0000].map(u64::to_le_bytes).as_flattened());
    file.extend(code);
    file
}
