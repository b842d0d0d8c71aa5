//! Counts what a judge named over the grid, picture by picture: the three accuracies, and a row a word.

use super::cells::Cell;
use crate::{
    engine::{
        EngineError,
        judge::{Domain, Judge, Sight},
    },
    outcome::{Compared, Measures, Named, Picture, WordRow},
    spec::{ConceptKind, JudgeSpec},
};

/// What a judge sees in pictures, by the words of each domain.
#[derive(Debug, Clone)]
pub(super) struct Names {
    objects: Sight,
    styles: Sight,
}

impl Names {
    /// By the most likely word of each domain.
    pub(super) fn given(
        judge: &dyn Judge,
        spec: &JudgeSpec,
        pictures: &[Picture],
    ) -> Result<Self, EngineError> {
        let seen = |domain| Sight::of(judge, pictures, domain, &spec.vocabulary);
        Ok(Self { objects: seen(Domain::Objects)?, styles: seen(Domain::Styles)? })
    }

    fn of(&self, domain: Domain) -> &Sight {
        match domain {
            Domain::Objects => &self.objects,
            Domain::Styles => &self.styles,
        }
    }

    /// The word that a picture was given; none where the judge names no words of the domain.
    fn word(&self, domain: Domain, picture: usize) -> Option<usize> {
        match self.of(domain) {
            Sight::Words(words) => words.get(picture).copied(),
            Sight::Concept(_) | Sight::Nothing => None,
        }
    }

    /// Whether a picture shows the concept, to a judge that looks for nothing else.
    fn shows(&self, domain: Domain, picture: usize) -> Option<bool> {
        match self.of(domain) {
            Sight::Concept(shown) => shown.get(picture).copied(),
            Sight::Words(_) | Sight::Nothing => None,
        }
    }
}

/// The names that a judge gave both models' pictures of one cell in one domain.
#[derive(Debug, Clone, Copy)]
struct Pair {
    asked: usize,
    base: usize,
    edited: usize,
}

impl Pair {
    /// Whether each names what was asked for.
    fn right(self) -> (bool, bool) {
        (self.base == self.asked, self.edited == self.asked)
    }
}

/// Counts under way.
#[derive(Debug)]
pub(super) struct Counting<'a> {
    spec: &'a JudgeSpec,
    measures: Measures,
    /// A row for each word of the concept's own domain, then of the other one, with how often the
    /// edited model's pictures were given each other word instead.
    own: Vec<Row>,
    other: Vec<Row>,
}

#[derive(Debug, Clone)]
struct Row {
    named: Compared,
    became: Vec<u64>,
}

impl Row {
    fn of_each(words: &[String]) -> Vec<Self> {
        let empty = Self { named: Compared::default(), became: vec![0; words.len()] };
        vec![empty; words.len()]
    }

    fn add(&mut self, pair: Pair) {
        let (base, edited) = pair.right();
        self.named.add(base, edited);
        if let Some(times) = self.became.get_mut(pair.edited)
            && pair.edited != pair.asked
        {
            *times += 1;
        }
    }

    fn finish(self, word: &str, kind: ConceptKind, names: &[String]) -> WordRow {
        let mut became: Vec<Named> = (names.iter().zip(self.became))
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| Named { name: name.clone(), count })
            .collect();
        // Stable, so that equal counts stay in the vocabulary's order.
        became.sort_by_key(|named| std::cmp::Reverse(named.count));
        WordRow {
            word: word.to_owned(),
            kind,
            held: None,
            named: self.named,
            became,
            picture_distance: None,
        }
    }
}

impl<'a> Counting<'a> {
    pub(super) fn new(spec: &'a JudgeSpec) -> Self {
        let kind = spec.concept.kind;
        Self {
            spec,
            measures: Measures::default(),
            own: Row::of_each(spec.vocabulary.domain(kind)),
            other: Row::of_each(spec.vocabulary.other_domain(kind)),
        }
    }

    /// Counts every cell once, both models' pictures of it as a pair. What a judge does not name is
    /// not counted.
    pub(super) fn count(mut self, cells: &[Cell], base: &Names, edited: &Names) -> Measures {
        let (own, other) = match Domain::of(self.spec.concept.kind) {
            Domain::Styles => (Domain::Styles, Domain::Objects),
            Domain::Objects => (Domain::Objects, Domain::Styles),
        };
        for (index, cell) in cells.iter().enumerate() {
            let pair = |domain| {
                let asked = match domain {
                    Domain::Objects => cell.object,
                    Domain::Styles => cell.style,
                };
                let (base, edited) = (base.word(domain, index)?, edited.word(domain, index)?);
                Some(Pair { asked, base, edited })
            };
            let shown = base.shows(own, index).zip(edited.shows(own, index));
            match (cell.is_target, pair(own)) {
                (true, Some(pair)) => {
                    let (base, edited) = pair.right();
                    self.measures.ua.add(!base, !edited);
                }
                (true, None) => {
                    if let Some((base, edited)) = shown {
                        self.measures.ua.add(!base, !edited);
                    }
                }
                (false, own) => self.add(own, pair(other)),
            }
        }
        self.finish()
    }

    /// Counts a picture without the concept.
    fn add(&mut self, own: Option<Pair>, other: Option<Pair>) {
        let parts = [
            (&mut self.measures.ira, &mut self.own, own),
            (&mut self.measures.cra, &mut self.other, other),
        ];
        for (share, rows, pair) in parts {
            let Some(pair) = pair else { continue };
            let (base, edited) = pair.right();
            share.add(base, edited);
            if let Some(row) = rows.get_mut(pair.asked) {
                row.add(pair);
            }
        }
    }

    fn finish(self) -> Measures {
        let (vocabulary, kind) = (&self.spec.vocabulary, self.spec.concept.kind);
        let (own_kind, other_kind) = match kind {
            ConceptKind::Style => (ConceptKind::Style, ConceptKind::Object),
            _ => (ConceptKind::Object, ConceptKind::Style),
        };
        let rows = |rows: Vec<Row>, words: &[String], kind| -> Vec<WordRow> {
            // The concept's own row has no picture without it.
            let counted = words.iter().zip(rows).filter(|(_, row)| !row.named.is_empty());
            counted.map(|(word, row)| row.finish(word, kind, words)).collect()
        };
        let mut words = rows(self.own, vocabulary.domain(kind), own_kind);
        words.extend(rows(self.other, vocabulary.other_domain(kind), other_kind));
        Measures { words, ..self.measures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        outcome::{PairedDrop, Share},
        spec::{Concept, Vocabulary},
    };

    fn spec(concept: &str, kind: ConceptKind) -> JudgeSpec {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let vocabulary = Vocabulary {
            objects: words(&["cat", "dog", "horse"]),
            styles: words(&["neon", "flat"]),
            ..Vocabulary::default()
        };
        JudgeSpec::new(Concept::new(concept, kind), vocabulary)
    }

    fn cells(is_target: impl Fn(usize, usize) -> bool) -> Vec<Cell> {
        let places = (0..2).flat_map(|style| (0..3).map(move |object| (object, style)));
        places
            .map(|(object, style)| Cell {
                object,
                style,
                seed: 0,
                is_target: is_target(object, style),
            })
            .collect()
    }

    fn share(count: u64, of: u64) -> Share {
        Share { count, of }
    }

    /// The cells are cat, dog and horse in neon, then the same in flat.
    #[test]
    fn pictures_are_counted_in_pairs() {
        let spec = spec("cat", ConceptKind::Object);
        let cells = cells(|object, _| object == 0);
        let base = Names {
            objects: Sight::Words(vec![0, 1, 2, 1, 1, 1]),
            styles: Sight::Words(vec![0, 0, 0, 1, 1, 1]),
        };
        let edited = Names {
            objects: Sight::Words(vec![1, 2, 2, 1, 2, 2]),
            styles: Sight::Words(vec![0, 0, 1, 1, 0, 0]),
        };
        let found = Counting::new(&spec).count(&cells, &base, &edited);
        // The concept: seen once of twice before, never after. "Fell" is what rose in UA.
        assert_eq!((found.ua.base, found.ua.edited), (share(1, 2), share(2, 2)));
        assert_eq!(found.ua.drop, PairedDrop { lost: 0, gained: 1, of: 2 });
        // dog, horse, dog, horse: right, right, right, wrong before; wrong, right, wrong, right after.
        assert_eq!((found.ira.base, found.ira.edited), (share(3, 4), share(2, 4)));
        assert_eq!(found.ira.drop, PairedDrop { lost: 2, gained: 1, of: 4 });
        assert_eq!((found.cra.base, found.cra.edited), (share(4, 4), share(1, 4)));
        let words: Vec<_> = found.words.iter().map(|row| row.word.as_str()).collect();
        assert_eq!(words, ["dog", "horse", "neon", "flat"]);
        let dog = &found.words[0];
        assert_eq!(dog.named.drop, PairedDrop { lost: 2, gained: 0, of: 2 });
        assert_eq!(dog.became, [Named { name: "horse".to_owned(), count: 2 }]);
        assert_eq!((dog.kind, found.words[2].kind), (ConceptKind::Object, ConceptKind::Style));
        assert_eq!(found.words[1].named.drop, PairedDrop { lost: 0, gained: 1, of: 2 });
        // The rows of a domain are its accuracy, taken apart.
        let sum = |kind: ConceptKind| {
            let rows = found.words.iter().filter(|row| row.kind == kind);
            rows.fold(Compared::default(), |sum, row| sum.plus(row.named))
        };
        assert_eq!((sum(ConceptKind::Object), sum(ConceptKind::Style)), (found.ira, found.cra));
        assert!((found.edited().ua - 1.0).abs() < f64::EPSILON);
        assert!((found.base().ira - 0.75).abs() < f64::EPSILON);
    }

    #[test]
    fn a_style_is_counted_over_styles() {
        let spec = spec("neon", ConceptKind::Style);
        let cells = cells(|_, style| style == 0);
        let right = Names {
            objects: Sight::Words(vec![0, 1, 2, 0, 1, 2]),
            styles: Sight::Words(vec![0, 0, 0, 1, 1, 1]),
        };
        let gone = Names { styles: Sight::Words(vec![1; 6]), ..right.clone() };
        let found = Counting::new(&spec).count(&cells, &right, &gone);
        assert_eq!((found.ua.base, found.ua.edited), (share(0, 3), share(3, 3)));
        assert_eq!((found.ira.edited, found.cra.edited), (share(3, 3), share(3, 3)));
        let words: Vec<_> = found.words.iter().map(|row| row.word.as_str()).collect();
        assert_eq!(words, ["flat", "cat", "dog", "horse"]);
    }

    /// One word alone: nothing is left to keep, and that is no accuracy of 0.
    #[test]
    fn over_no_pictures_there_is_no_figure() {
        let mut spec = spec("cat", ConceptKind::Object);
        spec.vocabulary.objects.truncate(1);
        let cells = [Cell { object: 0, style: 0, seed: 0, is_target: true }];
        let named = Names { objects: Sight::Words(vec![0]), styles: Sight::Words(vec![0]) };
        let found = Counting::new(&spec).count(&cells, &named, &named);
        assert!(found.edited().ira.is_nan() && found.edited().cra.is_nan());
        assert!(found.edited().ua.abs() < f64::EPSILON);
        assert!(found.words.is_empty());
    }
}
