//! `Judge`: names the words that pictures show.

use candle_core::{D, DType, Tensor};

use crate::{
    engine::{EngineError, finite},
    outcome::Picture,
    spec::Vocabulary,
};

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

/// Pictures that a judge looks at in a pass.
pub(super) const PICTURES_AT_ONCE: usize = 64;

/// Names what pictures show.
pub trait Judge: std::fmt::Debug + Send + Sync {
    /// Short name in reports, such as "clip".
    fn name(&self) -> &'static str;

    /// Numbers that naming pictures holds at most beside the weights, however many pictures there
    /// are.
    fn working_numbers(&self) -> u64;

    /// For each picture, a probability for each of the domain's words.
    fn probabilities(
        &self,
        pictures: &[Picture],
        domain: Domain,
        vocabulary: &Vocabulary,
    ) -> Result<Vec<Vec<f64>>, EngineError>;

    /// For each picture a vector whose directions mean something, for distances between pictures;
    /// none where the judge has no such features, whatever the pictures.
    fn image_features(&self, _pictures: &[Picture]) -> Option<Features> {
        None
    }

    /// The same for texts, comparable with those of pictures by their cosine.
    fn text_features(&self, _texts: &[String]) -> Option<Features> {
        None
    }
}

/// A vector for each picture or text.
pub type Features = Result<Vec<Vec<f32>>, EngineError>;

/// Rows of probabilities, by the judge whose part of the model `location` names.
pub(super) fn softmax(location: &str, logits: &Tensor) -> Result<Vec<Vec<f64>>, EngineError> {
    finite::check(location, "an answer", logits)?;
    let logits = logits.to_dtype(DType::F64)?;
    let exponentials = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(exponentials.broadcast_div(&exponentials.sum_keepdim(D::Minus1)?)?.to_vec2()?)
}
