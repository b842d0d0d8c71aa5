//! What the device is asked beside the job that holds it: calls, their answers and their queue's
//! limits. The worker that answers them belongs here too.

mod claiming;
mod context;
mod desk;
mod device;
mod device_job;
mod direct;
mod direct_queue;
mod engine;
mod exact_number;
mod failure;
mod heartbeat;
mod models;
mod progress;
mod publishing;
mod result_files;
mod run;
mod serving;
mod state_files;
mod stop;
#[doc(hidden)]
pub mod testing;

pub use claiming::{Worker, WorkerState};
pub use context::{WorkerParts, WorkerSettings, WorkerSignals};
pub use device::{Device, DeviceHealth, DeviceSettings};
pub use direct::{DirectCall, DirectQueueFull, DirectStream, DirectUpdate, PlanEstimate};
pub use direct_queue::DirectCalls;
pub use engine::{CandleSource, DeviceEngine, EngineSource};
pub use failure::{artifact_failure, disk_failure, engine_failure, report_failure, spec_failure};
pub use models::{EditedTensors, ModelProvider, OpenedModel};
pub use publishing::{
    CommitGate, FinishedResult, PublishRequest, Published, Publisher, ResultFile, RunTimes,
    TrainingFigures,
};
pub use state_files::StateFiles;
