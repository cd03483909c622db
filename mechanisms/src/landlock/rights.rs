//! What a ruleset can handle: each right, port right, scope and log flag, by name, with its ABI.

use landlock::{ABI, Access as _, AccessFs, AccessNet, BitFlags, Scope as KernelScope};
use serde::{Deserialize, Serialize};

/// Rights over files, as a policy names them. The groups come first; each right that Landlock has
/// follows, by its own name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Reading files and listing directories.
    Read,
    /// Executing files.
    Exec,
    /// Everything that changes something: all that the handled ABI has but reading and executing. The
    /// one group that grows with the ABI.
    Write,
    /// Making what was not there, of any kind.
    Create,
    /// Removing files and directories.
    Remove,
    /// Changing the content of files that are there.
    Modify,
    /// ioctls on devices.
    Ioctl,
    /// Connecting to pathname Unix sockets.
    Unix,
    /// Opening a file for reading.
    ReadFile,
    /// Opening a directory or listing it.
    ReadDir,
    /// Executing a file.
    Execute,
    /// Opening a file for writing.
    WriteFile,
    /// Making a directory.
    MakeDir,
    /// Making a regular file.
    MakeReg,
    /// Making a symbolic link.
    MakeSym,
    /// Making a named pipe.
    MakeFifo,
    /// Making a Unix socket.
    MakeSock,
    /// Making a character device.
    MakeChar,
    /// Making a block device.
    MakeBlock,
    /// Removing or renaming an empty directory.
    RemoveDir,
    /// Unlinking or renaming a file.
    RemoveFile,
    /// Linking or renaming from one directory to another.
    Refer,
    /// Truncating a file, by its path, by an open, or by an fd.
    Truncate,
    /// ioctls on a device.
    IoctlDev,
    /// Connecting to a pathname Unix socket.
    ResolveUnix,
}

impl Access {
    /// The rights that it stands for where `abi` is handled.
    pub(super) fn rights(self, abi: u8) -> BitFlags<AccessFs> {
        use AccessFs as Fs;
        match self {
            Self::Read => Fs::ReadFile | Fs::ReadDir,
            Self::Write => Fs::from_write(kernel(abi)),
            Self::Create => {
                Fs::MakeDir
                    | Fs::MakeReg
                    | Fs::MakeSym
                    | Fs::MakeFifo
                    | Fs::MakeSock
                    | Fs::MakeChar
                    | Fs::MakeBlock
            }
            Self::Remove => Fs::RemoveDir | Fs::RemoveFile,
            Self::Modify => Fs::WriteFile | Fs::Truncate,
            Self::ReadFile => Fs::ReadFile.into(),
            Self::ReadDir => Fs::ReadDir.into(),
            Self::Exec | Self::Execute => Fs::Execute.into(),
            Self::WriteFile => Fs::WriteFile.into(),
            Self::MakeDir => Fs::MakeDir.into(),
            Self::MakeReg => Fs::MakeReg.into(),
            Self::MakeSym => Fs::MakeSym.into(),
            Self::MakeFifo => Fs::MakeFifo.into(),
            Self::MakeSock => Fs::MakeSock.into(),
            Self::MakeChar => Fs::MakeChar.into(),
            Self::MakeBlock => Fs::MakeBlock.into(),
            Self::RemoveDir => Fs::RemoveDir.into(),
            Self::RemoveFile => Fs::RemoveFile.into(),
            Self::Refer => Fs::Refer.into(),
            Self::Truncate => Fs::Truncate.into(),
            Self::Ioctl | Self::IoctlDev => Fs::IoctlDev.into(),
            Self::Unix | Self::ResolveUnix => Fs::ResolveUnix.into(),
        }
    }

    /// Whether a place must be declared as one that may be written to for it.
    pub(super) fn writes(self) -> bool {
        !matches!(self, Self::Read | Self::Exec | Self::ReadFile | Self::ReadDir | Self::Execute)
    }
}

/// What can be confined to the workload and its descendants, from ABI 6 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Signals reach no process outside.
    Signal,
    /// Abstract Unix sockets of processes outside can't be connected to.
    AbstractUnixSocket,
}

/// What the kernel's audit log says of denials, from ABI 7 on: flags of
/// [landlock_restrict_self(2)](https://man7.org/linux/man-pages/man2/landlock_restrict_self.2.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFlag {
    /// Nothing of what the child is denied until its exec.
    SameExecOff,
    /// What the workload is denied after the exec too, which is not logged otherwise.
    NewExecOn,
    /// Nothing of what later layers deny, the workload's own included.
    SubdomainsOff,
}

impl LogFlag {
    /// Its `LANDLOCK_RESTRICT_SELF_LOG_…` bit.
    pub(super) fn bit(self) -> u32 {
        match self {
            Self::SameExecOff => 1,
            Self::NewExecOn => 2,
            Self::SubdomainsOff => 4,
        }
    }
}

/// The crate's name for an ABI.
pub(super) fn kernel(abi: u8) -> ABI {
    ABI::from(i32::from(abi))
}

/// A set of what a ruleset can handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Features {
    pub(super) fs: BitFlags<AccessFs>,
    pub(super) net: BitFlags<AccessNet>,
    pub(super) scope: BitFlags<KernelScope>,
    pub(super) log: u32,
}

impl Features {
    /// Nothing.
    pub(super) const NONE: Self =
        Self { fs: BitFlags::EMPTY, net: BitFlags::EMPTY, scope: BitFlags::EMPTY, log: 0 };

    /// Everything that an ABI has.
    pub(super) fn of(abi: u8) -> Self {
        let all = kernel(abi);
        let log = if abi >= LOG { 1 | 2 | 4 } else { 0 };
        Self {
            fs: AccessFs::from_all(all),
            net: AccessNet::from_all(all),
            scope: KernelScope::from_all(all),
            log,
        }
    }

    /// What is in both.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            fs: self.fs & other.fs,
            net: self.net & other.net,
            scope: self.scope & other.scope,
            log: self.log & other.log,
        }
    }

    /// Whether `feature` is in it.
    pub(super) fn has(&self, feature: Feature) -> bool {
        match feature {
            Feature::Fs(right) => self.fs.contains(right),
            Feature::Net(right) => self.net.contains(right),
            Feature::Scope(scope) => self.scope.contains(scope),
            Feature::Log(flag) => self.log & flag.bit() != 0,
        }
    }

    /// What is in it and not in `other`, from the table.
    pub(super) fn beyond(self, other: Self) -> impl Iterator<Item = &'static Known> {
        FEATURES.iter().filter(move |it| self.has(it.feature) && !other.has(it.feature))
    }
}

/// One thing that a ruleset can handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feature {
    Fs(AccessFs),
    Net(AccessNet),
    Scope(KernelScope),
    Log(LogFlag),
}

/// A feature, what a policy calls it, and the ABI that it came with.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) feature: Feature,
    pub(super) name: &'static str,
    pub(super) since: u8,
}

const fn fs(since: u8, name: &'static str, right: AccessFs) -> Known {
    Known { feature: Feature::Fs(right), name, since }
}

const fn net(since: u8, name: &'static str, right: AccessNet) -> Known {
    Known { feature: Feature::Net(right), name, since }
}

const fn scope(since: u8, name: &'static str, scope: KernelScope) -> Known {
    Known { feature: Feature::Scope(scope), name, since }
}

const fn log(since: u8, name: &'static str, flag: LogFlag) -> Known {
    Known { feature: Feature::Log(flag), name, since }
}

/// The ABI that scopes came with.
pub const SCOPES: u8 = 6;
/// The ABI that log flags came with.
const LOG: u8 = 7;

/// Everything that a ruleset can handle.
pub(super) static FEATURES: [Known; 26] = [
    fs(1, "read-file", AccessFs::ReadFile),
    fs(1, "read-dir", AccessFs::ReadDir),
    fs(1, "execute", AccessFs::Execute),
    fs(1, "write-file", AccessFs::WriteFile),
    fs(1, "make-dir", AccessFs::MakeDir),
    fs(1, "make-reg", AccessFs::MakeReg),
    fs(1, "make-sym", AccessFs::MakeSym),
    fs(1, "make-fifo", AccessFs::MakeFifo),
    fs(1, "make-sock", AccessFs::MakeSock),
    fs(1, "make-char", AccessFs::MakeChar),
    fs(1, "make-block", AccessFs::MakeBlock),
    fs(1, "remove-dir", AccessFs::RemoveDir),
    fs(1, "remove-file", AccessFs::RemoveFile),
    fs(2, "refer", AccessFs::Refer),
    fs(3, "truncate", AccessFs::Truncate),
    fs(5, "ioctl-dev", AccessFs::IoctlDev),
    fs(9, "resolve-unix", AccessFs::ResolveUnix),
    net(4, "port right connect", AccessNet::ConnectTcp),
    net(4, "port right bind", AccessNet::BindTcp),
    net(10, "port right connect_udp", AccessNet::ConnectSendUdp),
    net(10, "port right bind_udp", AccessNet::BindUdp),
    scope(SCOPES, "scope signal", KernelScope::Signal),
    scope(SCOPES, "scope abstract-unix-socket", KernelScope::AbstractUnixSocket),
    log(LOG, "log flag same-exec-off", LogFlag::SameExecOff),
    log(LOG, "log flag new-exec-on", LogFlag::NewExecOn),
    log(LOG, "log flag subdomains-off", LogFlag::SubdomainsOff),
];

#[cfg(test)]
pub(super) mod tests {
    use serde::de::DeserializeOwned;

    use super::super::{DECLARATION, NEWEST};
    use super::*;

    /// The names that a type's values have, as serde tells them to whoever writes another.
    pub(crate) fn names_of<T: DeserializeOwned>() -> Vec<String> {
        let error = serde_json::from_str::<T>("\"no-such-name\"").err().unwrap().to_string();
        let names: Vec<_> = error.split('`').skip(3).step_by(2).map(str::to_owned).collect();
        assert!(!names.is_empty(), "{error}");
        names
    }

    fn named<T: DeserializeOwned>(name: &str) -> T {
        serde_json::from_value(name.into()).unwrap()
    }

    #[test]
    fn each_abi_has_what_the_table_says_and_nothing_more() {
        for abi in 1..=NEWEST {
            let known = FEATURES.iter().filter(|it| it.since <= abi);
            let mut all = Features::NONE;
            for it in known {
                match it.feature {
                    Feature::Fs(right) => all.fs |= right,
                    Feature::Net(right) => all.net |= right,
                    Feature::Scope(scope) => all.scope |= scope,
                    Feature::Log(flag) => all.log |= flag.bit(),
                }
            }
            assert_eq!(Features::of(abi), all, "ABI {abi}");
        }
        assert_eq!(kernel(NEWEST + 1), kernel(NEWEST), "the crate knows a newer one");
    }

    #[test]
    fn each_right_has_a_name_of_its_own_and_each_name_is_in_the_grammar() {
        let names = names_of::<Access>();
        for it in &FEATURES {
            let Feature::Fs(right) = it.feature else { continue };
            assert_eq!(named::<Access>(it.name).rights(NEWEST), right, "{}", it.name);
            assert!(names.iter().any(|name| name == it.name));
        }
        let all = names.iter().chain(&names_of::<Scope>()).cloned().collect::<Vec<_>>();
        for name in all.into_iter().chain(names_of::<LogFlag>()) {
            assert!(DECLARATION.params.contains(&format!("\"{name}\"")), "{name}");
            assert!(DECLARATION.guide.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn only_write_grows_with_the_abi_and_the_groups_make_it_up() {
        for name in names_of::<Access>() {
            let access: Access = named(&name);
            let grows = access.rights(3) != access.rights(NEWEST);
            assert_eq!(grows, access == Access::Write, "{name}");
            let reads = AccessFs::from_read(kernel(NEWEST)).contains(access.rights(NEWEST));
            assert_eq!(access.writes(), !reads, "{name}");
        }
        let parts = [
            Access::Create,
            Access::Remove,
            Access::Modify,
            Access::Refer,
            Access::Ioctl,
            Access::Unix,
        ];
        let all = parts.iter().fold(BitFlags::EMPTY, |all, it| all | it.rights(NEWEST));
        assert_eq!(all, Access::Write.rights(NEWEST));
    }

    #[test]
    fn what_is_beyond_is_named_in_order() {
        let names: Vec<_> = Features::of(10).beyond(Features::of(6)).map(|it| it.name).collect();
        assert_eq!(
            names,
            [
                "resolve-unix",
                "port right connect_udp",
                "port right bind_udp",
                "log flag same-exec-off",
                "log flag new-exec-on",
                "log flag subdomains-off",
            ]
        );
        assert_eq!(Features::of(8).beyond(Features::of(7)).count(), 0);
    }
}
