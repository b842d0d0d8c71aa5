//! What the files of a result are called, in folders and in object storage.

/// The edited tensors alone.
pub const DELTA: &str = "delta.safetensors";
/// The whole pipeline, a diffusers folder.
pub const PIPELINE: &str = "pipeline";
/// The figures.
pub const REPORT: &str = "report.json";
/// The page to look at.
pub const REPORT_PAGE: &str = "report.html";
/// Every update of the training.
pub const TRAINING: &str = "training.json";
/// Scores of denoising steps, where there are those of one concept.
pub const SCORES: &str = "scores.json";
/// Their plot.
pub const SCORE_PLOT: &str = "scores.png";
/// Pictures of both models beside each other, where one concept was judged.
pub const CONTACT_SHEET: &str = "before-after.png";

/// Where erased models are published, below a destination, and what precedes the job in their names.
pub const CHECKPOINTS: &str = "checkpoints";
/// Where judgements are published, below a destination.
pub const EVALUATIONS: &str = "evaluations";
