//! What a job does, immutable once stored; the scores that its request may cite; and its outcome.

use serde::{Deserialize, Serialize};

use crate::{
    outcome::{ConceptVerdict, EvaluationResults, Published, TimestepScores},
    spec::{JudgeSpec, LogSnrWindow, OutputFormat, SamplerKind, StepIndex, UnlearnSpec},
};

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

/// Scores as a store keeps them, in JSON, so that a later request can cite them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredScores {
    /// The model's name in the catalogue.
    pub model: String,
    /// The model's digest in the catalogue, which is over its files; that of the scores themselves
    /// is over the U-Net's tensors.
    pub model_digest: String,
    /// What was measured.
    pub scores: TimestepScores,
}

/// The result of a job that succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// Of an erasure.
    Unlearned(Box<Unlearned>),
    /// Of a judgement.
    Evaluated(Box<Evaluated>),
}

impl Outcome {
    /// Where the result stands.
    pub fn published(&self) -> &Published {
        match self {
            Self::Unlearned(unlearned) => &unlearned.published,
            Self::Evaluated(evaluated) => &evaluated.published,
        }
    }
}

/// An erased and published model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unlearned {
    /// Where it stands.
    #[serde(flatten)]
    pub published: Published,
    /// What the judges say, by concept; empty where nothing was judged.
    pub verdicts: Vec<ConceptVerdict>,
    /// Steps that were trained at, ascending.
    pub key_steps: Vec<StepIndex>,
    /// The band that was trained in, where the method has one.
    pub window: Option<LogSnrWindow>,
    /// Optimiser updates that the training made.
    pub updates: usize,
    /// U-Net evaluations, scoring and checks included.
    pub unet_evaluations: u64,
    /// What judging found beyond the verdicts.
    #[serde(default, skip_serializing_if = "EvaluationResults::is_empty")]
    pub evaluation: EvaluationResults,
}

/// A published judgement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// Where it stands.
    #[serde(flatten)]
    pub published: Published,
    /// What each judge says.
    pub verdicts: Vec<ConceptVerdict>,
    /// U-Net evaluations spent.
    pub unet_evaluations: u64,
    /// What was found beyond the verdicts.
    #[serde(default, skip_serializing_if = "EvaluationResults::is_empty")]
    pub evaluation: EvaluationResults,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As rows hold it since the first version.
    #[test]
    fn an_outcome_is_written_as_it_always_was() {
        let text = r#"{"kind":"unlearned","manifest_uri":"s3://out/1/manifest.json","manifest_sha256":"0f","files":[{"name":"files/delta.safetensors","uri":"s3://out/1/files/delta.safetensors","size":9007199254740993,"sha256":"a7"}],"verdicts":[{"concept":"cat","verdict":{"judge":"cnn","sampler":"euler","edited":{"ua":0.97,"ira":0.95,"cra":null},"base":{"ua":0.02,"ira":0.95,"cra":null}}}],"key_steps":[2,9],"window":{"low":-3.0,"high":1.0},"updates":40,"unet_evaluations":18446744073709551615}"#;
        let outcome: Outcome = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&outcome).unwrap(), text);
        let Outcome::Unlearned(unlearned) = &outcome else { panic!("{outcome:?}") };
        assert!(unlearned.verdicts[0].verdict.edited.cra.is_nan());
        let judged = r#"{"kind":"evaluated","manifest_uri":"","manifest_sha256":"","files":[],"verdicts":[],"unet_evaluations":7}"#;
        let outcome: Outcome = serde_json::from_str(judged).unwrap();
        assert_eq!(serde_json::to_string(&outcome).unwrap(), judged);
    }
}
