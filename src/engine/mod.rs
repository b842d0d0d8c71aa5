//! Everything with tensors: bytes in, bytes out. Knows no files, no wire, no jobs and no clock.
//!
//! Its parts from the bottom up, each of which may use those before it and no other:
//! `device_choice`, `state_store`, `error`, `python_json`, `device`, `finite`, `resampling`, `run`, `kernels`, `tape`, `ops`,
//! `checkpoint`, `schedule`, `sampler`, `nn`, `family`, `denoise`, `part`, `judge`, `templates`, `wording`,
//! `pipeline`, `start`, `generate`, `evaluate`, `loss`, `trajectory`, `score`, `state`, `unlearn`,
//! `attack`, `plan`, `candle_engine`.
//! `tests/project/architecture.rs` holds them to it.

mod attack;
mod candle_engine;
pub mod checkpoint;
mod denoise;
mod device;
mod device_choice;
mod error;
pub mod evaluate;
pub mod family;
mod finite;
mod generate;
pub mod judge;
mod kernels;
mod loss;
pub mod nn;
pub mod ops;
mod part;
mod pipeline;
mod plan;
mod python_json;
mod resampling;
mod run;
pub mod sampler;
pub mod schedule;
mod score;
mod start;
mod state;
mod state_store;
pub mod tape;
mod templates;
mod trajectory;
mod unlearn;
mod wording;

pub use candle_engine::CandleEngine;
pub use device::{Compute, ComputeSettings};
pub use device_choice::{ComputeType, DeviceChoice};
pub use error::EngineError;
pub use pipeline::Pipeline;
pub use plan::{WorkMemory, plan, weight_bytes};
pub use run::{CancelFlag, CheckpointPolicy, PauseFlag, RunContext};
pub use sampler::check_judgement_sampler;
pub use state_store::{PartReader, SavePoint, StateError, StatePart, StateStore};
pub use unlearn::{Batch, ErasedCheckpoint, LoneSteps};
pub use wording::{check_erasure_words, check_judgement_words};
