//! What the device is asked beside the job that holds it: calls, their answers and their queue's
//! limits. The worker that answers them belongs here too.

mod account;
mod call_limits;
mod claiming;
mod clearing;
mod context;
mod destination;
mod device;
mod device_command;
mod device_job;
mod device_settings;
mod device_state;
mod engine;
mod engine_failure;
mod heartbeat;
mod interactive;
mod interactive_queue;
mod job_run;
mod kept_pictures;
mod models;
mod output_health;
mod progress;
mod publication;
mod publishing;
mod publishing_settings;
mod result_files;
mod run;
mod running;
mod saving;
mod serving;
mod serving_mark;
mod stop;
#[cfg(feature = "testing")]
pub mod testing;
mod turn;
mod words;

pub use call_limits::CallLimits;
pub use claiming::{Worker, WorkerState};
pub use context::{WorkerParts, WorkerSettings, WorkerSignals};
pub use destination::{destination, is_allowed};
pub use device::{Device, DeviceHealth};
pub use device_settings::DeviceSettings;
pub use engine::{CandleSource, EngineSource};
pub use engine_failure::{
    artifact_failure, disk_failure, engine_failure, report_failure, spec_failure,
};
pub use interactive::{
    DirectQueueFull, InteractiveCall, InteractiveStream, InteractiveUpdate, PlanEstimate, Whose,
};
pub use interactive_queue::InteractiveCalls;
pub use kept_pictures::PictureCache;
pub use models::{EditedTensors, ModelProvider, OpenedModel};
pub use output_health::OutputHealth;
pub use publishing::{CommitGate, Leavings, PublishRequest, Publisher, RunTimes};
pub use publishing_settings::PublishingSettings;
pub use serving_mark::ServingMark;
pub use words::check_words;
