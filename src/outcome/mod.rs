//! What a job yields: plain, serializable data. Computed by `engine`, shown by `report`, recorded by
//! `jobs` and published as it is.

mod judgement;
mod measures;
pub mod number;
mod plan;
mod progress;
mod result;
pub mod result_layout;
mod scores;
mod share;
mod suite;
mod training;

pub use judgement::{ConceptVerdict, Drawn, Figures, JudgeReport, JudgedPicture, Picture, Verdict};
pub use measures::{
    Compared, Distances, Measures, Named, PictureDistance, ScorePair, Spread, WordRow,
};
pub use plan::{MemoryPlan, MemorySavings, Plan};
pub use progress::{Notice, Phase, Progress};
pub use result::{Ancestor, DeviceKind, FileDigest, FinishedResult, Published, PublishedFile};
pub use scores::{Estimate, StepScore, TimestepScores};
pub use share::{Confidence, Interval, PairedDrop, Share};
pub use suite::{AttackName, AttackResult, CurvePoint, EvaluationResults, SuiteResult};
pub use training::{ErasureRecord, TrainingFigures, TrainingLog, UpdateRecord};
