//! What a judge's count of pictures comes to: shares, paired drops, a row a word.

use serde::{Deserialize, Serialize};

use super::{Figures, PairedDrop, Share};
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
    /// A row for each word but the concept.
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

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            base: self.base.plus(other.base),
            edited: self.edited.plus(other.edited),
            drop: self.drop.plus(other.drop),
        }
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

impl Measures {
    /// The edited model's rates.
    pub fn edited(&self) -> Figures {
        self.rates(|compared| compared.edited)
    }

    /// The base model's rates.
    pub fn base(&self) -> Figures {
        self.rates(|compared| compared.base)
    }

    fn rates(&self, of: impl Fn(&Compared) -> Share) -> Figures {
        Figures { ua: of(&self.ua).rate(), ira: of(&self.ira).rate(), cra: of(&self.cra).rate() }
    }
}

/// How far pictures moved as a whole. Each is absent where it was not measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distances {
    /// Which judge's features were compared.
    pub features: String,
    /// Pictures of each model.
    pub pictures: u64,
    /// CMMD (arXiv 2401.09603) of the base's and the edited model's pictures of the same seeds, in
    /// the paired form, times 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmmd: Option<f64>,
    /// CMMD of the base's pictures and its own of other seeds: the yardstick.
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
