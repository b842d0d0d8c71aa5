//! Why a run gave no result.

use std::io;

use crate::{artifacts::ArtifactError, engine::EngineError, jobs::Failure, report::ReportError};

/// Why a run gave no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The engine could not do it, or was asked to stop.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A file of the result could not be written, or one of the base model not be read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A plot, sheet or report could not be made.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The files that were written could not be read back.
    #[error("cannot read back the files of the result: {0}; see to the disk and its permissions")]
    Unlisted(#[source] io::Error),
    /// A judgement was asked for, and no judge of the model knows one of the concepts.
    #[error(
        "{base_model} has no judge that knows one of the concepts; leave evaluate unset, or use a \
         model that has one"
    )]
    NoJudge {
        /// The base model, as it was named.
        base_model: String,
    },
    /// There is no room in memory for the work beside what else is held.
    #[error(transparent)]
    NotAdmitted(Failure),
}
