//! What a job yields: plain, serializable data. Computed by `engine`, shown by `report`.

mod device_kind;
mod figures;
mod notice;
mod picture;
mod plan;
mod progress;
pub mod result_layout;
mod scores;
mod training;

pub use device_kind::DeviceKind;
pub use figures::{Figures, JudgeReport, JudgedPicture, Verdict};
pub use notice::Notice;
pub use picture::{Drawn, Picture};
pub use plan::{MemoryPlan, MemorySavings, Plan};
pub use progress::{Phase, Progress};
pub use scores::{Estimate, StepScore, TimestepScores};
pub use training::{ErasureRecord, TrainingLog, UpdateRecord};
