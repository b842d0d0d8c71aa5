//! What a job does: immutable once it is stored.

use serde::{Deserialize, Serialize};

use crate::spec::{JudgeSpec, OutputFormat, SamplerKind, UnlearnSpec};

/// A job's task, whole: what is stored is what runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Work {
    /// Erase concepts and publish the result.
    Unlearn(Box<UnlearnWork>),
    /// Judge an edited model against its base.
    Evaluate(Box<EvaluateWork>),
}

impl Work {
    /// "unlearn" or "evaluate".
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unlearn(_) => "unlearn",
            Self::Evaluate(_) => "evaluate",
        }
    }

    /// Name of the base model in the catalogue.
    pub fn base_model(&self) -> &str {
        match self {
            Self::Unlearn(work) => &work.base_model,
            Self::Evaluate(work) => &work.base_model,
        }
    }

    /// URL prefix to publish below.
    pub fn destination(&self) -> &str {
        match self {
            Self::Unlearn(work) => &work.destination,
            Self::Evaluate(work) => &work.destination,
        }
    }
}

impl Work {
    /// What lists show of it.
    pub fn summary(&self) -> WorkSummary {
        match self {
            Self::Unlearn(work) => WorkSummary::Unlearn(UnlearnSummary {
                base_model: work.base_model.clone(),
                base_digest: work.base_digest.clone(),
                concepts: work.spec.concepts.iter().map(|concept| concept.text.clone()).collect(),
                seed: work.spec.seed,
            }),
            Self::Evaluate(work) => WorkSummary::Evaluate(EvaluateSummary {
                base_model: work.base_model.clone(),
                edited_model: work.edited_model.clone(),
                concept: work.spec.concept.text.clone(),
            }),
        }
    }
}

/// What is shown of a job's task: short, however long the request was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum WorkSummary {
    /// Of an erasure.
    Unlearn(UnlearnSummary),
    /// Of a judgement.
    Evaluate(EvaluateSummary),
}

/// What is shown of an erasure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnlearnSummary {
    /// Name in the catalogue.
    pub base_model: String,
    /// Digest of the base model's files when the job was accepted.
    pub base_digest: String,
    /// What is erased.
    pub concepts: Vec<String>,
    /// Of the generator that the run draws from.
    pub seed: u64,
}

/// What is shown of a judgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluateSummary {
    /// Name in the catalogue.
    pub base_model: String,
    /// Name in the catalogue.
    pub edited_model: String,
    /// What is judged.
    pub concept: String,
}

impl WorkSummary {
    /// "unlearn" or "evaluate".
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unlearn(_) => "unlearn",
            Self::Evaluate(_) => "evaluate",
        }
    }

    /// Name of the base model in the catalogue.
    pub fn base_model(&self) -> &str {
        match self {
            Self::Unlearn(work) => &work.base_model,
            Self::Evaluate(work) => &work.base_model,
        }
    }
}

/// An erasure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnlearnWork {
    /// Name in the catalogue.
    pub base_model: String,
    /// Digest of the base model's files when the job was accepted; another one fails the job.
    pub base_digest: String,
    /// What to erase and how.
    pub spec: UnlearnSpec,
    /// Digest of the scores that the window was taken from.
    pub score_digest: Option<String>,
    /// What to publish, without repetition.
    pub formats: Vec<OutputFormat>,
    /// URL prefix to publish below.
    pub destination: String,
    /// Whether to judge the result.
    pub evaluation: Evaluation,
    /// What the judged pictures are drawn with; the sampler that the base model's folder names when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation_sampler: Option<SamplerKind>,
}

/// A judgement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluateWork {
    /// Name in the catalogue.
    pub base_model: String,
    /// Digest of the base model's files when the job was accepted.
    pub base_digest: String,
    /// Name in the catalogue.
    pub edited_model: String,
    /// What to draw and how to judge it.
    pub spec: JudgeSpec,
    /// URL prefix to publish below.
    pub destination: String,
}

/// Whether an erasure is judged before it is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evaluation {
    /// Where the model has a judge that knows the concepts.
    WherePossible,
    /// Always; the job fails where it is not possible.
    Required,
    /// Never.
    Skipped,
}
