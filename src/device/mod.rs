//! The device: loads models, does the engine's part of jobs, and serves interactive calls between
//! two units of a job's work.

mod account;
mod call_limits;
mod engine;
mod engine_failure;
mod health;
mod interactive;
mod interactive_queue;
mod memory;
mod models;
mod serving;
mod serving_mark;
mod settings;
mod slot;
mod slots;
mod turn;

pub use call_limits::CallLimits;
pub use engine::{CandleSource, EngineSource};
pub use engine_failure::{
    artifact_failure, disk_failure, engine_failure, report_failure, run_failure, spec_failure,
};
pub use health::DeviceHealth;
pub use interactive::{
    InteractiveCall, InteractiveQueueFull, InteractiveStream, InteractiveUpdate, PlanEstimate,
    QueueScope,
};
pub use interactive_queue::InteractiveCalls;
pub use models::{EditedTensors, ModelProvider, OpenedModel, PictureCache};
pub use serving_mark::ServingMark;
pub use settings::DeviceSettings;
pub use slot::Slot;
pub use slots::{Device, JobSlot, SlotWork};
pub use turn::JobFlags;
