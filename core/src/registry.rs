//! The registry: the mechanisms that are linked into this binary, collected once.

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
///
/// They are in the order in which they were linked, and searched one by one: a launch looks for a few of some twenty, and
/// to sort those takes longer.
#[derive(Clone)]
pub struct Registry(Vec<Registered>);

#[derive(Clone)]
struct Registered {
    id: &'static str,
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
        Self::of(&inventory::iter::<Registration>.into_iter().collect::<Vec<_>>())
    }

    fn of(registrations: &[&'static Registration]) -> Result<Self, DuplicateId> {
        let mut registry = Self(Vec::with_capacity(registrations.len()));
        for it in registrations {
            let Registration { mechanism, .. } = **it;
            let id = mechanism.declaration().id;
            if let Some(place) = registry.place(id) {
                // Link order is undefined; file and line keep the error's the same.
                let mut places = [registrations[place], *it].map(|it| (it.file, it.line));
                places.sort_unstable();
                let [first, second] = places.map(|(file, line)| format!("{file}:{line}"));
                return Err(DuplicateId { id, first, second });
            }
            registry.0.push(Registered { id, mechanism, digest: OnceCell::new() });
        }
        Ok(registry)
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
        self.0.iter().position(|it| it.id == id)
    }

    /// The mechanism at a place.
    pub(crate) fn mechanism_at(&self, place: usize) -> &'static dyn Mechanism {
        self.0[place].mechanism
    }

    /// The digest of the declaration of the mechanism at a place.
    pub(crate) fn digest_at(&self, place: usize) -> Digest {
        let Registered { mechanism, digest, .. } = &self.0[place];
        *digest.get_or_init(|| mechanism.declaration().digest())
    }

    /// The mechanisms, sorted by id.
    pub fn iter(&self) -> impl Iterator<Item = &'static dyn Mechanism> {
        let mut sorted: Vec<_> = self.0.iter().map(|it| (it.id, it.mechanism)).collect();
        sorted.sort_unstable_by_key(|(id, _)| *id);
        sorted.into_iter().map(|(_, mechanism)| mechanism)
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
        Registry::of(&registrations(declarations.iter().map(declared).collect()))
    }

    #[cfg(feature = "testkit")]
    pub(crate) fn registry_of(mechanisms: Vec<&'static dyn Mechanism>) -> Registry {
        Registry::of(&registrations(mechanisms)).unwrap()
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
