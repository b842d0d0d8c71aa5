//! `AttackSpec`: how a concept is sought in a model that it was erased from.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use super::{Field, SpecError, violation::Violations};

/// How a concept is sought in an erased model.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
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
pub enum AttackName {
    /// A learned embedding (arXiv 2308.01508), plain or guided by the base model.
    ConceptInversion,
    /// `UnlearnDiffAtk` (arXiv 2310.11868): tokens before the prompt.
    UnlearnDiffAtk,
    /// Ring-A-Bell (arXiv 2310.10012): prompts whose text states lie along the concept.
    RingABell,
    /// `Prompting4Debugging` (arXiv 2309.06135).
    P4d,
    /// The base model draws the first steps, the erased model the rest.
    Completion,
    /// More noise in the sampler than there should be (arXiv 2505.17013).
    Noise,
    /// From a picture of the concept on.
    ImageToImage,
    /// The middle of a picture of the concept is drawn anew.
    Inpainting,
    /// Training on pictures that have nothing to do with the concept.
    RelearningBenign,
    /// Training on few pictures of the concept.
    RelearningFewShot,
}

impl AttackName {
    /// Every attack.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// As in specs, flags and reports.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// U-Net evaluations that it may spend where a request does not say: enough to come to its own
    /// end with 16 pictures of 20 guided steps.
    pub fn default_budget(self) -> u64 {
        match self {
            Self::Noise => 16_000,
            // A quarter of the published schedule for each picture.
            Self::UnlearnDiffAtk | Self::P4d => 24_000,
            _ => 4_000,
        }
    }

    fn choices() -> String {
        Self::ALL.iter().map(|attack| attack.name()).collect::<Vec<_>>().join(", ")
    }
}

/// One attack on an erased model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttackSpec {
    /// Which.
    pub attack: AttackName,
    /// Of `concept-inversion`: the embedding shall make the erased model predict what the base model
    /// predicts of the concept, rather than the noise in pictures of it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub guided: bool,
    /// Most single-sample U-Net evaluations that it may spend; a pass with gradient counts one
    /// forward and one backward.
    pub budget: u64,
    /// Where its draws start.
    pub seed: u64,
    /// Pictures that its success is counted over, and its controls', by each judge.
    pub pictures: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl AttackSpec {
    /// Most attacks of one judgement.
    pub const MOST: usize = 32;
    /// Pictures where a request does not say.
    pub const PICTURES: usize = 16;
    /// Most pictures that one attack may ask for.
    pub const MOST_PICTURES: usize = 1_000;
    /// Most evaluations that one attack may ask for.
    pub const MOST_BUDGET: u64 = 10_000_000;

    /// An attack with the defaults.
    pub fn new(attack: AttackName) -> Self {
        Self {
            attack,
            guided: false,
            budget: attack.default_budget(),
            seed: 0,
            pictures: Self::PICTURES,
        }
    }

    /// Its variant in results, such as "guided"; empty where there is one alone.
    pub fn variant(&self) -> &'static str {
        if self.guided { "guided" } else { "" }
    }

    /// Checks the attacks of a judgement, each by its place among them.
    pub(super) fn validate_all(attacks: &[Self]) -> Result<(), SpecError> {
        let mut found = Violations::default();
        if attacks.len() > Self::MOST {
            let message = format!(
                "has {} entries, the limit is {}; leave some out",
                attacks.len(),
                Self::MOST
            );
            found.add(Field::Attacks, message);
        }
        for (index, attack) in attacks.iter().enumerate() {
            let mut wrong = |message| found.add(Field::Attacks.at(index), message);
            if let Some(first) = attacks[..index].iter().position(|other| other == attack) {
                wrong(format!("is attacks[{first}] again; leave one out, or give another seed"));
            }
            if attack.guided && attack.attack != AttackName::ConceptInversion {
                wrong(format!(
                    "{} has no guided variant, concept-inversion alone has one; leave it out",
                    attack.attack
                ));
            }
            if !(1..=Self::MOST_BUDGET).contains(&attack.budget) {
                wrong(format!(
                    "a budget of {} U-Net evaluations is outside 1 to {}; the default is {}",
                    attack.budget,
                    Self::MOST_BUDGET,
                    attack.attack.default_budget()
                ));
            }
            if !(1..=Self::MOST_PICTURES).contains(&attack.pictures) {
                wrong(format!(
                    "{} pictures are outside 1 to {}; the default is {}",
                    attack.pictures,
                    Self::MOST_PICTURES,
                    Self::PICTURES
                ));
            }
        }
        found.finish()
    }
}

/// As on the command line: `NAME[:budget=N,seed=S,pictures=P,guided]`.
impl FromStr for AttackSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let wrong = |message: String| SpecError::one(Field::Attacks, message);
        let (name, settings) = text.split_once(':').unwrap_or((text, ""));
        let attack = name.parse().map_err(|_| {
            wrong(format!("\"{name}\" is no attack; use one of {}", AttackName::choices()))
        })?;
        let mut spec = Self::new(attack);
        for setting in settings.split(',').filter(|setting| !setting.is_empty()) {
            let number = |value: &str| {
                value
                    .parse::<u64>()
                    .map_err(|_| wrong(format!("\"{value}\" of \"{setting}\" is no whole number")))
            };
            match setting.split_once('=') {
                None if setting == "guided" => spec.guided = true,
                Some(("budget", value)) => spec.budget = number(value)?,
                Some(("seed", value)) => spec.seed = number(value)?,
                Some(("pictures", value)) => {
                    spec.pictures = usize::try_from(number(value)?).unwrap_or(usize::MAX);
                }
                _ => {
                    return Err(wrong(format!(
                        "\"{setting}\" is no setting of an attack; use budget=N, seed=N, \
                         pictures=N or guided"
                    )));
                }
            }
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(attacks: &[AttackSpec]) -> String {
        AttackSpec::validate_all(attacks).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn an_attack_is_read_as_it_is_written_on_the_command_line() {
        let plain: AttackSpec = "completion".parse().unwrap();
        assert_eq!(plain, AttackSpec::new(AttackName::Completion));
        let whole: AttackSpec =
            "concept-inversion:budget=900,seed=7,pictures=4,guided".parse().unwrap();
        let expected = AttackSpec {
            guided: true,
            budget: 900,
            seed: 7,
            pictures: 4,
            ..AttackSpec::new(AttackName::ConceptInversion)
        };
        assert_eq!((whole.variant(), &whole), ("guided", &expected));
        for (wrong, reason) in [
            ("cat", "is no attack"),
            ("noise:budget=many", "is no whole number"),
            ("noise:budget=-1", "is no whole number"),
            ("noise:loud", "is no setting"),
        ] {
            let error = wrong.parse::<AttackSpec>().unwrap_err().to_string();
            assert!(error.contains(reason), "{wrong}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_attacked_is_refused_with_its_place() {
        let noise = AttackSpec::new(AttackName::Noise);
        let inversion = AttackSpec::new(AttackName::ConceptInversion);
        let guided = AttackSpec { guided: true, ..inversion.clone() };
        assert_eq!(violations(&[noise.clone(), inversion, guided]), "");
        for (wrong, reason) in [
            (AttackSpec { budget: 0, ..noise.clone() }, "a budget of 0"),
            (AttackSpec { pictures: 0, ..noise.clone() }, "0 pictures"),
            (AttackSpec { guided: true, ..noise.clone() }, "no guided variant"),
            (noise.clone(), "is attacks[0] again"),
        ] {
            let found = violations(&[noise.clone(), wrong]);
            assert!(found.starts_with("attacks[1]: ") && found.contains(reason), "{found}");
        }
        assert!(violations(&vec![noise; AttackSpec::MOST + 1]).contains("the limit is 32"));
    }

    #[test]
    fn names_and_json_agree() {
        for attack in AttackName::ALL {
            let json = serde_json::to_string(attack).unwrap();
            assert_eq!(json, format!("\"{}\"", attack.name()));
            assert_eq!(attack.name().parse(), Ok(*attack));
        }
        let json = serde_json::to_string(&AttackSpec::new(AttackName::Noise)).unwrap();
        assert_eq!(json, r#"{"attack":"noise","budget":16000,"seed":0,"pictures":16}"#);
    }
}
