//! Judges: classifiers that say which words a picture shows.

mod clip;
mod cnn;
mod naming;
mod pixels;

use candle_core::Device;

use super::EngineError;
use crate::spec::{ModelFiles, Vocabulary};
pub use naming::{Domain, Features, Judge};

use clip::ClipPart;
use cnn::CnnPart;

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
        let clip = has(files, "clip/config.json").then(|| ClipPart::find(files, warnings));
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
        let mut judges: Vec<Box<dyn Judge>> = Vec::new();
        if let Some(clip) = self.clip {
            judges.push(Box::new(clip.read(device)?));
        }
        if let Some(cnn) = self.cnn {
            judges.push(Box::new(cnn.read(device)?));
        }
        Ok(Judges { blunt_to_sharp: judges, location: self.location, parameters })
    }
}

fn has(files: &dyn ModelFiles, name: &str) -> bool {
    files.names().iter().any(|file| file == name)
}

/// The judges that a model's folder brings, blunt to sharp.
#[derive(Debug)]
pub struct Judges {
    blunt_to_sharp: Vec<Box<dyn Judge>>,
    location: String,
    /// Numbers of all weights.
    pub(super) parameters: u64,
}

impl Judges {
    /// Numbers that naming pictures holds at most beside the weights.
    pub(super) fn working_numbers(&self) -> u64 {
        self.blunt_to_sharp.iter().map(|judge| judge.working_numbers()).max().unwrap_or(0)
    }

    /// Every judge, or an error that says where one is expected.
    pub fn all(&self) -> Result<&[Box<dyn Judge>], EngineError> {
        if self.blunt_to_sharp.is_empty() {
            return Err(EngineError::NoJudge { location: self.location.clone() });
        }
        Ok(&self.blunt_to_sharp)
    }

    /// The judge that reports quote first.
    pub fn sharpest(&self) -> Option<&dyn Judge> {
        self.blunt_to_sharp.last().map(AsRef::as_ref)
    }
}
