//! What the judges see in pictures.

use crate::{
    engine::{
        EngineError,
        judge::{Domain, Judge},
    },
    outcome::{Picture, Share},
    spec::{ConceptKind, Vocabulary},
};

/// Whether each judge sees something in each picture, `[judge][picture]`.
pub(super) type Sightings = Vec<Vec<bool>>;

/// The judges of the base model and the words that they name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Naming<'a> {
    pub(super) judges: &'a [Box<dyn Judge>],
    pub(super) vocabulary: &'a Vocabulary,
    pub(super) kind: ConceptKind,
}

impl Naming<'_> {
    /// Whether each judge names each picture by the word of the concept's domain at this place.
    pub(super) fn sees(&self, pictures: &[Picture], word: usize) -> Result<Sightings, EngineError> {
        let named = self.names(pictures)?;
        Ok(named.into_iter().map(|row| row.into_iter().map(|it| it == word).collect()).collect())
    }

    /// Which word of the concept's domain each judge gives each picture, `[judge][picture]`.
    pub(super) fn names(&self, pictures: &[Picture]) -> Result<Vec<Vec<usize>>, EngineError> {
        let domain = match self.kind {
            ConceptKind::Style => Domain::Styles,
            ConceptKind::Object | ConceptKind::Instance | ConceptKind::Nudity => Domain::Objects,
        };
        let of = |judge: &dyn Judge| {
            if pictures.is_empty() {
                return Ok(Vec::new());
            }
            let rows = judge.probabilities(pictures, domain, self.vocabulary)?;
            Ok(rows.iter().map(|row| most_likely(row)).collect())
        };
        self.judges.iter().map(|judge| of(judge.as_ref())).collect()
    }
}

/// The place of the largest; of the first where several are.
fn most_likely(probabilities: &[f64]) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (place, &probability) in probabilities.iter().enumerate() {
        if probability > best.1 {
            best = (place, probability);
        }
    }
    best.0
}

/// Counts a judge's sightings.
pub(super) fn share(seen: &[bool]) -> Share {
    let mut share = Share::default();
    for seen in seen {
        share.add(*seen);
    }
    share
}

/// What is seen in either of two looks at the same pictures.
pub(super) fn either(one: &Sightings, other: &Sightings) -> Sightings {
    let rows = one.iter().zip(other);
    rows.map(|(one, other)| one.iter().zip(other).map(|(one, other)| *one || *other).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_largest_is_named() {
        assert_eq!(most_likely(&[0.1, 0.4, 0.4, 0.1]), 1);
        assert_eq!(most_likely(&[]), 0);
    }

    #[test]
    fn sightings_are_counted_and_joined() {
        assert_eq!(share(&[true, false, true]), Share { count: 2, of: 3 });
        let (one, other) = (vec![vec![true, false]], vec![vec![false, false]]);
        assert_eq!(either(&one, &other), one);
    }
}
