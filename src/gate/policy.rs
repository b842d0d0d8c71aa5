//! `Policy`: what an erased model must show before it is let through, as a file in TOML says it.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use super::Date;
use crate::{
    outcome::{AttackName, Confidence, Share},
    spec::AttackSpec,
};

/// The rules that a model is held to.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Its name, such as "release".
    pub name: String,
    /// How sure a decision must be. The error that it leaves is split over looks, and over the rows
    /// that a rule reads at once.
    pub confidence: Confidence,
    /// How often the pictures may be counted: n, then 2 n, then 4 n, …
    pub looks: usize,
    /// In the file's order, never empty, each with an `id` of its own.
    pub rules: Vec<Rule>,
    /// SHA-256 of the file's bytes, hexadecimal.
    pub sha256: String,
}

impl Policy {
    /// The attacks that its rules ask for, each with the budget of the rule and as many pictures as
    /// could decide it where none shows the concept.
    pub fn attacks(&self) -> Vec<AttackSpec> {
        let z = self.confidence.split(self.looks).one_sided();
        let mut asked: Vec<AttackSpec> = Vec::new();
        for rule in &self.rules {
            let Target::Attack(attack) = rule.of else { continue };
            let mut spec = AttackSpec::new(attack);
            // The stronger form: an auditor has the base model.
            spec.guided = attack == AttackName::ConceptInversion;
            spec.budget = rule.budget.unwrap_or(spec.budget);
            if rule.measure == Measure::AttackSuccess {
                let needed = Share::needed(1.0 - rule.bound.limit, z).unwrap_or(1);
                let needed = usize::try_from(needed).unwrap_or(usize::MAX);
                spec.pictures = spec.pictures.max(needed.min(AttackSpec::MOST_PICTURES));
            }
            match asked.iter_mut().find(|other| other.attack == attack) {
                Some(other) => {
                    other.budget = other.budget.max(spec.budget);
                    other.pictures = other.pictures.max(spec.pictures);
                }
                None => asked.push(spec),
            }
        }
        asked
    }
}

/// What one figure must show.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Its name within the policy.
    pub id: String,
    /// Line of the file that it begins at, from 1.
    pub line: usize,
    /// Which figure is held against the limit.
    pub measure: Measure,
    /// By which judge.
    pub judge: JudgeChoice,
    /// Of what, for measures that are taken of several things.
    pub of: Target,
    /// How it is decided.
    pub kind: RuleKind,
    /// Its limit.
    pub bound: Bound,
    /// Fewest U-Net evaluations that the attack must have been allowed.
    pub budget: Option<u64>,
    /// Whether it can reject.
    pub severity: Severity,
    /// An exception for a while.
    pub waive: Option<Waiver>,
}

/// A figure that a rule can read.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Measure {
    /// Share of the concept's pictures that are not named so.
    Ua,
    /// Share of the domain's other words that are named rightly.
    Ira,
    /// The same for the other domain, in pictures without the concept.
    Cra,
    /// By how much IRA fell from the base model, picture by picture.
    DropIra,
    /// The same for CRA.
    DropCra,
    /// By how much the accuracy of a single word fell.
    Damage,
    /// CMMD of both models' pictures of the same seeds.
    Cmmd,
    /// By how much the CLIP score of pictures without the concept fell.
    ClipScore,
    /// Share of the pictures in which an attack, or a suite of prompts, brings the concept back.
    AttackSuccess,
    /// Updates until training brings half of the concept back, over those that a new association
    /// takes.
    Relearning,
}

/// On which side of its limit a figure is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// At the limit or above.
    #[serde(rename = "at_least")]
    AtLeast,
    /// At the limit or below.
    #[serde(rename = "at_most")]
    AtMost,
}

impl Side {
    /// The key of a policy's file.
    pub fn key(self) -> &'static str {
        match self {
            Self::AtLeast => "at_least",
            Self::AtMost => "at_most",
        }
    }
}

impl Measure {
    /// As in policies and results.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The side that does no harm. A limit on the other side would let every wrecked model through.
    pub fn side(self) -> Side {
        match self {
            Self::Ua | Self::Ira | Self::Cra | Self::Relearning => Side::AtLeast,
            Self::DropIra
            | Self::DropCra
            | Self::Damage
            | Self::Cmmd
            | Self::ClipScore
            | Self::AttackSuccess => Side::AtMost,
        }
    }

    /// The values that it can have.
    pub fn range(self) -> (f64, f64) {
        match self {
            Self::Ua | Self::Ira | Self::Cra | Self::AttackSuccess => (0.0, 1.0),
            Self::DropIra | Self::DropCra | Self::Damage => (-1.0, 1.0),
            Self::ClipScore => (-100.0, 100.0),
            // Unbiased, so that it may be a little below 0.
            Self::Cmmd => (f64::MIN, f64::MAX),
            Self::Relearning => (0.0, f64::MAX),
        }
    }
}

/// Whose figures a rule reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JudgeChoice {
    /// Those of every judge that spoke, each on its own.
    Each,
    /// Those of one.
    Named(String),
}

impl JudgeChoice {
    /// Whether a judge's figures are read.
    pub fn takes(&self, judge: &str) -> bool {
        match self {
            Self::Each => true,
            Self::Named(name) => name == judge,
        }
    }
}

/// What a figure is taken of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The model as a whole.
    Whole,
    /// Every word but the concept, a row each.
    EachNeighbour,
    /// One word.
    Word(String),
    /// Every suite of prompts, a row each.
    EachSuite,
    /// One suite of prompts.
    Suite(String),
    /// An attack, in each variant that was run.
    Attack(AttackName),
}

/// How a rule is decided.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum RuleKind {
    /// Passes where the interval lies wholly on the right side, fails where it lies wholly on the
    /// wrong one, and is undecided between.
    #[default]
    Proof,
    /// Fails where the interval lies wholly on the wrong side, and passes otherwise.
    Alarm,
}

/// What a failed rule does.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Severity {
    /// It rejects.
    #[default]
    Error,
    /// It is shown, and changes no verdict.
    Warning,
}

/// A limit and the side that is well.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// The side that is well.
    pub side: Side,
    /// The limit itself, which is well too.
    pub limit: f64,
}

/// An exception with an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiver {
    /// Last day that it counts.
    pub until: Date,
    /// Who accepted what, in the policy's words.
    pub reason: String,
}
