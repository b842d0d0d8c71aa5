//! What a run came to, as a manifest tells it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{Measurements, exact_number};
use crate::{
    artifacts::digest::{digest_bytes, digest_reader},
    jobs::ConceptVerdict,
    outcome::{DeviceKind, JudgeReport, TrainingLog},
    spec::{LogSnrWindow, StepIndex},
};

/// What a run came to: the same for equal work. A worker keeps it beside the files as
/// `complete.json`, so that the next worker need not train again where this one is lost while it
/// publishes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinishedResult {
    /// Which work this is the result of.
    pub work_digest: String,
    /// Every file to publish, in order of their names.
    pub files: Vec<ResultFile>,
    /// What the judges say, by concept.
    pub verdicts: Vec<ConceptVerdict>,
    /// Steps that were trained at, ascending; none for a judgement.
    pub key_steps: Vec<StepIndex>,
    /// The band that was trained in, where the method has one.
    pub window: Option<LogSnrWindow>,
    /// Updates made.
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
}

/// What a manifest tells of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingFigures {
    /// Whether the erase measure ended the run before its last update.
    pub stopped_early: bool,
    /// Loss of the first update.
    #[serde(with = "exact_number::optional")]
    pub first_loss: Option<f64>,
    /// Loss of the last update.
    #[serde(with = "exact_number::optional")]
    pub last_loss: Option<f64>,
    /// What is left of the concept's guidance.
    #[serde(with = "exact_number")]
    pub erase_measure: f64,
    /// Squared change of unrelated predictions over the squared guidance of the concept.
    #[serde(with = "exact_number")]
    pub damage_measure: f64,
    /// Relative change of the weights in scope.
    #[serde(with = "exact_number")]
    pub weight_change: f64,
    /// The rate that Adam ran at.
    #[serde(with = "exact_number")]
    pub learning_rate: f64,
}

impl From<&TrainingLog> for TrainingFigures {
    fn from(log: &TrainingLog) -> Self {
        Self {
            stopped_early: log.stopped_early,
            first_loss: log.updates.first().map(|update| update.loss),
            last_loss: log.updates.last().map(|update| update.loss),
            erase_measure: log.erase_measure,
            damage_measure: log.damage_measure,
            weight_change: log.weight_change,
            learning_rate: log.learning_rate,
        }
    }
}

/// A file of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultFile {
    /// Path within the result folder, with `/`.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// Hexadecimal.
    pub sha256: String,
}

impl ResultFile {
    /// A file of these bytes.
    pub(super) fn of(name: &str, bytes: &[u8]) -> Self {
        Self { name: name.to_owned(), size: bytes.len() as u64, sha256: digest_bytes(bytes) }
    }

    /// Every file in a folder and below it, in order of their names.
    pub fn list(folder: &Path) -> io::Result<Vec<Self>> {
        let mut files = Vec::new();
        collect(folder, "", &mut files)?;
        files.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(files)
    }
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<ResultFile>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{name}/"), files)?;
        } else {
            let mut file = File::open(entry.path())?;
            let size = file.metadata()?.len();
            files.push(ResultFile { name, size, sha256: digest_reader(&mut file)? });
        }
    }
    Ok(())
}

/// The verdicts of a judgement, each with the concept that it is about.
pub(super) fn verdicts(judged: &JudgeReport) -> impl Iterator<Item = ConceptVerdict> + '_ {
    judged.verdicts.iter().map(|verdict| ConceptVerdict {
        concept: judged.spec.concept.text.clone(),
        verdict: verdict.clone(),
    })
}

/// What computed a result; the machine where it is measured.
pub fn versions(measurements: Option<&dyn Measurements>) -> BTreeMap<String, String> {
    let keystep = ("keystep".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    let platform = measurements.map(|measured| ("platform".to_owned(), measured.platform()));
    [keystep].into_iter().chain(platform).collect()
}
