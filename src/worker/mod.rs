//! The worker: claims jobs, owns the device thread, saves and resumes training, publishes results,
//! and serves the calls that are bound to their caller in between.

mod direct;
mod engine;
mod failure;
mod models;
mod publishing;
mod state_files;

pub use direct::{DirectCall, DirectQueueFull, DirectStream, DirectUpdate, PlanEstimate};
pub use engine::{CandleSource, DeviceEngine, EngineSource};
pub use failure::{artifact_failure, disk_failure, engine_failure, report_failure, spec_failure};
pub use models::{EditedTensors, ModelProvider, OpenedModel};
pub use publishing::{
    FinishedResult, PublishRequest, Published, Publisher, ResultFile, RunTimes, TrainingFigures,
};
pub use state_files::StateFiles;
