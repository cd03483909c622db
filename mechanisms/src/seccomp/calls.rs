//! System calls by name.

use syscalls::Sysno;

/// The call of this name on this architecture: the name of its manual page, or the kernel's.
///
/// A profile has a hundred names and a container engine's file has hundreds, and each launch looks all of
/// them up; `Sysno`'s own `parse` compares a name with one call's after the other.
fn find(name: &str) -> Option<Sysno> {
    let mut at = hash(name.as_bytes());
    loop {
        // There are more places than calls: the search ends.
        let number = PLACES[at % PLACES.len()]?;
        let call = Sysno::new(number.into())?;
        if call.name() == name {
            return Some(call);
        }
        at += 1;
    }
}

/// The number of a call on this architecture.
pub(super) fn number(name: &str) -> Option<u32> {
    // aarch64's table has the call by its other name.
    let found = find(name).or_else(|| match name {
        "newfstatat" => find("fstatat"),
        _ => None,
    });
    found.and_then(|call| u32::try_from(call.id()).ok())
}

/// The calls' numbers, each at the first free place from its name's hash on.
static PLACES: [Option<u16>; 1024] = places();

const fn places() -> [Option<u16>; 1024] {
    let mut places = [None; 1024];
    let mut number = 0;
    while number < 1024 {
        if let Some(call) = Sysno::new(number as usize) {
            let mut at = hash(call.name().as_bytes());
            while places[at % places.len()].is_some() {
                at += 1;
            }
            places[at % places.len()] = Some(number);
        }
        number += 1;
    }
    places
}

/// FNV-1a, of 32 bits.
const fn hash(bytes: &[u8]) -> usize {
    let mut hash = 0x811c_9dc5_u32;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    // Of a number this small the low bits are mixed the least.
    (hash >> 16 ^ hash) as usize
}

/// The name of the call that has this number.
#[cfg(test)]
pub(super) fn name(number: u32) -> &'static str {
    Sysno::new(number as usize).map_or("a call that has no name", |call| call.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_found_by_its_name_and_nothing_else_is() {
        for call in Sysno::iter() {
            assert_eq!(find(call.name()), Some(call));
        }
        assert!(Sysno::count() * 2 < PLACES.len(), "an empty place is near");
        for name in ["", "reads", "no_such_call", "READ", "@mount"] {
            assert_eq!(find(name), None, "{name}");
        }
        assert_eq!(number("read").map(i64::from), Some(libc::SYS_read));
        assert_eq!(number("newfstatat").map(i64::from), Some(libc::SYS_newfstatat));
    }
}
