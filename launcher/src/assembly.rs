//! A program in the form in which a child runs it: every argument a word, every address in place.

use std::ffi::CString;
use std::sync::atomic::{AtomicUsize, Ordering};

use portcullis_child::{Errnos, Expect as ChildExpect, Step, Window, Word};
use portcullis_core::program::{Arg, BpfInstruction, Expect, Op, Program};

/// `struct sock_fprog` of [seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html).
#[repr(C)]
struct FilterProgram {
    length: u16,
    instructions: *const BpfInstruction,
}

/// What an address that is not the program's own points to.
#[allow(dead_code, reason = "used by address, in the child and by the kernel")]
enum Block {
    Pointers(Box<[usize]>),
    Buffer(Box<[u8]>),
    Filter(Box<FilterProgram>),
}

/// A program, assembled, and all the memory that its child uses.
pub(crate) struct Assembly {
    program: Program,
    steps: Vec<Step>,
    done: AtomicUsize,
    blocks: Vec<Block>,
}

impl Assembly {
    /// Assembles `program` for a child of the process `parent`.
    pub(crate) fn new(program: Program, parent: u32) -> Self {
        let mut blocks = Vec::new();
        let ops = program.ops().iter();
        let steps = ops.map(|(_, op)| step(op, parent, &mut blocks)).collect();
        Self { program, steps, done: AtomicUsize::new(0), blocks }
    }

    /// What the child runs.
    pub(crate) fn window(&self, report_fd: i32) -> Window<'_> {
        debug_assert!(self.blocks.len() <= self.steps.len() * 6, "a block an argument at the most");
        Window { steps: &self.steps, done: &self.done, report_fd }
    }

    /// The program.
    pub(crate) fn program(&self) -> &Program {
        &self.program
    }

    /// The program alone, whose addresses are no longer used.
    pub(crate) fn into_program(self) -> Program {
        self.program
    }

    /// How many steps the child counted off.
    pub(crate) fn done(&self) -> usize {
        self.done.load(Ordering::Acquire)
    }

    /// What the step at `place` returned.
    pub(crate) fn result(&self, place: usize) -> Option<isize> {
        self.steps.get(place)?.result()
    }
}

fn step(op: &Op, parent: u32, blocks: &mut Vec<Block>) -> Step {
    let mut words = [Word::Value(0); 6];
    for (slot, arg) in words.iter_mut().zip(op.args()) {
        *slot = word(arg, blocks);
    }
    let expect = match op.expect() {
        Expect::Value(value) => ChildExpect::Value(signed(*value)),
        Expect::ParentPid => ChildExpect::Value(signed(i64::from(parent))),
        Expect::NonNegative => ChildExpect::NonNegative,
        Expect::Tolerate(errnos) => ChildExpect::Tolerate(Errnos::of(errnos)),
        // What a child does not know how to compare, it must not pass.
        _ => ChildExpect::Value(0),
    };
    Step::new(register(op.number()), words, expect)
}

fn word(arg: &Arg, blocks: &mut Vec<Block>) -> Word {
    Word::Value(match arg {
        Arg::Int(value) => usize::try_from(*value).unwrap_or(usize::MAX),
        Arg::Fd(fd) => register(i64::from(*fd)),
        Arg::Bytes(bytes) => bytes.as_ptr().expose_provenance(),
        Arg::Buffer(length) => {
            let mut buffer = vec![0; *length].into_boxed_slice();
            let address = buffer.as_mut_ptr().expose_provenance();
            blocks.push(Block::Buffer(buffer));
            address
        }
        Arg::Strings(strings) => {
            let pointer = |string: &CString| string.as_ptr().expose_provenance();
            let pointers: Box<[usize]> = strings.iter().map(pointer).chain([0]).collect();
            let address = pointers.as_ptr().expose_provenance();
            blocks.push(Block::Pointers(pointers));
            address
        }
        Arg::Filter(filter) => {
            // A filter over 65,535 instructions is over the kernel's 4,096 too: cut, it is rejected.
            let length = u16::try_from(filter.len()).unwrap_or(u16::MAX);
            let program = Box::new(FilterProgram { length, instructions: filter.as_ptr() });
            let address = std::ptr::from_ref(&*program).expose_provenance();
            blocks.push(Block::Filter(program));
            address
        }
        Arg::Result(id) => return Word::Result(id.index()),
        // An argument of a kind that is unknown here is an address that no call takes.
        _ => usize::MAX,
    })
}

/// A register's bits of a number with a sign.
#[allow(clippy::cast_possible_truncation, reason = "the child runs on 64-bit machines alone")]
fn signed(value: i64) -> isize {
    value as isize
}

/// A register's bits of a number with a sign, for a call to take as it wants.
#[allow(clippy::cast_sign_loss, reason = "the kernel takes the bits, and gives them the sign back")]
fn register(value: i64) -> usize {
    signed(value) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(op: &Op) -> ([Word; 6], Vec<Block>) {
        let mut blocks = Vec::new();
        let step = step(op, 7, &mut blocks);
        (*step.args(), blocks)
    }

    #[test]
    fn numbers_and_fds_are_the_registers_bits() {
        let (args, _) = words(&Op::close_range(3, u32::MAX));
        assert!(matches!(args[..2], [Word::Value(3), Word::Value(0xffff_ffff)]));
    }

    #[test]
    fn argv_is_a_vector_of_addresses_that_ends_in_null() {
        let argv = [c"a".to_owned(), c"b".to_owned()];
        let op = Op::execveat(9, argv.to_vec(), vec![]);
        let (args, blocks) = words(&op);
        let Block::Pointers(pointers) = &blocks[0] else { panic!() };
        assert_eq!(pointers.len(), 3);
        assert_eq!(pointers[2], 0);
        assert!(matches!(args[2], Word::Value(at) if at == pointers.as_ptr().addr()));
    }
}
