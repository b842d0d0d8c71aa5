//! A finished result: its files, and what was found out on the way to it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ConceptVerdict, EvaluationResults, TrainingFigures};
use crate::spec::{LogSnrWindow, StepIndex};

/// What computed a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA card.
    Cuda,
}

/// What the engine's part of a job came to; kept beside the files as `complete.json`, so that a
/// worker that is lost while it publishes does not train again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinishedResult {
    /// Which work this is the result of.
    pub work_digest: String,
    /// Every file to publish, in order of their names.
    pub files: Vec<FileDigest>,
    /// What the judges say, by concept.
    pub verdicts: Vec<ConceptVerdict>,
    /// Steps that were trained at, ascending; none for a judgement.
    pub key_steps: Vec<StepIndex>,
    /// The band that was trained in, where the method has one.
    pub window: Option<LogSnrWindow>,
    /// Optimiser updates that the training made.
    pub updates: usize,
    /// U-Net evaluations of the whole job, scoring, checks and judging included.
    pub unet_evaluations: u64,
    /// What the training measured; absent for a judgement.
    pub training: Option<TrainingFigures>,
    /// Where each draw that took place started: "score", "unlearn", "judge".
    #[serde(default)]
    pub seeds: BTreeMap<String, u64>,
    /// What computed it.
    #[serde(default)]
    pub device: DeviceKind,
    /// Files of the base model that are no part of its pipeline, and so not of the result.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// What judging found beyond the verdicts.
    #[serde(default, skip_serializing_if = "EvaluationResults::is_empty")]
    pub evaluation: EvaluationResults,
    /// The models that the base model was erased from, itself first; none where it was not erased.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<Ancestor>,
}

/// A model that an erased one descends from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ancestor {
    /// Its name in the catalogue.
    pub model: String,
    /// Names its weights: equal for equal ones.
    pub digest: String,
    /// What was erased to make it; none for the base model at the root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub concepts: Vec<String>,
}

/// A file of a model or a result, by what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// Path with `/` within the folder.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
}

/// Where a published result stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The commit point: lists every file.
    pub manifest_uri: String,
    /// Of the manifest itself, hexadecimal.
    pub manifest_sha256: String,
    /// Every published file but the manifest.
    pub files: Vec<PublishedFile>,
}

/// A file that stands in object storage, read back and compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedFile {
    /// Path below the manifest's folder, such as `files/unet/config.json`.
    pub name: String,
    /// Where it stands.
    pub uri: String,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
}
