//! Keystep makes text-to-image diffusion models forget: it finds the denoising steps that decide a
//! concept and fine-tunes only there (key-step concept unlearning).
//!
//! # The map
//!
//! | Module | Is | May use |
//! | --- | --- | --- |
//! | [`spec`] | what a job asks for: validated, immutable, serializable; pure | – |
//! | [`outcome`] | what a job yields: scores, figures, pictures; plain data | `spec` |
//! | [`engine`] | everything with tensors: models, sampling, scoring, unlearning, judging | `spec`, `outcome` |
//! | [`artifacts`] | model folders in, result folders out; bytes and digests only | `spec` |
//! | [`jobs`] | jobs that are never lost: state machine, log, leases, stores | `spec`, `outcome` |
//! | [`worker`] | claims, runs and publishes jobs; owns the device thread | `spec`, `outcome`, `engine`, `jobs`, `artifacts`, `report`, `telemetry` |
//! | [`proto`] | the generated wire types | – |
//! | [`report`] | what people look at: contact sheets, plots, the report page | `spec`, `outcome` |
//! | [`cli`] | one file a verb; wires the others, holds no algorithm | all |
//!
//! # Invariants
//!
//! The engine does no I/O: bytes in, bytes out.
//! No input from a client, a file or a device can panic the process.
//! No time is read in the engine; no randomness is drawn outside of
//! [`engine::schedule::noise`].
//! The same spec, seed and device give the same bytes.
//! `tests/architecture.rs` holds the arrows of the table above straight.
//!
//! # Features
//!
//! `server` (the default) builds everything, `client` the command line's remote verbs without
//! tensors, and neither of them `spec` and `outcome` alone.

#[cfg(feature = "server")]
pub mod artifacts;
#[cfg(feature = "client")]
pub mod cli;
#[cfg(feature = "server")]
pub mod engine;
#[cfg(feature = "server")]
pub mod jobs;
pub mod outcome;
#[cfg(feature = "client")]
pub mod proto;
#[cfg(feature = "server")]
pub mod report;
pub mod spec;
#[cfg(feature = "server")]
pub mod worker;
