//! What the judges see in pictures.

use std::sync::Arc;

use crate::{
    engine::{
        EngineError,
        judge::{Domain, Judge, Sight},
    },
    outcome::{Picture, Share},
    spec::{ConceptKind, Vocabulary},
};

/// Whether each judge sees something in each picture, `[judge][picture]`.
pub(super) type Sightings = Vec<Vec<bool>>;

/// The judges of the base model and the words that they name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Naming<'a> {
    pub(super) judges: &'a [Arc<dyn Judge>],
    pub(super) vocabulary: &'a Vocabulary,
    pub(super) kind: ConceptKind,
}

impl Naming<'_> {
    /// Whether each judge sees the word of the concept's domain at this place in each picture.
    pub(super) fn sees(&self, pictures: &[Picture], word: usize) -> Result<Sightings, EngineError> {
        let each = self.judges.iter();
        each.map(|judge| {
            Ok(match self.look(judge.as_ref(), pictures)? {
                Sight::Words(words) => words.into_iter().map(|it| it == word).collect(),
                Sight::Concept(shown) => shown,
                // Not reachable: a judge that cannot see the concept is refused before.
                Sight::Nothing => vec![false; pictures.len()],
            })
        })
        .collect()
    }

    /// Which word of the concept's domain the sharpest judge that names words gives each picture.
    pub(super) fn names(&self, pictures: &[Picture]) -> Result<Vec<usize>, EngineError> {
        for judge in self.judges.iter().rev() {
            if let Sight::Words(words) = self.look(judge.as_ref(), pictures)? {
                return Ok(words);
            }
        }
        Ok(Vec::new())
    }

    fn look(&self, judge: &dyn Judge, pictures: &[Picture]) -> Result<Sight, EngineError> {
        Sight::of(judge, pictures, Domain::of(self.kind), self.vocabulary)
    }
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
    fn sightings_are_counted_and_joined() {
        assert_eq!(share(&[true, false, true]), Share { count: 2, of: 3 });
        let (one, other) = (vec![vec![true, false]], vec![vec![false, false]]);
        assert_eq!(either(&one, &other), one);
    }
}
