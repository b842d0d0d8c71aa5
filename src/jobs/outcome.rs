//! What a finished job tells its client.

use serde::{Deserialize, Serialize};

use crate::{
    outcome::Verdict,
    spec::{LogSnrWindow, StepIndex},
};

/// The result of a job that succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// Of an erasure.
    Unlearned(Box<Unlearned>),
    /// Of a judgement.
    Evaluated(Box<Evaluated>),
}

/// An erased and published model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unlearned {
    /// The commit point: lists every file.
    pub manifest_uri: String,
    /// Of the manifest itself, hexadecimal.
    pub manifest_sha256: String,
    /// Every published file but the manifest.
    pub files: Vec<PublishedFile>,
    /// What the judges say, by concept; empty where nothing was judged.
    pub verdicts: Vec<ConceptVerdict>,
    /// Steps that were trained at, ascending.
    pub key_steps: Vec<StepIndex>,
    /// The band that was trained in, where the method has one.
    pub window: Option<LogSnrWindow>,
    /// Updates made.
    pub updates: usize,
    /// U-Net evaluations, scoring and checks included.
    pub unet_evaluations: u64,
}

/// A published judgement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// The commit point: lists every file.
    pub manifest_uri: String,
    /// Of the manifest itself, hexadecimal.
    pub manifest_sha256: String,
    /// Every published file but the manifest.
    pub files: Vec<PublishedFile>,
    /// One a judge.
    pub verdicts: Vec<ConceptVerdict>,
    /// U-Net evaluations spent.
    pub unet_evaluations: u64,
}

/// A verdict and the concept that it is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConceptVerdict {
    /// The concept.
    pub concept: String,
    /// What one judge says.
    pub verdict: Verdict,
}

/// A file that stands in object storage, read back and compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedFile {
    /// Path below the manifest's folder, such as `files/unet/config.json`.
    pub name: String,
    /// Where it stands.
    pub uri: String,
    /// Length in bytes.
    pub size: u64,
    /// Hexadecimal.
    pub sha256: String,
}
