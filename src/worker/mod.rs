//! The worker: claims jobs, has the device do the engine's part of them, publishes what comes of it,
//! and records how they end.

mod claiming;
mod clearing;
mod context;
mod destination;
mod device_job;
mod heartbeat;
mod job_run;
mod kept_pictures;
mod output_health;
mod progress;
mod publication;
mod publishing;
mod publishing_settings;
mod run;
mod running;
mod saving;
mod sealing;
mod stop;
#[cfg(feature = "testing")]
pub mod testing;
mod words;

pub use claiming::Worker;
pub use context::{WorkerParts, WorkerSettings, WorkerSignals};
pub use destination::{destination, is_allowed};
pub use device_job::{Device, DeviceJob};
pub use output_health::OutputHealth;
pub use publishing::{CommitGate, Leavings, PublishRequest, Publisher, RunTimes};
pub use publishing_settings::PublishingSettings;
pub use running::WorkerState;
pub use sealing::{ResultSealer, SealRequest};
pub use words::check_words;
