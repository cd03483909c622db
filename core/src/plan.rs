//! The plan: what a supervisor asks a launcher for, whatever version of the wire it came by.

use crate::descriptor::DescriptorSlot;
use crate::frame::{Frame, FrameError, MAX_BODY_LEN};
use crate::wire::{WireError, check_limits, v1, v2};
use crate::{Digest, OsText, Params};

/// The most entries that a lowering may hold.
pub const MAX_ENTRIES: usize = 256;
/// The longest string that the kernel passes to a program: `MAX_ARG_STRLEN` of [execve(2)], less the
/// NUL that ends it.
///
/// [execve(2)]: https://man7.org/linux/man-pages/man2/execve.2.html
pub const MAX_STRING_LEN: usize = 128 * 1024 - 1;

/// What a plan says.
#[derive(Debug, Clone, PartialEq)]
pub struct LaunchBody {
    /// Names this attempt; carried, not interpreted.
    pub attempt_id: Digest,
    /// Names the plan; carried, not interpreted.
    pub plan_id: Digest,
    /// Names the authority that the plan was admitted under; carried, not interpreted.
    pub h_a: Digest,
    /// Names the policy that the plan was compiled from; carried, not interpreted.
    pub h_p: Digest,
    /// The digest of the canonical encoding of `lowering`; verified.
    pub h_l: Digest,
    /// The mechanisms, in the plan's order.
    pub lowering: Vec<LoweringEntry>,
    /// The fds that come with the plan.
    pub descriptor_table: Vec<DescriptorSlot>,
    /// The workload.
    pub target: Target,
}

/// One scheduled mechanism.
#[derive(Debug, Clone, PartialEq)]
pub struct LoweringEntry {
    /// The lowering id, `linux.<what>.<verb>.v<n>`.
    pub id: String,
    /// The version of the mechanism's contract.
    pub version: u32,
    /// The phase that the supervisor expects the mechanism in.
    pub phase_code: u32,
    /// What the mechanism is to do.
    pub params: Params,
    /// The digest of `params`; verified.
    pub param_digest: Digest,
    /// The digest of the mechanism's declaration, as the supervisor knows it; verified. `None` in a
    /// version 1 plan, which has no such thing.
    pub decl_digest: Option<Digest>,
    /// How the plan asks for it.
    pub standing: Standing,
}

/// How a plan asks for a mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// By an entry, which is part of its phase.
    #[default]
    Scheduled,
    /// By a field or a slot of a version 1 plan, whose phases know nothing of it: it is applied, and
    /// has its notes, like any other.
    Implied,
}

/// The workload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// The arguments, the program's name among them. No string holds a NUL.
    pub argv: Vec<OsText>,
    /// The environment, whole: names without `=`, and values.
    pub envp: Vec<(OsText, OsText)>,
    /// The slot of the executable.
    pub exe_slot: u32,
}

/// A decoded plan, whose identity has yet to be verified.
///
/// ```
/// use portcullis_core::frame::Frame;
/// use portcullis_core::plan::LaunchPlan;
///
/// let frame = Frame::encode(2, b"not CBOR").unwrap();
/// assert!(LaunchPlan::decode(&frame).is_err());
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LaunchPlan {
    version: u16,
    body: LaunchBody,
    lowering_digest: Digest,
    /// Of each entry's parameters.
    params_digests: Vec<Digest>,
}

/// Why bytes are not a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The envelope is wrong.
    #[error("the plan's frame: {0}")]
    Frame(#[from] FrameError),
    /// The body is wrong.
    #[error("the plan's body: {0}")]
    Wire(#[from] WireError),
}

/// Which of a plan's digests is not the digest of what it names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// `h_l` is not the digest of `lowering`.
    #[error("h_l is {declared}, and the lowering's digest is {found}")]
    Lowering {
        /// What the plan says.
        declared: Digest,
        /// What it is.
        found: Digest,
    },
    /// An entry's `param_digest` is not the digest of its `params`.
    #[error("the param_digest of {id} is {declared}, and the digest of its params is {found}")]
    Params {
        /// The entry's id.
        id: String,
        /// What the plan says.
        declared: Digest,
        /// What it is.
        found: Digest,
    },
}

impl LaunchPlan {
    /// Decodes a frame and its body.
    ///
    /// # Errors
    ///
    /// [`PlanError::Frame`] for the envelope, [`PlanError::Wire`] for the body.
    pub fn decode(bytes: &[u8]) -> Result<Self, PlanError> {
        let frame = Frame::decode(bytes)?;
        let version = frame.version();
        let (body, lowering_digest, params_digests) = if version == v1::VERSION {
            let (body, lowering) = v1::decode(frame.body())?;
            let params = body.lowering.iter().map(|entry| entry.params.digest()).collect();
            (body, lowering, params)
        } else {
            let v2::Decoded { body, lowering, params } = v2::decode(frame.body())?;
            (body, lowering, params)
        };
        check_limits(&body)?;
        Ok(Self { version, body, lowering_digest, params_digests })
    }

    /// The plan that a process makes for itself, of version 2. No bytes were between who says it and who does it, so
    /// that `h_l` has nothing to differ from and is not looked at; the digests of entries' parameters are.
    ///
    /// # Errors
    ///
    /// [`PlanError::Wire`] for a body that breaks a limit, [`PlanError::Frame`] for one that no frame could hold.
    pub fn own(mut body: LaunchBody) -> Result<Self, PlanError> {
        check_limits(&body)?;
        if v2::longest(&body) > MAX_BODY_LEN {
            Self::encode(&body)?;
        }
        // As its encoding would have it.
        for entry in &mut body.lowering {
            entry.standing = Standing::Scheduled;
            entry.decl_digest.get_or_insert(Digest::ZERO);
        }
        let params_digests = body.lowering.iter().map(|entry| entry.params.digest()).collect();
        Ok(Self { version: v2::VERSION, lowering_digest: body.h_l, body, params_digests })
    }

    /// Encodes a body and wraps it in a frame of version 2.
    ///
    /// # Errors
    ///
    /// [`PlanError::Wire`] for a body that breaks a limit, [`PlanError::Frame`] for one over 1 MiB.
    pub fn encode(body: &LaunchBody) -> Result<Vec<u8>, PlanError> {
        Ok(Frame::encode(v2::VERSION, &v2::encode(body)?)?)
    }

    /// The version of the protocol that the plan came by.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// What the plan says.
    pub fn body(&self) -> &LaunchBody {
        &self.body
    }

    /// Recomputes the digests that the plan carries of itself.
    ///
    /// # Errors
    ///
    /// [`IdentityError`] names the first that differs, `h_l` before the entries in their order.
    pub fn verify_identity(&self) -> Result<(), IdentityError> {
        let found = self.lowering_digest;
        if found != self.body.h_l {
            return Err(IdentityError::Lowering { declared: self.body.h_l, found });
        }
        for (entry, &found) in self.body.lowering.iter().zip(&self.params_digests) {
            if found != entry.param_digest {
                let id = entry.id.clone();
                return Err(IdentityError::Params { id, declared: entry.param_digest, found });
            }
        }
        Ok(())
    }
}

/// The digest of the canonical encoding of a lowering: what `h_l` must be in a version 2 plan.
pub fn lowering_digest(entries: &[LoweringEntry]) -> Digest {
    Digest::of(&v2::encode_lowering(entries))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mechanism::Phase;
    use crate::registry::tests::declaration;

    fn body() -> LaunchBody {
        let params = Params::of(&std::collections::BTreeMap::from([("a", 1)])).unwrap();
        let entries = [params, Params::default()];
        let lowering = entries.map(|it| declaration("some", Phase::Policy, 0).entry(it)).to_vec();
        LaunchBody {
            attempt_id: Digest::ZERO,
            plan_id: Digest::ZERO,
            h_a: Digest::ZERO,
            h_p: Digest::ZERO,
            h_l: lowering_digest(&lowering),
            lowering,
            descriptor_table: vec![],
            target: Target { argv: vec!["true".into()], ..Target::default() },
        }
    }

    #[test]
    fn a_plan_of_ones_own_is_the_one_that_its_encoding_is() {
        let mut body = body();
        // What no encoding of version 2 says.
        body.lowering[1].standing = Standing::Implied;
        body.lowering[1].decl_digest = None;
        body.h_l = lowering_digest(&body.lowering);
        let encoded = LaunchPlan::decode(&LaunchPlan::encode(&body).unwrap()).unwrap();
        let own = LaunchPlan::own(body).unwrap();
        assert_eq!(own, encoded);
        assert_eq!(own.verify_identity(), Ok(()));
    }

    #[test]
    fn a_plan_of_ones_own_is_held_to_the_limits_and_to_its_parameters_digests() {
        let mut nameless = body();
        nameless.target.argv.clear();
        assert!(matches!(LaunchPlan::own(nameless), Err(PlanError::Wire(_))));
        for count in [11, 12] {
            let mut long = body();
            long.target.argv = vec!["-".repeat(MAX_BODY_LEN / 12).as_str().into(); count];
            let (own, encoded) = (LaunchPlan::own(long.clone()), LaunchPlan::encode(&long));
            assert_eq!(own.map(drop), encoded.map(drop));
        }
        for index in 0..2 {
            let mut other = body();
            other.lowering[index].param_digest = [9; 32].into();
            let mismatch = LaunchPlan::own(other).unwrap().verify_identity();
            assert!(matches!(mismatch, Err(IdentityError::Params { .. })), "{mismatch:?}");
        }
    }
}
