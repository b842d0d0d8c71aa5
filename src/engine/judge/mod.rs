//! Judging an erasure: UnlearnCanvas's UA, IRA and CRA (arXiv 2402.11846), on the same prompts
//! and seeds before and after.

mod clip;
mod cnn;
mod grid;
mod pixels;

use candle_core::Device;

pub(super) use grid::{compare, drawing, judge};

use super::EngineError;
use crate::{
    outcome::Picture,
    spec::{ModelFiles, Vocabulary},
};
use clip::ClipJudge;
use cnn::CnnJudge;

/// Which words a picture is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Domain {
    /// What it shows.
    Objects,
    /// How it is drawn.
    Styles,
}

impl Domain {
    /// The vocabulary's words of the domain, in the order of the probabilities.
    pub fn words(self, vocabulary: &Vocabulary) -> &[String] {
        match self {
            Self::Objects => &vocabulary.objects,
            Self::Styles => &vocabulary.styles,
        }
    }
}

/// Names what pictures show.
pub trait Judge: std::fmt::Debug + Send + Sync {
    /// Short name in reports, such as "clip".
    fn name(&self) -> &'static str;

    /// For each picture, a probability for each of the domain's words.
    fn probabilities(
        &self,
        pictures: &[Picture],
        domain: Domain,
        vocabulary: &Vocabulary,
    ) -> Result<Vec<Vec<f64>>, EngineError>;
}

/// The judges that a model's folder brings, blunt to sharp.
#[derive(Debug)]
pub struct Judges {
    judges: Vec<Box<dyn Judge>>,
    location: String,
}

impl Judges {
    /// Reads `clip/` (zero-shot) and `judge/` (a classifier file), where they are there.
    pub fn load(
        files: &dyn ModelFiles,
        vocabulary: &Vocabulary,
        device: &Device,
    ) -> Result<Self, EngineError> {
        let mut judges: Vec<Box<dyn Judge>> = Vec::new();
        let has = |name: &str| files.names().iter().any(|file| file == name);
        if has("clip/config.json") {
            judges.push(Box::new(ClipJudge::load(files, device)?));
        }
        if has("judge/config.json") {
            judges.push(Box::new(CnnJudge::load(files, vocabulary, device)?));
        }
        Ok(Self { judges, location: files.location().to_owned() })
    }

    /// Every judge, or an error that says where one is expected.
    pub fn all(&self) -> Result<&[Box<dyn Judge>], EngineError> {
        if self.judges.is_empty() {
            return Err(EngineError::NoJudge { location: self.location.clone() });
        }
        Ok(&self.judges)
    }

    /// The judge that reports quote first.
    pub fn sharpest(&self) -> Option<&dyn Judge> {
        self.judges.last().map(AsRef::as_ref)
    }
}
