//! What a test needs of the machine, and what becomes of one whose machine does not have it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Trial};

/// Something that a machine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A mechanism that its own probe finds supported.
    Mechanism(&'static str),
    /// Landlock's scopes: ABI 6.
    LandlockScopes,
    /// Landlock of this ABI, or newer.
    LandlockAbi(u8),
    /// A cgroup of version 2 in which cgroups can be made.
    DelegatedCgroup,
    /// Root, to become somebody else.
    Root,
    /// A cargo that this user can run.
    Cargo,
    /// `strace`.
    Strace,
    /// `nm`.
    Nm,
    /// `ionice` and `unshare`.
    UtilLinux,
    /// `/usr/bin/python3`.
    Python,
    /// A Python with cbor2: see [`python`].
    Cbor2,
}

impl Need {
    /// Whether it is a privilege, which a user may lack on a machine that has all the rest.
    fn is_privilege(self) -> bool {
        matches!(self, Self::Root | Self::DelegatedCgroup | Self::Cargo)
    }

    /// Says why the machine can't serve it, where it can't.
    pub fn unmet(self) -> Option<String> {
        match self {
            Self::Mechanism(id) => {
                let mechanisms = portcullis::mechanisms(None).ok()?;
                let found = mechanisms.into_iter().find(|it| it.id == id)?;
                (!found.is_supported()).then(|| format!("{id}: {}", found.why.unwrap_or_default()))
            }
            Self::LandlockScopes => {
                let abi = portcullis_mechanisms::landlock::running_abi();
                let enough = abi.is_some_and(|abi| abi >= portcullis_mechanisms::landlock::SCOPES);
                (!enough).then(|| "Landlock's scopes come with Linux 6.12".into())
            }
            Self::LandlockAbi(needed) => {
                let abi = portcullis_mechanisms::landlock::running_abi();
                let enough = abi.is_some_and(|abi| abi >= needed);
                (!enough).then(|| format!("Landlock ABI {needed} is needed, and here is {abi:?}"))
            }
            Self::DelegatedCgroup => {
                let Some(root) = cgroup2() else { return Some("no cgroup2 is mounted".into()) };
                let attempt = root.join(format!("portcullis-need-{}", std::process::id()));
                let made = fs::create_dir(&attempt).and_then(|()| fs::remove_dir(&attempt));
                made.err().map(|error| format!("making {}: {error}", attempt.display()))
            }
            Self::Root => {
                (!rustix::process::geteuid().is_root()).then(|| "this is not root".into())
            }
            Self::Cargo => missing(env!("CARGO"), "--version"),
            Self::Strace => missing("strace", "-V"),
            Self::Nm => missing("nm", "--version"),
            Self::UtilLinux => {
                ["ionice", "unshare"].into_iter().find_map(|it| missing(it, "--version"))
            }
            Self::Cbor2 => {
                let found = python().args(["-c", "import cbor2"]).stderr(Stdio::null()).status();
                let found = found.is_ok_and(|status| status.success());
                let folder = python_folder().display().to_string();
                (!found).then(|| format!("no cbor2; pip install --target {folder} cbor2"))
            }
            Self::Python => missing("/usr/bin/python3", "--version"),
        }
    }
}

/// Where cgroups of version 2 are mounted.
pub fn cgroup2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        (fields.get(2) == Some(&"cgroup2")).then(|| fields[1].into())
    })
}

/// Where Python packages that only the tests need are installed.
fn python_folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python"))
}

/// The Python of the path, with the packages that are installed for the tests.
pub fn python() -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", python_folder()).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn missing(program: &str, version: &str) -> Option<String> {
    let mut command = Command::new(program);
    let ran = command.arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
    ran.err().map(|error| format!("{program}: {error}"))
}

/// A test and what it needs.
pub struct Test {
    /// Its name.
    pub name: &'static str,
    /// What it needs.
    pub needs: &'static [Need],
    /// The test, which panics where it fails.
    pub run: fn(),
}

/// Runs tests. One whose need is not met is skipped and counted as ignored, with the reason on standard
/// error. With `PORTCULLIS_NO_SKIP=1` in the environment it fails instead, for a machine that is known to
/// serve them all; with `PORTCULLIS_NO_SKIP=unprivileged` so does one that lacks more than a privilege.
pub fn run(tests: Vec<Test>) -> ExitCode {
    let arguments = Arguments::from_args();
    let strictness = std::env::var("PORTCULLIS_NO_SKIP").unwrap_or_default();
    let may_lack = |need: Need| match strictness.as_str() {
        "1" => false,
        "unprivileged" => need.is_privilege(),
        _ => true,
    };
    let trial = |test: Test| {
        let unmet = test.needs.iter().find_map(|need| Some((*need, need.unmet()?)));
        match unmet {
            None => Trial::test(test.name, move || {
                (test.run)();
                Ok(())
            }),
            Some((need, why)) if !may_lack(need) => Trial::test(test.name, move || {
                Err(format!("skipped where none may be: {why}").into())
            }),
            Some((_, why)) => {
                eprintln!("skipped {}: {why}", test.name);
                Trial::test(test.name, || Ok(())).with_ignored_flag(true)
            }
        }
    };
    libtest_mimic::run(&arguments, tests.into_iter().map(trial).collect()).exit_code()
}
