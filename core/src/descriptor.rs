//! Descriptors: which fds a plan declares, what each is for, and what each must be.

use serde::{Deserialize, Serialize};

/// The most slots that a descriptor table may hold.
pub const MAX_SLOTS: usize = 1024;

/// One row of a plan's descriptor table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescriptorSlot {
    /// What the fd is for.
    pub role: DescriptorRole,
    /// What `fstat` must say of it.
    pub expected: DescriptorShape,
    /// The fd number at which the launcher finds it.
    pub slot_index: u32,
}

/// What an fd is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DescriptorRole {
    /// A file hierarchy that may be read; may repeat.
    ReadRoot,
    /// A file hierarchy that may be written; may repeat.
    WriteRoot,
    /// The executable of the workload.
    TargetExe,
    /// The cgroup that the workload is born in.
    CgroupDir,
    /// The workload's standard input.
    Stdin,
    /// The workload's standard output.
    Stdout,
    /// The workload's standard error.
    Stderr,
    /// The transcript's channel.
    ControlChannel,
}

impl DescriptorRole {
    /// Whether a table may hold more than one slot of this role.
    pub fn may_repeat(self) -> bool {
        matches!(self, Self::ReadRoot | Self::WriteRoot)
    }
}

/// What a declared fd must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescriptorShape {
    /// The kind of file.
    pub kind: DescriptorKind,
    /// Whether it is open for writing (`O_WRONLY` or `O_RDWR`); counts for directories and regular
    /// files only. A directory can't be: the rights over what is below it are a mechanism's to give.
    pub writable: bool,
}

impl DescriptorShape {
    /// Whether an fd of the shape `found` is what this one asks for.
    pub fn admits(self, found: Self) -> bool {
        let counts = matches!(self.kind, DescriptorKind::Directory | DescriptorKind::Regular);
        self.kind == found.kind && (!counts || self.writable == found.writable)
    }
}

/// The kinds of file that a slot can declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DescriptorKind {
    /// A directory.
    Directory,
    /// A regular file.
    Regular,
    /// A socket.
    Socket,
    /// A pipe or FIFO.
    Pipe,
}

impl DescriptorKind {
    /// The kind that `st_mode` of [inode(7)] names, where it is one that a slot can declare.
    ///
    /// [inode(7)]: https://man7.org/linux/man-pages/man7/inode.7.html
    pub fn from_mode(mode: u32) -> Option<Self> {
        match mode & libc::S_IFMT {
            libc::S_IFDIR => Some(Self::Directory),
            libc::S_IFREG => Some(Self::Regular),
            libc::S_IFSOCK => Some(Self::Socket),
            libc::S_IFIFO => Some(Self::Pipe),
            _ => None,
        }
    }
}

/// A table in which no index and no singleton role appears twice.
///
/// ```
/// use portcullis_core::descriptor::DescriptorTable;
///
/// assert!(DescriptorTable::new(&[]).unwrap().slots().is_empty());
/// ```
#[derive(Debug, Clone, Copy)]
pub struct DescriptorTable<'a>(&'a [DescriptorSlot]);

/// Why a descriptor table is rejected; the first reason that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// Two slots at one fd number.
    #[error("DuplicateSlotIndex: two slots declare fd {slot_index}")]
    DuplicateSlotIndex {
        /// The number.
        slot_index: u32,
    },
    /// Two slots of a role that is a singleton.
    #[error("DuplicateSingletonRole: two slots have the role {role:?}")]
    DuplicateSingletonRole {
        /// The role.
        role: DescriptorRole,
    },
    /// A number that no fd can have.
    #[error("slot {slot_index} is no fd number: fds end at {}", i32::MAX)]
    NoSuchNumber {
        /// The number.
        slot_index: u32,
    },
}

impl<'a> DescriptorTable<'a> {
    /// Checks the table.
    ///
    /// # Errors
    ///
    /// The variants of [`TableError`], in their order.
    pub fn new(slots: &'a [DescriptorSlot]) -> Result<Self, TableError> {
        let mut indices: Vec<u32> = slots.iter().map(|slot| slot.slot_index).collect();
        indices.sort_unstable();
        if let Some(pair) = indices.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(TableError::DuplicateSlotIndex { slot_index: pair[0] });
        }
        let mut singletons: Vec<DescriptorRole> =
            slots.iter().map(|slot| slot.role).filter(|role| !role.may_repeat()).collect();
        singletons.sort_unstable();
        if let Some(pair) = singletons.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(TableError::DuplicateSingletonRole { role: pair[0] });
        }
        if let Some(&slot_index) = indices.last().filter(|last| i32::try_from(**last).is_err()) {
            return Err(TableError::NoSuchNumber { slot_index });
        }
        Ok(Self(slots))
    }

    /// The slots, in the plan's order.
    pub fn slots(&self) -> &'a [DescriptorSlot] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(slot_index: u32, role: DescriptorRole) -> DescriptorSlot {
        let expected = DescriptorShape { kind: DescriptorKind::Directory, writable: false };
        DescriptorSlot { role, expected, slot_index }
    }

    #[test]
    fn a_duplicate_index_is_named_before_a_duplicate_role() {
        use DescriptorRole::{ReadRoot, TargetExe};
        let table = [slot(4, TargetExe), slot(5, TargetExe), slot(5, ReadRoot)];
        let error = DescriptorTable::new(&table).unwrap_err();
        assert_eq!(error, TableError::DuplicateSlotIndex { slot_index: 5 });
        let error = DescriptorTable::new(&table[..2]).unwrap_err();
        assert_eq!(error, TableError::DuplicateSingletonRole { role: TargetExe });
    }

    #[test]
    fn roots_repeat_and_every_other_role_is_a_singleton() {
        use DescriptorRole::{
            CgroupDir, ControlChannel, ReadRoot, Stderr, Stdin, Stdout, TargetExe, WriteRoot,
        };
        for role in
            [ReadRoot, WriteRoot, TargetExe, CgroupDir, Stdin, Stdout, Stderr, ControlChannel]
        {
            let table = [slot(8, role), slot(9, role)];
            let repeats = matches!(role, ReadRoot | WriteRoot);
            assert_eq!(DescriptorTable::new(&table).is_ok(), repeats, "{role:?}");
        }
    }

    #[test]
    fn writable_counts_for_directories_and_regular_files_only() {
        use DescriptorKind::{Directory, Pipe, Regular, Socket};
        for (kind, counts) in [(Directory, true), (Regular, true), (Socket, false), (Pipe, false)] {
            let asked = DescriptorShape { kind, writable: false };
            assert_eq!(asked.admits(DescriptorShape { kind, writable: true }), !counts, "{kind:?}");
        }
    }

    #[test]
    fn a_number_beyond_the_last_fd_is_rejected() {
        let table = [slot(u32::MAX, DescriptorRole::ReadRoot)];
        let expected = TableError::NoSuchNumber { slot_index: u32::MAX };
        assert_eq!(DescriptorTable::new(&table).unwrap_err(), expected);
    }
}
