//! Everything with tensors: bytes in, bytes out. Knows no files, no wire, no jobs and no clock.

mod candle_engine;
pub mod checkpoint;
mod denoise;
mod device;
mod error;
mod generate;
pub mod judge;
pub mod model;
pub mod ops;
mod pipeline;
mod plan;
mod run;
pub mod schedule;
mod score;
mod state;
mod unlearn;

pub use candle_engine::CandleEngine;
pub use device::{Compute, ComputeSettings, ComputeType, DeviceChoice};
pub use error::EngineError;
pub use generate::Drawn;
pub use pipeline::Pipeline;
pub use plan::plan;
pub use run::{CancelFlag, PauseFlag, RunContext};
pub use state::{PartReader, Saving, StateError, StatePart, StateStore};
pub use unlearn::{Batch, ErasedCheckpoint, LoneSteps};
