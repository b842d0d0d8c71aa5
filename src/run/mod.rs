//! The use cases, each from a request to the files of its result: `--local` and the worker both call
//! them, and so write the same files with the same metadata. Blocking; all that they ask of their
//! surroundings is passed in.

mod attempt_note;
mod attempt_objects;
mod engine;
mod error;
mod evaluate;
mod judging;
mod ports;
mod result_files;
mod result_store;
mod saving;
mod shared_state;
mod state_files;
#[cfg(test)]
mod tests;
mod unlearn;

pub use engine::{DeviceEngine, Undertaking};
pub use error::RunError;
pub use evaluate::{EvaluateRequest, Judgement, evaluate};
pub use ports::{Measurements, RunPorts, versions};
pub use result_files::ResultFiles;
pub use result_store::{CopyProblem, FoundResult, ResultStore};
pub use saving::Saving;
pub use shared_state::{SharedState, SharedStateStore};
pub use state_files::StateFiles;
pub use unlearn::{Erasure, Trained, Unfinished, UnlearnRequest, unlearn, write_trained};
