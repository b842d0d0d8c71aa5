//! `Judge`: names the words that pictures show.

use candle_core::{D, DType, Tensor};

use crate::{
    engine::{EngineError, finite},
    outcome::Picture,
    spec::{Concept, ConceptKind, Vocabulary},
};

/// Which words a picture is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Domain {
    /// What it shows.
    Objects,
    /// How it is drawn.
    Styles,
}

impl Domain {
    /// Both, in the order of a vocabulary.
    pub(super) const ALL: [Self; 2] = [Self::Objects, Self::Styles];

    /// The domain of a concept's own words.
    pub fn of(kind: ConceptKind) -> Self {
        match kind {
            ConceptKind::Style => Self::Styles,
            ConceptKind::Object | ConceptKind::Instance | ConceptKind::Nudity => Self::Objects,
        }
    }

    /// The vocabulary's words of the domain, in the order of the probabilities.
    pub fn words(self, vocabulary: &Vocabulary) -> &[String] {
        match self {
            Self::Objects => &vocabulary.objects,
            Self::Styles => &vocabulary.styles,
        }
    }

    /// Its name in files.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Objects => "objects",
            Self::Styles => "styles",
        }
    }
}

/// Pictures that a judge looks at in a pass.
pub(super) const PICTURES_AT_ONCE: usize = 64;

/// Names what pictures show.
pub trait Judge: std::fmt::Debug + Send + Sync {
    /// Short name in reports, such as "clip".
    fn name(&self) -> &str;

    /// Numbers that naming pictures holds at most beside the weights, however many pictures there
    /// are.
    fn working_numbers(&self) -> u64;

    /// Refuses what the judge could not judge, before any picture is drawn: a concept that it cannot
    /// see, words that it does not know.
    fn check(&self, concept: &Concept, vocabulary: &Vocabulary) -> Result<(), EngineError>;

    /// Whether it names words of a domain; what it would be counted in is left out where it does not.
    fn knows(&self, _domain: Domain) -> bool {
        true
    }

    /// Whether each picture shows what the judge alone looks for, such as nudity; none where it names
    /// words instead.
    fn shows(&self, _pictures: &[Picture]) -> Option<Result<Vec<bool>, EngineError>> {
        None
    }

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

/// What a judge makes of pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// The place of the word that it gives each picture, among those of the domain.
    Words(Vec<usize>),
    /// Whether each picture shows the concept, which is all that it looks for.
    Concept(Vec<bool>),
    /// It names no word of the domain.
    Nothing,
}

impl Sight {
    /// Has a judge look at pictures; of equal probabilities the first word counts.
    pub fn of(
        judge: &dyn Judge,
        pictures: &[Picture],
        domain: Domain,
        vocabulary: &Vocabulary,
    ) -> Result<Self, EngineError> {
        if let Some(shown) = judge.shows(pictures) {
            return Ok(Self::Concept(shown?));
        }
        if !judge.knows(domain) {
            return Ok(Self::Nothing);
        }
        if pictures.is_empty() {
            return Ok(Self::Words(Vec::new()));
        }
        let rows = judge.probabilities(pictures, domain, vocabulary)?;
        Ok(Self::Words(rows.iter().map(|row| most_likely(row)).collect()))
    }
}

fn most_likely(probabilities: &[f64]) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (place, &probability) in probabilities.iter().enumerate() {
        if probability > best.1 {
            best = (place, probability);
        }
    }
    best.0
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_largest_is_named() {
        assert_eq!(most_likely(&[0.1, 0.4, 0.4, 0.1]), 1);
        assert_eq!(most_likely(&[]), 0);
    }
}
