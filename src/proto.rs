//! The generated wire types. Only `api`, on the server, and the client's verbs name them.

#![allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    rustdoc::all,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    reason = "generated from proto/, where every field is documented"
)]

include!(concat!(env!("OUT_DIR"), "/mod.rs"));

/// Every file of `proto/` as a `FileDescriptorSet`, for reflection and for tests.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// How the client prints fields whose generated type has no JSON of its own; `build.rs` names them.
mod as_json {
    use serde::{Serialize, Serializer};

    use super::keystep::v1::{Domain, JobState, ModelKind, Sampler, SuiteExpectation, WorkPhase};

    /// A time or duration as protobuf's own JSON has it.
    pub(super) fn text<T: ToString, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(T::to_string).serialize(serializer)
    }

    /// An enum's value by its name in the proto; one that is not known as unspecified.
    macro_rules! by_name {
        ($($form:ident of $of:ident),*) => {$(
            pub(super) fn $form<S: Serializer>(
                number: &i32,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                $of::try_from(*number).unwrap_or_default().as_str_name().serialize(serializer)
            }
        )*};
    }

    by_name!(
        domain of Domain, job_state of JobState, model_kind of ModelKind, sampler of Sampler,
        suite_expectation of SuiteExpectation, work_phase of WorkPhase
    );
}
