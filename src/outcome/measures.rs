//! What a judge's count of pictures comes to: shares, paired drops, a row a word.

use serde::{Deserialize, Serialize};

use super::{Confidence, Figures, Interval, PairedDrop, Share};
use crate::spec::ConceptKind;

/// What one judge counted over the grid of UnlearnCanvas, with both models' pictures of the same
/// prompts and seeds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measures {
    /// Pictures of the concept that the judge does not assign to it.
    pub ua: Compared,
    /// Pictures of the domain's other words that the judge names rightly.
    pub ira: Compared,
    /// Pictures without the concept whose word of the other domain the judge names rightly.
    pub cra: Compared,
    /// Of [`Measures::ira`], the words that the training's preserve term held; empty where that is not
    /// known.
    #[serde(default, skip_serializing_if = "Compared::is_empty")]
    pub ira_held: Compared,
    /// Of [`Measures::ira`], the words that it never held: what an erasure leaves alone that nobody
    /// told it to.
    #[serde(default, skip_serializing_if = "Compared::is_empty")]
    pub ira_unheld: Compared,
    /// A row for each word but the concept: those of its own domain, then those of the other one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<WordRow>,
}

/// The same prompts and seeds drawn by both models.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compared {
    /// By the base model.
    pub base: Share,
    /// By the edited model.
    pub edited: Share,
    /// Both paired, picture by picture.
    pub drop: PairedDrop,
}

impl Compared {
    /// Counts one more pair.
    pub fn add(&mut self, base: bool, edited: bool) {
        self.base.add(base);
        self.edited.add(edited);
        self.drop.add(base, edited);
    }

    /// The pictures of both, which must be others.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            base: self.base.plus(other.base),
            edited: self.edited.plus(other.edited),
            drop: self.drop.plus(other.drop),
        }
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.drop.of == 0
    }
}

/// What became of one word that should have stayed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WordRow {
    /// The word.
    pub word: String,
    /// Its domain: a style, or an object.
    pub kind: ConceptKind,
    /// Whether the training's preserve term held it; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<bool>,
    /// Pictures that the judge names so.
    pub named: Compared,
    /// What the judge names the edited model's pictures instead, most often first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub became: Vec<Named>,
    /// Mean distance of its pictures before and after; absent where it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture_distance: Option<f64>,
}

/// A name that a judge gave, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// The name.
    pub name: String,
    /// How many pictures were given it.
    pub count: u64,
}

/// A fall in accuracy of one word above which, once it is shown, its row is marked.
pub const NEIGHBOUR_ALARM: f64 = 0.10;

impl Measures {
    /// The edited model's rates; NaN where there were no pictures.
    pub fn edited(&self) -> Figures {
        self.rates(|compared| compared.edited)
    }

    /// The base model's rates; NaN where there were no pictures.
    pub fn base(&self) -> Figures {
        self.rates(|compared| compared.base)
    }

    fn rates(&self, of: impl Fn(&Compared) -> Share) -> Figures {
        Figures {
            // Not the share's own rate, which may differ in its last bit: records hold it so.
            ua: 1.0 - of(&self.ua).complement().rate(),
            ira: of(&self.ira).rate(),
            cra: of(&self.cra).rate(),
        }
    }

    /// Says which words the training's preserve term held, and counts IRA over both kinds apart. `of`
    /// is the concept's kind; `held` is none of a word of which it is not known, or which was erased
    /// too.
    pub fn split(&mut self, of: ConceptKind, held: impl Fn(&str) -> Option<bool>) {
        let in_domain =
            |row: &WordRow| (row.kind == ConceptKind::Style) == (of == ConceptKind::Style);
        (self.ira_held, self.ira_unheld) = Default::default();
        for row in &mut self.words {
            row.held = held(&row.word);
            let part = match row.held {
                Some(true) => &mut self.ira_held,
                Some(false) => &mut self.ira_unheld,
                None => continue,
            };
            if in_domain(row) {
                *part = part.plus(row.named);
            }
        }
    }

    /// Every row that has pictures, those that fell most first.
    pub fn by_drop(&self) -> Vec<&WordRow> {
        let mut rows: Vec<_> = self.words.iter().filter(|row| !row.named.is_empty()).collect();
        let drop = |row: &WordRow| row.named.drop.drop();
        rows.sort_by(|left, right| drop(right).total_cmp(&drop(left)));
        rows
    }

    /// A row's drop with the error of `confidence` split over all rows, which are read at once
    /// (Bonferroni): each end is a bound to one side.
    pub fn drop_of(&self, row: &WordRow, confidence: Confidence) -> Interval {
        let rows = self.words.iter().filter(|row| !row.named.is_empty()).count();
        row.named.drop_interval(confidence.split(rows).one_sided())
    }

    /// Whether a row fell by more than [`NEIGHBOUR_ALARM`] for certain. A row that is not marked is
    /// not shown to be unharmed: that takes 76 pictures in each of 27 rows.
    pub fn alarms(&self, row: &WordRow, confidence: Confidence) -> bool {
        self.drop_of(row, confidence).low > NEIGHBOUR_ALARM
    }
}

/// How far the pictures without the concept moved as a whole. Each is absent where it was not measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distances {
    /// Which judge's features were compared.
    pub features: String,
    /// Pictures of each model.
    pub pictures: u64,
    /// CMMD (arXiv 2401.09603) of the base's and the edited model's pictures of the same seeds, in
    /// the paired form, times 1,000: what the erasure changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmmd: Option<f64>,
    /// CMMD of the base's pictures and its own of other seeds, in the same form: the yardstick, which
    /// is 0 but for chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmmd_of_base: Option<f64>,
    /// KID (arXiv 1801.01401) of the same seeds, in the paired form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<Spread>,
    /// CLIP score of the pictures without the concept: 100 × cosine of picture and prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_score: Option<ScorePair>,
    /// CLIP score of the concept's own pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_score_of_concept: Option<ScorePair>,
    /// Mean distance of two pictures of the same seed, by meaning and by looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture_distance: Option<PictureDistance>,
}

/// A mean and how far single values lie from it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub deviation: f64,
}

/// A mean score before and after, and the mean of the differences picture by picture.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScorePair {
    /// Of the base model's pictures.
    pub base: f64,
    /// Of the edited model's pictures.
    pub edited: f64,
    /// Base less edited, picture by picture.
    pub drop: Spread,
}

/// Distance of two pictures, which is not LPIPS.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureDistance {
    /// 1 less the cosine of the judge's image features: by meaning.
    pub meaning: f64,
    /// 1 less multi-scale SSIM over luma and chroma: by looks.
    pub looks: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(word: &str, of: u64, lost: u64) -> WordRow {
        let mut named = Compared::default();
        for index in 0..of {
            named.add(true, index >= lost);
        }
        WordRow {
            word: word.to_owned(),
            kind: ConceptKind::Object,
            held: None,
            named,
            became: Vec::new(),
            picture_distance: None,
        }
    }

    #[test]
    fn rows_are_read_at_once() {
        let mut words: Vec<_> = (0..25).map(|n| row(&n.to_string(), 8, 0)).collect();
        words.extend([row("three", 8, 3), row("four", 8, 4), row("none", 0, 0)]);
        let measures = Measures { words, ..Measures::default() };
        let rows = measures.by_drop();
        assert_eq!(rows.len(), 27);
        let marked: Vec<_> = (rows.iter())
            .filter(|row| measures.alarms(row, Confidence::DEFAULT))
            .map(|row| row.word.as_str())
            .collect();
        assert_eq!((rows[0].word.as_str(), marked), ("four", vec!["four"]));
    }

    #[test]
    fn words_that_were_held_are_counted_apart() {
        let style = WordRow { kind: ConceptKind::Style, ..row("neon", 8, 8) };
        let words = vec![row("dog", 8, 1), row("horse", 8, 3), row("erased", 8, 8), style];
        let mut measures = Measures { words, ..Measures::default() };
        measures.split(ConceptKind::Object, |word| (word != "erased").then_some(word != "horse"));
        assert_eq!(measures.ira_held, row("", 8, 1).named);
        assert_eq!(measures.ira_unheld, row("", 8, 3).named);
        let held: Vec<_> = measures.words.iter().map(|row| row.held).collect();
        assert_eq!(held, [Some(true), Some(false), None, Some(true)]);
    }

    /// The rates of before counts were kept, to the last bit, where there are pictures.
    #[test]
    fn rates_are_those_of_old_records() {
        for of in 1..200 {
            for named in 0..=of {
                let ua = Share { count: of - named, of };
                let found = Measures {
                    ua: Compared { edited: ua, ..Compared::default() },
                    ..Measures::default()
                };
                let before = 1.0 - named as f64 / of as f64;
                assert_eq!(found.edited().ua.to_bits(), before.to_bits(), "{named} of {of}");
            }
        }
        let none = Measures::default().edited();
        assert!(none.ua.is_nan() && none.ira.is_nan() && none.cra.is_nan());
    }

    #[test]
    fn what_was_not_split_is_not_written() {
        let json = serde_json::to_string(&Measures::default()).unwrap();
        assert!(!json.contains("held") && !json.contains("words"), "{json}");
        assert_eq!(serde_json::from_str::<Measures>(&json).unwrap(), Measures::default());
    }
}
