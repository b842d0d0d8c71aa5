//! Reads what an evaluation counted from a server's answer.

use super::RemoteError;
use crate::{
    outcome::{
        AttackResult, Compared, CurvePoint, Distances, EvaluationResults, Measures, Named,
        PairedDrop, PictureDistance, ScorePair, Share, Spread, SuiteResult, WordRow,
    },
    proto::keystep::v1::{
        AttackResult as WireAttack, Compared as WireCompared, CurvePoint as WirePoint,
        Distances as WireDistances, Domain, EvaluateErasureResponse, Measures as WireMeasures,
        ScorePair as WireScores, Share as WireShare, Spread as WireSpread, SuiteExpectation,
        SuiteResult as WireSuite, WordRow as WireRow,
    },
    spec::{ConceptKind, Expectation},
};

/// Suites, attacks and distances of an answer; an attack that this version does not know is an error.
pub(super) fn results(response: EvaluateErasureResponse) -> Result<EvaluationResults, RemoteError> {
    Ok(EvaluationResults {
        distances: response.distances.into_iter().map(distances).collect(),
        suites: response.suites.into_iter().map(suite).collect(),
        attacks: response.attacks.into_iter().map(attack).collect::<Result<_, _>>()?,
    })
}

/// What one judge counted.
pub(super) fn measures(measures: WireMeasures) -> Measures {
    let WireMeasures { ua, ira, cra, ira_held, ira_unheld, words } = measures;
    Measures {
        ua: compared(ua),
        ira: compared(ira),
        cra: compared(cra),
        ira_held: compared(ira_held),
        ira_unheld: compared(ira_unheld),
        words: words.into_iter().map(word).collect(),
    }
}

fn word(row: WireRow) -> WordRow {
    let kind =
        if row.domain() == Domain::Styles { ConceptKind::Style } else { ConceptKind::Object };
    let became = row.became.into_iter();
    WordRow {
        kind,
        word: row.word,
        held: row.held,
        named: compared(row.named),
        became: became.map(|it| Named { name: it.name, count: it.count }).collect(),
        picture_distance: row.picture_distance,
    }
}

fn share(share: Option<WireShare>) -> Share {
    let WireShare { count, of, .. } = share.unwrap_or_default();
    Share { count, of }
}

fn compared(compared: Option<WireCompared>) -> Compared {
    let WireCompared { base, edited, drop } = compared.unwrap_or_default();
    let drop = drop.unwrap_or_default();
    let drop = PairedDrop { lost: drop.lost, gained: drop.gained, of: drop.of };
    Compared { base: share(base), edited: share(edited), drop }
}

fn spread(spread: WireSpread) -> Spread {
    let WireSpread { mean, deviation } = spread;
    Spread { mean, deviation }
}

fn scores(scores: WireScores) -> ScorePair {
    let WireScores { base, edited, drop } = scores;
    ScorePair { base, edited, drop: spread(drop.unwrap_or_default()) }
}

fn distances(distances: WireDistances) -> Distances {
    Distances {
        features: distances.features,
        pictures: distances.pictures,
        cmmd: distances.cmmd,
        cmmd_of_base: distances.cmmd_of_base,
        kid: distances.kid.map(spread),
        clip_score: distances.clip_score.map(scores),
        clip_score_of_concept: distances.clip_score_of_concept.map(scores),
        picture_distance: distances
            .picture_distance
            .map(|it| PictureDistance { meaning: it.meaning, looks: it.looks }),
    }
}

fn suite(result: WireSuite) -> SuiteResult {
    let expects = match result.expects() {
        SuiteExpectation::Kept => Expectation::Kept,
        SuiteExpectation::Gone | SuiteExpectation::Unspecified => Expectation::Gone,
    };
    SuiteResult {
        suite: result.suite,
        concept: result.concept,
        judge: result.judge,
        sha256: result.sha256,
        columns: result.columns,
        expects,
        named: compared(result.named),
        applicable: result.applicable,
    }
}

fn attack(result: WireAttack) -> Result<AttackResult, RemoteError> {
    let point = |point: WirePoint| CurvePoint {
        step: point.step,
        attacked: share(point.attacked),
        control: point.control.map(|it| share(Some(it))),
    };
    let attack = result.attack.parse().map_err(|_| {
        RemoteError::Answer(format!(
            "the server reports an attack \"{}\", which this version does not know; take a later one",
            result.attack
        ))
    })?;
    Ok(AttackResult {
        attack,
        variant: result.variant,
        concept: result.concept,
        judge: result.judge,
        budget: result.budget,
        forward_evaluations: result.forward_evaluations,
        backward_evaluations: result.backward_evaluations,
        seed: result.seed,
        plain: share(result.plain),
        attacked: share(result.attacked),
        false_alarms: result.false_alarms.map(|it| share(Some(it))),
        ceiling: result.ceiling.map(|it| share(Some(it))),
        finished: result.finished,
        first_success: result.first_success,
        control_first_success: result.control_first_success,
        curve: result.curve.into_iter().map(point).collect(),
        found: result.found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::keystep::v1::PairedDrop as WireDrop;

    #[test]
    fn what_was_counted_is_read() {
        let share = |count| Some(WireShare { count, of: 40, ..WireShare::default() });
        let drop = Some(WireDrop { lost: 5, gained: 3, of: 40, ..WireDrop::default() });
        let said = WireCompared { base: share(30), edited: share(28), drop };
        let word = WireRow {
            word: "neon".to_owned(),
            domain: Domain::Styles.into(),
            named: Some(said),
            ..WireRow::default()
        };
        let read =
            measures(WireMeasures { ira: Some(said), words: vec![word], ..Default::default() });
        assert!(read.ira.is_consistent() && read.ira == read.words[0].named);
        assert_eq!((read.ira.edited.count, read.ira.drop.of), (28, 40));
        assert_eq!(read.words[0].kind, ConceptKind::Style);
        // What is not said was not counted.
        assert_eq!(read.ua, Compared::default());
    }

    #[test]
    fn an_attack_of_a_later_server_is_no_attack_that_was_withstood() {
        let said = |attack: &str| EvaluateErasureResponse {
            attacks: vec![WireAttack { attack: attack.to_owned(), ..WireAttack::default() }],
            ..EvaluateErasureResponse::default()
        };
        assert_eq!(results(said("completion")).unwrap().attacks.len(), 1);
        assert!(results(said("hypnosis")).unwrap_err().to_string().contains("hypnosis"));
    }
}
