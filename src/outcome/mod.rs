//! What a job yields: plain, serializable data. Computed by `engine`, shown by `report`, recorded by
//! `jobs` and published as it is.

mod drop_interval;
mod figures;
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

pub use figures::Figures;
pub use judgement::{ConceptVerdict, Drawn, JudgeReport, JudgedPicture, Picture, Verdict};
pub use measures::{
    Compared, Distances, Measures, NEIGHBOUR_ALARM, Named, PictureDistance, ScorePair, Spread,
    WordRow,
};
pub use plan::{MemoryPlan, MemorySavings, Plan};
pub use progress::{Notice, Phase, Progress};
pub use result::{Ancestor, DeviceKind, FileDigest, FinishedResult, Published, PublishedFile};
pub use scores::{Estimate, StepScore, TimestepScores};
pub use share::{Confidence, Interval, PairedDrop, Share};
pub use suite::{AttackName, AttackResult, CurvePoint, EvaluationResults, SuiteResult};
pub use training::{ErasureRecord, TrainingFigures, TrainingLog, UpdateRecord};
