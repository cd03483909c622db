//! For tests: runs a filter as the kernel does, and counts.

use portcullis_core::program::BpfInstruction;

/// A call as a filter sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) architecture: u32,
    pub(super) number: u32,
    pub(super) arguments: [u64; 6],
}

pub(super) const NATIVE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
pub(super) const I386: u32 = 0x4000_0003;

impl Call {
    /// One of this architecture.
    pub(super) fn of(number: u32, arguments: [u64; 6]) -> Self {
        Self { architecture: NATIVE, number, arguments }
    }

    /// A word of `struct seccomp_data` of a little-endian machine.
    fn word(&self, offset: u32) -> u32 {
        assert!(offset % 4 == 0 && offset < 64, "the kernel takes no load at {offset}");
        match offset {
            0 => self.number,
            4 => self.architecture,
            _ => {
                let word = usize::try_from(offset).unwrap() / 4 - 4;
                let half = 32 * (word % 2);
                u32::try_from(self.arguments[word / 2] >> half & 0xffff_ffff).unwrap()
            }
        }
    }
}

/// What a filter returns for a call, and how many instructions it took.
pub(super) fn run(filter: &[BpfInstruction], call: &Call) -> (u32, usize) {
    let (mut at, mut accumulator) = (0, 0);
    for steps in 1.. {
        // Forward only: the kernel's check of a filter is that each jump lands inside.
        let BpfInstruction { code, jt, jf, k } = filter[at];
        at += 1;
        let jump = |taken: bool| usize::from(if taken { jt } else { jf });
        match code {
            0x20 => accumulator = call.word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x45 => at += jump(accumulator & k != 0),
            0x06 => return (k, steps),
            other => panic!("{other:#x} is not expected in a filter"),
        }
    }
    unreachable!()
}

/// What a filter returns for a call.
pub(super) fn decide(filter: &[BpfInstruction], call: &Call) -> u32 {
    run(filter, call).0
}
