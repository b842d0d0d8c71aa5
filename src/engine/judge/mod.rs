//! Judges: networks that say which words a picture shows, those of a model's own folder and those
//! that a user gives.

mod classifier;
mod clip;
mod cnn;
mod detections;
mod folder;
mod given;
mod labels;
mod letterbox;
mod naming;
mod nudity;
mod onnx;
mod pixels;
mod preprocessor;
mod resnet;
mod tensors;
#[cfg(test)]
mod tests;
mod vit;
mod yolo;

use std::sync::Arc;

use candle_core::Device;

use super::EngineError;
use crate::spec::{Field, JudgeSpec, ModelFiles, SpecError, Vocabulary};
pub use given::GivenJudge;
pub use naming::{Domain, Features, Judge, Sight};

use clip::ClipPart;
use cnn::CnnPart;
use folder::JudgeFolder;
use given::GivenPart;

/// The folder of a model's own CLIP, and its name in reports.
const CLIP: &str = "clip";

/// The judges of a model's folder, of which only configs and headers were read so far.
pub(super) struct JudgeParts<'a> {
    location: String,
    clip: Option<ClipPart<'a>>,
    cnn: Option<CnnPart<'a>>,
}

impl<'a> JudgeParts<'a> {
    /// Looks at `clip/` (zero-shot) and `judge/` (a classifier file), where they are there; what is
    /// odd about them goes to `warnings`.
    pub(super) fn find(
        files: &'a dyn ModelFiles,
        vocabulary: &Vocabulary,
        warnings: &mut Vec<String>,
    ) -> Result<Self, EngineError> {
        let clip = has(files, "clip/config.json").then(|| ClipPart::find(files, CLIP, warnings));
        let cnn = has(files, "judge/config.json").then(|| CnnPart::find(files, vocabulary));
        let location = files.location().to_owned();
        Ok(Self { location, clip: clip.transpose()?, cnn: cnn.transpose()? })
    }

    /// Numbers of all weights.
    pub(super) fn parameters(&self) -> u64 {
        self.clip.as_ref().map_or(0, ClipPart::parameters)
            + self.cnn.as_ref().map_or(0, |cnn| cnn.parameters)
    }

    /// Reads their weights.
    pub(super) fn read(self, device: &Device) -> Result<Judges, EngineError> {
        let parameters = self.parameters();
        let mut judges: Vec<Arc<dyn Judge>> = Vec::new();
        if let Some(clip) = self.clip {
            judges.push(Arc::new(clip.read(CLIP, device)?));
        }
        if let Some(cnn) = self.cnn {
            judges.push(Arc::new(cnn.read(device)?));
        }
        let own = judges.len();
        Ok(Judges { blunt_to_sharp: judges, own, location: self.location, parameters })
    }
}

fn has(files: &dyn ModelFiles, name: &str) -> bool {
    files.names().iter().any(|file| file == name)
}

/// The judges that a model's folder brings, blunt to sharp, and behind them those that a user gives.
#[derive(Debug, Clone)]
pub struct Judges {
    blunt_to_sharp: Vec<Arc<dyn Judge>>,
    /// How many of them the model's folder brings.
    own: usize,
    location: String,
    /// Numbers of all weights.
    pub(super) parameters: u64,
}

impl Judges {
    /// These and others that a user gives, behind them in their order. Each folder's configs and
    /// headers are checked before the first weight is read; what is odd about them goes to
    /// `warnings`.
    pub(super) fn with(
        &self,
        given: &[GivenJudge<'_>],
        device: &Device,
        warnings: &mut Vec<String>,
    ) -> Result<Self, EngineError> {
        let folders: Vec<JudgeFolder<'_>> =
            given.iter().map(|judge| JudgeFolder::new(judge.files)).collect();
        let inside: Vec<Vec<String>> = folders.iter().map(GivenPart::inside).collect();
        let mut parts = Vec::with_capacity(given.len());
        for (folder, inside) in folders.iter().zip(&inside) {
            parts.push(GivenPart::find(folder, inside, warnings)?);
        }
        let mut judges = self.clone();
        for (judge, part) in given.iter().zip(parts) {
            judges.parameters += part.parameters();
            let read = part.read(judge.name, device)?;
            if judges.blunt_to_sharp.iter().any(|other| other.name() == read.name()) {
                let message = format!(
                    "there are two judges called \"{}\"; give one of their folders another name",
                    read.name()
                );
                return Err(SpecError::one(Field::Judges, message).into());
            }
            judges.blunt_to_sharp.push(read.into());
        }
        Ok(judges)
    }

    /// Numbers that naming pictures holds at most beside the weights.
    pub(super) fn working_numbers(&self) -> u64 {
        self.blunt_to_sharp.iter().map(|judge| judge.working_numbers()).max().unwrap_or(0)
    }

    /// Refuses what one of them could not judge.
    pub(super) fn check(&self, spec: &JudgeSpec) -> Result<(), EngineError> {
        self.all()?.iter().try_for_each(|judge| judge.check(&spec.concept, &spec.vocabulary))
    }

    /// Every judge, or an error that says where one is expected.
    pub fn all(&self) -> Result<&[Arc<dyn Judge>], EngineError> {
        if self.blunt_to_sharp.is_empty() {
            return Err(EngineError::NoJudge { location: self.location.clone() });
        }
        Ok(&self.blunt_to_sharp)
    }

    /// The sharpest of the model's own, which names words of both domains.
    pub fn sharpest(&self) -> Option<&dyn Judge> {
        self.blunt_to_sharp[..self.own].last().map(AsRef::as_ref)
    }
}
