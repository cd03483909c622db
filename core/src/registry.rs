//! The registry: the mechanisms that are linked into this binary, collected once and sorted.

use std::cell::OnceCell;

use crate::mechanism::Mechanism;
use crate::plan::LoweringEntry;
use crate::{Digest, Params};

/// What [`register!`](crate::register) leaves for [`Registry::collect`] to find.
pub struct Registration {
    mechanism: &'static dyn Mechanism,
    file: &'static str,
    line: u32,
}

impl Registration {
    #[doc(hidden)]
    pub const fn new(mechanism: &'static dyn Mechanism, file: &'static str, line: u32) -> Self {
        Self { mechanism, file, line }
    }
}

inventory::collect!(Registration);

/// Registers a mechanism with every binary that links the crate it is in.
///
/// A crate that nothing refers to is not linked: a binary says `use its_name as _;` for each crate of
/// mechanisms that it wants.
///
/// ```
/// use portcullis_core::mechanism::*;
/// use portcullis_core::{Lowering, Params};
///
/// struct Nothing;
///
/// static DECLARATION: Declaration = Declaration {
///     id: "linux.nothing.do.v1",
///     version: 1,
///     phase: Phase::Privilege,
///     rank: 0,
///     rank_reason: "it touches nothing that another mechanism needs",
///     repeat: Repeat::Once,
///     requires: &[],
///     conflicts: &[],
///     summary: "does nothing",
///     kernel_floor: "any",
///     params: "{}",
///     example: "{}",
///     guide: "",
///     demonstration: Demonstration { policy: "{}", with: &[], script: "", shows: "" },
/// };
///
/// impl Mechanism for Nothing {
///     fn declaration(&self) -> &'static Declaration {
///         &DECLARATION
///     }
///     fn open(&self, policy: &Params, _: &mut Opening) -> Result<Params, OpenError> {
///         Ok(policy.clone())
///     }
///     fn lower(&self, _: &Params, _: &mut Lowering<'_>) -> Result<(), Stop> {
///         Ok(())
///     }
///     fn probe(&self, _: &dyn Host) -> Support {
///         Support::yes("always")
///     }
/// }
///
/// portcullis_core::register!(Nothing);
///
/// let registry = portcullis_core::Registry::collect().unwrap();
/// assert!(registry.find("linux.nothing.do.v1").is_some());
/// ```
#[macro_export]
macro_rules! register {
    ($mechanism:expr) => {
        $crate::__private::inventory::submit! {
            $crate::registry::Registration::new(&$mechanism, file!(), line!())
        }
    };
}

/// The registered mechanisms, by id.
#[derive(Clone)]
pub struct Registry(Vec<Registered>);

#[derive(Clone)]
struct Registered {
    mechanism: &'static dyn Mechanism,
    /// That of its declaration. Who classifies many plans makes it once.
    digest: OnceCell<Digest>,
}

/// Two mechanisms of one id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{id} is registered twice, at {first} and at {second}: one of the two must go")]
pub struct DuplicateId {
    /// The id.
    pub id: &'static str,
    /// File and line of one.
    pub first: String,
    /// File and line of the other.
    pub second: String,
}

impl Registry {
    /// Collects what is linked into this binary.
    ///
    /// # Errors
    ///
    /// [`DuplicateId`] where two registrations have one id.
    pub fn collect() -> Result<Self, DuplicateId> {
        Self::of(inventory::iter::<Registration>.into_iter().collect())
    }

    fn of(mut registrations: Vec<&'static Registration>) -> Result<Self, DuplicateId> {
        // Link order is undefined; file and line keep the error's order the same for two of one id.
        registrations.sort_unstable_by_key(|it| (it.mechanism.declaration().id, it.file, it.line));
        for pair in registrations.windows(2) {
            let [first, second] = pair else { continue };
            let id = first.mechanism.declaration().id;
            if id == second.mechanism.declaration().id {
                let place = |it: &Registration| format!("{}:{}", it.file, it.line);
                return Err(DuplicateId { id, first: place(first), second: place(second) });
            }
        }
        let registered =
            |it: &Registration| Registered { mechanism: it.mechanism, digest: OnceCell::new() };
        Ok(Self(registrations.into_iter().map(registered).collect()))
    }

    /// The mechanism of this id.
    pub fn find(&self, id: &str) -> Option<&'static dyn Mechanism> {
        self.place(id).map(|place| self.0[place].mechanism)
    }

    /// An entry for the mechanism of this id with these parameters, if there is one.
    pub fn entry(&self, id: &str, params: Params) -> Option<LoweringEntry> {
        let place = self.place(id)?;
        let declaration = self.mechanism_at(place).declaration();
        Some(declaration.entry_with(params, self.digest_at(place)))
    }

    /// The place of the mechanism of this id among all.
    pub(crate) fn place(&self, id: &str) -> Option<usize> {
        self.0.binary_search_by_key(&id, |it| it.mechanism.declaration().id).ok()
    }

    /// The mechanism at a place.
    pub(crate) fn mechanism_at(&self, place: usize) -> &'static dyn Mechanism {
        self.0[place].mechanism
    }

    /// The digest of the declaration of the mechanism at a place.
    pub(crate) fn digest_at(&self, place: usize) -> Digest {
        let Registered { mechanism, digest } = &self.0[place];
        *digest.get_or_init(|| mechanism.declaration().digest())
    }

    /// The mechanisms, by id.
    pub fn iter(&self) -> impl Iterator<Item = &'static dyn Mechanism> + '_ {
        self.0.iter().map(|it| it.mechanism)
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter().map(|it| it.declaration().id)).finish()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::lowering::Lowering;
    use crate::mechanism::{
        Declaration, Demonstration, Host, OpenError, Opening, Phase, Repeat, Stop, Support,
    };
    use crate::params::Params;

    /// A mechanism that is only its declaration.
    pub(crate) struct Declared(pub(crate) Declaration);

    impl Mechanism for Declared {
        fn declaration(&self) -> &'static Declaration {
            Box::leak(Box::new(self.0))
        }
        fn open(&self, policy: &Params, _: &mut Opening) -> Result<Params, OpenError> {
            Ok(policy.clone())
        }
        fn lower(&self, _: &Params, _: &mut Lowering<'_>) -> Result<(), Stop> {
            Ok(())
        }
        fn probe(&self, _: &dyn Host) -> Support {
            Support::yes("")
        }
    }

    pub(crate) fn declaration(id: &'static str, phase: Phase, rank: u8) -> Declaration {
        Declaration {
            id,
            version: 1,
            phase,
            rank,
            rank_reason: "",
            repeat: Repeat::Once,
            requires: &[],
            conflicts: &[],
            summary: "",
            kernel_floor: "",
            params: "{}",
            example: "{}",
            guide: "",
            demonstration: Demonstration { policy: "{}", with: &[], script: "", shows: "" },
        }
    }

    pub(crate) fn registry(declarations: &[Declaration]) -> Result<Registry, DuplicateId> {
        let declared =
            |it: &Declaration| -> &'static dyn Mechanism { Box::leak(Box::new(Declared(*it))) };
        Registry::of(registrations(declarations.iter().map(declared).collect()))
    }

    #[cfg(feature = "testkit")]
    pub(crate) fn registry_of(mechanisms: Vec<&'static dyn Mechanism>) -> Registry {
        Registry::of(registrations(mechanisms)).unwrap()
    }

    fn registrations(mechanisms: Vec<&'static dyn Mechanism>) -> Vec<&'static Registration> {
        let register = |(line, mechanism)| -> &'static Registration {
            Box::leak(Box::new(Registration::new(mechanism, "a.rs", line)))
        };
        (0..).zip(mechanisms).map(register).collect()
    }

    #[test]
    fn mechanisms_are_found_by_id_and_iterated_in_order() {
        let registry = registry(&[
            declaration("c", Phase::Policy, 0),
            declaration("a", Phase::Launch, 0),
            declaration("b", Phase::Policy, 1),
        ])
        .unwrap();
        assert_eq!(format!("{registry:?}"), r#"["a", "b", "c"]"#);
        assert_eq!(registry.find("b").unwrap().declaration().rank, 1);
        assert!(registry.find("d").is_none());
    }

    #[test]
    fn a_duplicate_is_an_error_that_names_both_places() {
        let twice = [declaration("a", Phase::Policy, 0), declaration("a", Phase::Launch, 0)];
        let error = registry(&twice).unwrap_err();
        assert_eq!(error, DuplicateId { id: "a", first: "a.rs:0".into(), second: "a.rs:1".into() });
    }
}
