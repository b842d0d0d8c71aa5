//! Keystep makes text-to-image diffusion models forget: it finds the denoising steps that decide a
//! concept and fine-tunes only there (key-step concept unlearning).
//!
//! # The map
//!
//! | Module | Is | May use |
//! | --- | --- | --- |
//! | [`spec`] | what a job asks for: validated, immutable, serializable; pure | – |
//! | [`outcome`] | what a job yields: scores, figures, pictures, files; plain data | `spec` |
//! | [`gate`] | an erased model held against a policy: rules decided by intervals, and the verdict in the forms that pipelines read; pure | `spec`, `outcome` |
//! | [`provenance`] | signed statements of how results were made, and whether files are those that were signed; over digests, no file | `spec`, `outcome` |
//! | [`engine`] | everything with tensors: models, sampling, scoring, unlearning, judging | `spec`, `outcome` |
//! | [`artifacts`] | model folders in, result folders out; bytes and digests only | `spec`, `outcome` |
//! | [`jobs`] | jobs that are never lost: the machine, the log, leases, stores | `spec`, `outcome` |
//! | [`run`] | the use cases, each from a request to the files of its result: for `--local` and the worker alike | `spec`, `outcome`, `engine`, `artifacts`, `jobs`, `report`, `storage` |
//! | [`device`] | slots, each with a thread for jobs and one for calls that take turns: loaded models, memory, health | `spec`, `outcome`, `engine`, `artifacts`, `jobs`, `report`, `run` |
//! | [`worker`] | claim, run, publish | `spec`, `outcome`, `engine`, `artifacts`, `jobs`, `report`, `run`, `device`, `provenance` |
//! | [`storage`] | object storage by URL: uploads and downloads, in parts, compared | – |
//! | [`publishing`] | results into object storage: files, model card, and last the manifest | `spec`, `outcome`, `artifacts`, `jobs`, `device`, `worker`, `report`, `storage`, `provenance` |
//! | [`catalogue`] | models by name: base models by URL through a local cache, and what jobs published | `spec`, `outcome`, `artifacts`, `jobs`, `device`, `storage` |
//! | [`auth`] | who calls and what they may: tokens, roles, limits | `jobs` |
//! | [`proto`] | the generated wire types | – |
//! | [`api`] | the services: conversions, the table of errors, operations | `spec`, `outcome`, `jobs`, `device`, `worker`, `catalogue`, `auth`, `report`, `proto` |
//! | [`server`] | the listener: TLS, layers, health, reflection | `jobs`, `auth`, `api`, `proto` |
//! | [`config`] | typed settings: defaults, file, environment, flags | – |
//! | [`telemetry`] | logs, metrics | – |
//! | [`shutdown`] | the phases of a shutdown | – |
//! | [`daemon`] | the daemon in one piece: starts the parts, watches them, shuts down in order | `jobs`, `run`, `device`, `worker`, `storage`, `provenance`, `publishing`, `catalogue`, `auth`, `api`, `server`, `config`, `telemetry`, `shutdown` |
//! | [`report`] | what people look at: contact sheets, plots, the report page | `spec`, `outcome` |
//! | [`cli`] | a file for each verb; wires the others, holds no algorithm | all |
//!
//! # Invariants
//!
//! The engine does no I/O: bytes in, bytes out.
//! No input from a client, a file or a device can panic the process.
//! No time is read in the engine; no randomness is drawn outside of
//! [`engine::schedule::noise`].
//! The same spec, seed and device give the same bytes.
//! `tests/project/architecture.rs` holds the arrows of the table above straight.
//!
//! # Features
//!
//! `server` (the default) builds everything, `client` the command line's remote verbs without
//! tensors, and neither of them `spec` and `outcome` alone. `cuda` adds NVIDIA GPUs, and `testing`
//! the fakes `worker::testing` and `storage::testing`, for tests of what is built on the library.

#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "server")]
pub mod artifacts;
#[cfg(feature = "server")]
pub mod auth;
#[cfg(feature = "server")]
pub mod catalogue;
#[cfg(feature = "client")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod daemon;
#[cfg(feature = "server")]
pub mod device;
#[cfg(feature = "server")]
pub mod engine;
#[cfg(feature = "client")]
pub mod gate;
#[cfg(feature = "server")]
pub mod jobs;
pub mod outcome;
#[cfg(feature = "client")]
pub mod proto;
#[cfg(feature = "server")]
pub mod provenance;
#[cfg(feature = "server")]
pub mod publishing;
#[cfg(feature = "server")]
pub mod report;
#[cfg(feature = "server")]
pub mod run;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod shutdown;
pub mod spec;
#[cfg(feature = "server")]
pub mod storage;
#[cfg(feature = "server")]
pub mod telemetry;
#[cfg(feature = "server")]
pub mod worker;
