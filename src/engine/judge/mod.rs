//! Judging an erasure: UnlearnCanvas's UA, IRA and CRA (arXiv 2402.11846), on the same prompts
//! and seeds before and after.

mod clip;
mod cnn;
mod grid;
mod pixels;

use candle_core::Device;

pub(super) use grid::{compare, drawing, judge};

use super::{
    EngineError,
    checkpoint::{measure_component, measure_single},
};
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

/// Numbers of all weights that [`Judges::load`] would read, from the headers alone.
pub(super) fn count_parameters(files: &dyn ModelFiles) -> Result<u64, EngineError> {
    let mut count = 0;
    if has(files, "clip/config.json") {
        count += measure_component(files, "clip", None)?.values().sum::<usize>();
    }
    if has(files, "judge/config.json") {
        count += measure_single(files, cnn::FILE)?.values().sum::<usize>();
    }
    Ok(count as u64)
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
    /// Reads `clip/` (zero-shot) and `judge/` (a classifier file), where they are there.
    pub fn load(
        files: &dyn ModelFiles,
        vocabulary: &Vocabulary,
        device: &Device,
    ) -> Result<Self, EngineError> {
        let mut judges: Vec<Box<dyn Judge>> = Vec::new();
        if has(files, "clip/config.json") {
            judges.push(Box::new(ClipJudge::load(files, device)?));
        }
        if has(files, "judge/config.json") {
            judges.push(Box::new(CnnJudge::load(files, vocabulary, device)?));
        }
        let parameters = count_parameters(files)?;
        let location = files.location().to_owned();
        Ok(Self { blunt_to_sharp: judges, location, parameters })
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
