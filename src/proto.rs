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
