//! Everything with tensors: bytes in, bytes out. Knows no files, no wire, no jobs and no clock.

pub mod checkpoint;
mod error;
pub mod model;
pub mod ops;
mod run;
pub mod schedule;

pub use error::EngineError;
pub use run::{CancelFlag, RunContext};
