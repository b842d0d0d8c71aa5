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
//! | [`jobs`] | jobs that are never lost: the machine, the log, leases, stores | `spec`, `outcome` |
//! | [`worker`] | what the device is asked between two updates of a job | `spec`, `outcome`, `engine`, `jobs` |
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

pub mod artifacts;
pub mod cli;
pub mod engine;
pub mod jobs;
pub mod outcome;
pub mod proto;
pub mod report;
pub mod spec;
pub mod worker;
