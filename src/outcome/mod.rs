//! What a job yields: plain, serializable data. Computed by `engine`, shown by `report`, recorded by
//! `jobs` and published as it is.

mod judgement;
pub mod number;
mod plan;
mod progress;
mod result;
pub mod result_layout;
mod scores;
mod training;

pub use judgement::{ConceptVerdict, Drawn, Figures, JudgeReport, JudgedPicture, Picture, Verdict};
pub use plan::{MemoryPlan, MemorySavings, Plan};
pub use progress::{Notice, Phase, Progress};
pub use result::{DeviceKind, FileDigest, FinishedResult, Published, PublishedFile};
pub use scores::{Estimate, StepScore, TimestepScores};
pub use training::{ErasureRecord, TrainingFigures, TrainingLog, UpdateRecord};
