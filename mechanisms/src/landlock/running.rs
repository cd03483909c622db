//! What the running kernel has.

use std::sync::OnceLock;

use landlock::{Erratum, LandlockStatus, RestrictSelf};

use super::{FLOOR, NEWEST};

/// The running kernel's Landlock. It is asked once: what a kernel has does not change while it runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Running(LandlockStatus);

impl Running {
    pub(super) fn get() -> Self {
        static RUNNING: OnceLock<Running> = OnceLock::new();
        *RUNNING.get_or_init(|| {
            // Without a flag to set this restricts nothing: it only asks for the version.
            let asked = RestrictSelf::default().no_new_privs(false).apply();
            Self(asked.map_or(LandlockStatus::NotImplemented, |status| status.landlock))
        })
    }

    /// The newest ABI that the kernel has and that is known here; `Err` says why there is none that is
    /// good enough.
    pub(super) fn abi(self) -> Result<u8, String> {
        match self.0 {
            LandlockStatus::Available { effective_abi, .. } => match effective_abi as u8 {
                abi if abi >= FLOOR => Ok(abi),
                abi => Err(format!(
                    "this kernel has Landlock ABI {abi}, which does not cover truncation, and ABI \
                     {FLOOR} (Linux 6.2) is the floor, whatever a plan prefers"
                )),
            },
            LandlockStatus::NotEnabled => {
                Err("Landlock is built into this kernel and not enabled; \
                                               the boot parameter lsm= must name it"
                    .into())
            }
            LandlockStatus::NotImplemented => Err("Landlock is not in this kernel; it comes with \
                                                   Linux 6.2 as ABI 3, built with \
                                                   CONFIG_SECURITY_LANDLOCK"
                .into()),
        }
    }

    /// In words, for a probe: the ABI, and which of the
    /// [errata](https://docs.kernel.org/userspace-api/landlock.html#kernel-support) are mended.
    pub(super) fn detail(self, abi: u8) -> String {
        let newer = match self.0 {
            LandlockStatus::Available { kernel_abi: Some(newer), .. } => {
                format!("ABI {newer}, of which {NEWEST} is known here")
            }
            _ => format!("ABI {abi}"),
        };
        let mended = Erratum::current().bits();
        let numbers = (0..u32::BITS).filter(|bit| mended >> bit & 1 == 1);
        let numbers: Vec<_> = numbers.map(|bit| (bit + 1).to_string()).collect();
        if numbers.is_empty() {
            format!("{newer}; no erratum is known to be mended")
        } else {
            format!("{newer}; errata mended: {}", numbers.join(", "))
        }
    }
}

/// The newest ABI, of those that are known here, that the running kernel has.
///
/// ```
/// use portcullis_mechanisms::landlock::{FLOOR, NEWEST, running_abi};
///
/// assert!(running_abi().is_none_or(|abi| (FLOOR..=NEWEST).contains(&abi)));
/// ```
pub fn running_abi() -> Option<u8> {
    Running::get().abi().ok()
}

#[cfg(test)]
mod tests {
    use landlock::ABI;

    use super::*;

    fn available(abi: i32) -> Running {
        let effective_abi = ABI::from(abi);
        let kernel_abi = (effective_abi as i32 != abi).then_some(abi);
        Running(LandlockStatus::Available { effective_abi, kernel_abi })
    }

    #[test]
    fn below_the_floor_there_is_none_and_why_is_said() {
        for abi in 1..i32::from(FLOOR) {
            let why = available(abi).abi().unwrap_err();
            assert!(why.contains(&format!("ABI {abi}")) && why.contains("ABI 3"), "{why}");
        }
        assert!(Running(LandlockStatus::NotEnabled).abi().unwrap_err().contains("lsm="));
        assert!(Running(LandlockStatus::NotImplemented).abi().unwrap_err().contains("CONFIG"));
    }

    #[test]
    fn of_a_newer_kernel_what_is_known_counts() {
        for abi in i32::from(FLOOR)..=i32::from(NEWEST) {
            assert_eq!(available(abi).abi().map(i32::from), Ok(abi));
        }
        assert_eq!(available(99).abi(), Ok(NEWEST));
        assert!(available(99).detail(NEWEST).starts_with("ABI 99, of which 10"));
    }

    #[test]
    fn asking_restricts_nobody() {
        Running::get();
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let own = status.lines().find(|line| line.starts_with("NoNewPrivs:")).unwrap();
        let parent = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(parent.contains(own));
    }
}
