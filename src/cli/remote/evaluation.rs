//! Reads what judging counted and measured from the API's messages; rates and intervals follow from
//! the counts.

use super::RemoteError;
use crate::{
    outcome::{
        AttackResult, Compared, CurvePoint, Distances, EvaluationResults, Measures, Named,
        PairedDrop, PictureDistance, ScorePair, Share, Spread, SuiteResult, WordRow,
    },
    proto::keystep::v1::{
        AttackResult as WireAttack, Compared as WireCompared, CurvePoint as WirePoint,
        Distances as WireDistances, Domain, EvaluateErasureResponse, Measures as WireMeasures,
        Named as WireNamed, ScorePair as WireScores, Share as WireShare, Spread as WireSpread,
        SuiteExpectation, SuiteResult as WireSuite, WordRow as WireRow,
    },
    spec::{ConceptKind, Expectation},
};

/// Suites, attacks and distances of an answer; an attack that this version does not know is an error.
pub(super) fn results(
    response: &EvaluateErasureResponse,
) -> Result<EvaluationResults, RemoteError> {
    Ok(EvaluationResults {
        distances: response.distances.iter().map(distances).collect(),
        suites: response.suites.iter().map(suite).collect(),
        attacks: response.attacks.iter().map(attack).collect::<Result<_, _>>()?,
    })
}

/// What a judge counted.
pub(super) fn measures(measures: &WireMeasures) -> Measures {
    let WireMeasures { ua, ira, cra, ira_held, ira_unheld, words } = measures;
    Measures {
        ua: compared(ua.as_ref()),
        ira: compared(ira.as_ref()),
        cra: compared(cra.as_ref()),
        ira_held: compared(ira_held.as_ref()),
        ira_unheld: compared(ira_unheld.as_ref()),
        words: words.iter().map(word).collect(),
    }
}

fn word(row: &WireRow) -> WordRow {
    let named = |named: &WireNamed| Named { name: named.name.clone(), count: named.count };
    WordRow {
        word: row.word.clone(),
        kind: match row.domain() {
            Domain::Styles => ConceptKind::Style,
            Domain::Objects | Domain::Unspecified => ConceptKind::Object,
        },
        held: row.held,
        named: compared(row.named.as_ref()),
        became: row.became.iter().map(named).collect(),
        picture_distance: row.picture_distance,
    }
}

fn share(WireShare { count, of, .. }: WireShare) -> Share {
    Share { count, of }
}

/// Counts that are not of the same pictures, which no server sends, are nothing.
fn compared(compared: Option<&WireCompared>) -> Compared {
    let read = |compared: &WireCompared| Compared {
        base: compared.base.map(share).unwrap_or_default(),
        edited: compared.edited.map(share).unwrap_or_default(),
        drop: compared.drop.map_or_else(PairedDrop::default, |drop| PairedDrop {
            lost: drop.lost,
            gained: drop.gained,
            of: drop.of,
        }),
    };
    compared.map(read).filter(|compared| compared.is_consistent()).unwrap_or_default()
}

/// How far pictures moved.
pub(super) fn distances(distances: &WireDistances) -> Distances {
    let spread = |WireSpread { mean, deviation }: WireSpread| Spread { mean, deviation };
    let scores = |WireScores { base, edited, drop }: WireScores| ScorePair {
        base,
        edited,
        drop: spread(drop.unwrap_or_default()),
    };
    Distances {
        features: distances.features.clone(),
        pictures: distances.pictures,
        cmmd: distances.cmmd,
        cmmd_of_base: distances.cmmd_of_base,
        kid: distances.kid.map(spread),
        clip_score: distances.clip_score.map(scores),
        clip_score_of_concept: distances.clip_score_of_concept.map(scores),
        picture_distance: distances
            .picture_distance
            .map(|moved| PictureDistance { meaning: moved.meaning, looks: moved.looks }),
    }
}

fn suite(result: &WireSuite) -> SuiteResult {
    SuiteResult {
        suite: result.suite.clone(),
        concept: result.concept.clone(),
        judge: result.judge.clone(),
        sha256: result.sha256.clone(),
        columns: result.columns.clone(),
        expects: match result.expects() {
            SuiteExpectation::Kept => Expectation::Kept,
            SuiteExpectation::Gone | SuiteExpectation::Unspecified => Expectation::Gone,
        },
        named: compared(result.named.as_ref()),
        applicable: result.applicable,
    }
}

fn attack(result: &WireAttack) -> Result<AttackResult, RemoteError> {
    let point = |point: &WirePoint| CurvePoint {
        step: point.step,
        attacked: point.attacked.map(share).unwrap_or_default(),
        control: point.control.map(share),
    };
    let attack = result.attack.parse().map_err(|_| {
        RemoteError::Answer(format!(
            "it reports an attack \"{}\", which this version does not know; take a later one",
            result.attack
        ))
    })?;
    Ok(AttackResult {
        attack,
        variant: result.variant.clone(),
        concept: result.concept.clone(),
        judge: result.judge.clone(),
        budget: result.budget,
        forward_evaluations: result.forward_evaluations,
        backward_evaluations: result.backward_evaluations,
        seed: result.seed,
        plain: result.plain.map(share).unwrap_or_default(),
        attacked: result.attacked.map(share).unwrap_or_default(),
        false_alarms: result.false_alarms.map(share),
        ceiling: result.ceiling.map(share),
        finished: result.finished,
        first_success: result.first_success,
        control_first_success: result.control_first_success,
        curve: result.curve.iter().map(point).collect(),
        found: result.found.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attack_of_a_later_server_is_no_attack_that_was_withstood() {
        let said = |attack: &str| EvaluateErasureResponse {
            attacks: vec![WireAttack { attack: attack.to_owned(), ..WireAttack::default() }],
            ..EvaluateErasureResponse::default()
        };
        assert_eq!(results(&said("completion")).unwrap().attacks.len(), 1);
        assert!(results(&said("hypnosis")).unwrap_err().to_string().contains("hypnosis"));
    }

    #[test]
    fn counts_are_read_where_they_can_be_of_the_same_pictures() {
        let share = |count| Some(WireShare { count, of: 4, ..WireShare::default() });
        let drop = |lost| {
            let drop = crate::proto::keystep::v1::PairedDrop { lost, of: 4, ..Default::default() };
            Some(drop)
        };
        let of =
            |edited, lost| WireCompared { base: share(4), edited: share(edited), drop: drop(lost) };
        let found = compared(Some(&of(3, 1)));
        assert_eq!((found.edited, found.drop.lost), (Share { count: 3, of: 4 }, 1));
        for odd in [of(3, 2), of(5, 1), of(3, u64::MAX)] {
            assert_eq!(compared(Some(&odd)), Compared::default());
        }
        assert_eq!(compared(None), Compared::default());
    }
}
