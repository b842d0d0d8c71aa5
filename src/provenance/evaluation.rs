//! What was measured of a result: our own predicate, flat enough for rules over plain JSON.

use serde::Serialize;

use super::{ResourceDescriptor, home::home};
use crate::outcome::{
    AttackResult, Compared, ConceptVerdict, Confidence, Distances, EvaluationResults, Interval,
    Share, SuiteResult,
};

/// The type of the predicate, as `docs/provenance.md` describes it.
pub fn evaluation_type() -> String {
    home("docs/provenance.md#evaluation-v1")
}

/// The figures of an evaluation, each with the number of pictures that it is of and, where these were
/// counted, its interval.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluated<'a> {
    /// How sure the intervals are.
    confidence: Confidence,
    /// What each judge says of each concept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    verdicts: Vec<Judged<'a>>,
    /// Who judged, each with what it is made of where that is known.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    judges: &'a [ResourceDescriptor],
    /// How far pictures moved as a whole.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    distances: &'a [Distances],
    /// Suites of prompts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    suites: Vec<Suite<'a>>,
    /// Attacks, with budgets and controls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attacks: Vec<Attack<'a>>,
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct Measured<'a> {
    /// What each judge says of each concept.
    pub verdicts: &'a [ConceptVerdict],
    /// Who judged.
    pub judges: &'a [ResourceDescriptor],
    /// What was found beyond the verdicts.
    pub beyond: &'a EvaluationResults,
}

/// A verdict, with intervals where its pictures were counted.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Judged<'a> {
    #[serde(flatten)]
    verdict: &'a ConceptVerdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    rates: Option<VerdictRates>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct VerdictRates {
    ua: ComparedRates,
    ira: ComparedRates,
    cra: ComparedRates,
}

impl<'a> From<&'a ConceptVerdict> for Judged<'a> {
    fn from(verdict: &'a ConceptVerdict) -> Self {
        let rates = verdict.verdict.measures.as_ref().map(|measures| VerdictRates {
            ua: measures.ua.into(),
            ira: measures.ira.into(),
            cra: measures.cra.into(),
        });
        Self { verdict, rates }
    }
}

/// Both models' rates on the same prompts and seeds, and by how much the edited one's is lower.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct ComparedRates {
    base: Rate,
    edited: Rate,
    drop: Rate,
}

impl From<Compared> for ComparedRates {
    fn from(compared: Compared) -> Self {
        let Compared { base, edited, drop } = compared;
        let interval = compared.drop_interval(Confidence::DEFAULT.two_sided());
        let drop = Rate { value: drop.drop(), n: drop.of, interval };
        Self { base: base.into(), edited: edited.into(), drop }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Suite<'a> {
    #[serde(flatten)]
    result: &'a SuiteResult,
    rates: ComparedRates,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Attack<'a> {
    #[serde(flatten)]
    result: &'a AttackResult,
    plain_rate: Rate,
    attacked_rate: Rate,
    #[serde(skip_serializing_if = "Option::is_none")]
    false_alarms_rate: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ceiling_rate: Option<Rate>,
}

/// A share as a figure: its value, the pictures that it is of, and its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Rate {
    value: f64,
    n: u64,
    interval: Interval,
}

impl From<Share> for Rate {
    fn from(share: Share) -> Self {
        Self { value: share.rate(), n: share.of, interval: share.interval(Confidence::DEFAULT) }
    }
}

impl<'a> Evaluated<'a> {
    /// None where nothing was measured.
    pub fn new(measured: Measured<'a>) -> Option<Self> {
        let Measured { verdicts, judges, beyond } = measured;
        let EvaluationResults { distances, suites, attacks } = beyond;
        let is_empty = verdicts.is_empty() && beyond.is_empty();
        let suites = suites.iter().map(|suite| Suite { result: suite, rates: suite.named.into() });
        let attacks = attacks.iter().map(|attack| Attack {
            result: attack,
            plain_rate: attack.plain.into(),
            attacked_rate: attack.attacked.into(),
            false_alarms_rate: attack.false_alarms.map(Rate::from),
            ceiling_rate: attack.ceiling.map(Rate::from),
        });
        (!is_empty).then(|| Self {
            confidence: Confidence::DEFAULT,
            verdicts: verdicts.iter().map(Judged::from).collect(),
            judges,
            distances,
            suites: suites.collect(),
            attacks: attacks.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        outcome::{AttackName, Figures, Measures, Verdict},
        spec::Expectation,
    };

    #[test]
    fn rates_stand_beside_their_counts() {
        let mut named = Compared::default();
        for at in 0..10 {
            named.add(true, at < 4);
        }
        let suites = vec![SuiteResult {
            expects: Expectation::Gone,
            suite: "paraphrases".to_owned(),
            concept: "cat".to_owned(),
            judge: "cnn".to_owned(),
            sha256: "0".repeat(64),
            columns: Vec::new(),
            named,
            applicable: true,
        }];
        let attacks = vec![AttackResult {
            attack: AttackName::ConceptInversion,
            variant: "guided".to_owned(),
            concept: "cat".to_owned(),
            judge: "cnn".to_owned(),
            budget: 4_000,
            forward_evaluations: 3_000,
            backward_evaluations: 1_000,
            seed: 1,
            plain: Share { count: 0, of: 16 },
            attacked: Share { count: 4, of: 16 },
            false_alarms: Some(Share { count: 0, of: 16 }),
            ceiling: None,
            finished: true,
            first_success: Some(80),
            control_first_success: None,
            curve: Vec::new(),
            found: Vec::new(),
        }];
        let figures = Figures { ua: 0.4, ira: f64::NAN, cra: f64::NAN };
        let verdicts = [ConceptVerdict {
            concept: "cat".to_owned(),
            verdict: Verdict {
                judge: "cnn".to_owned(),
                sampler: crate::spec::SamplerKind::Ddim,
                edited: figures,
                base: figures,
                measures: Some(Measures { ua: named, ..Measures::default() }),
            },
        }];
        let beyond = EvaluationResults { suites, attacks, ..EvaluationResults::default() };
        let measured = Measured { verdicts: &verdicts, judges: &[], beyond: &beyond };
        let json = serde_json::to_value(Evaluated::new(measured).unwrap()).unwrap();
        let suite = &json["suites"][0];
        assert_eq!(
            (&suite["suite"], &suite["rates"]["edited"]["n"]),
            (&"paraphrases".into(), &10.into())
        );
        assert_eq!(suite["rates"]["edited"]["value"], 0.4);
        // The interval that reports and policies show, not one of its own.
        let drop = &suite["rates"]["drop"]["interval"];
        let shown = named.drop_interval(Confidence::DEFAULT.two_sided());
        assert_eq!(*drop, serde_json::to_value(shown).unwrap());
        let attack = &json["attacks"][0];
        assert_eq!(attack["attacked_rate"]["value"], 0.25);
        assert_eq!(attack["budget"], 4_000);
        // Wilson's interval of 4 in 16, as R's binom::binom.wilson has it.
        let high = attack["attacked_rate"]["interval"]["high"].as_f64().unwrap();
        assert!((high - 0.494_983).abs() < 1e-5, "{high}");
        assert!(attack["false_alarms_rate"].is_object() && attack.get("ceiling_rate").is_none());
        assert_eq!(json["confidence"], 0.95);
        let verdict = &json["verdicts"][0];
        assert_eq!(
            (&verdict["concept"], &verdict["verdict"]["judge"]),
            (&"cat".into(), &"cnn".into())
        );
        assert_eq!(verdict["rates"]["ua"]["drop"]["value"], 0.6);
        assert!(verdict["rates"]["cra"]["edited"]["value"].is_null(), "over no pictures");
        let nothing = EvaluationResults::default();
        let measured = Measured { verdicts: &[], judges: &[], beyond: &nothing };
        assert!(Evaluated::new(measured).is_none());
    }
}
