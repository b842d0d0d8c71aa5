//! Converts what judging counted into wire messages, with the intervals that the counts prove.

use crate::{
    outcome::{
        AttackResult, Compared, Confidence, CurvePoint, Distances, Measures, Named, PairedDrop,
        PictureDistance, ScorePair, Share, Spread, SuiteResult, WordRow,
    },
    proto::keystep::v1::{
        AttackResult as WireAttack, Compared as WireCompared, CurvePoint as WirePoint,
        Distances as WireDistances, Domain, Measures as WireMeasures, Named as WireNamed,
        PairedDrop as WireDrop, PictureDistance as WirePictureDistance, ScorePair as WireScores,
        Share as WireShare, Spread as WireSpread, SuiteExpectation, SuiteResult as WireSuite,
        WordRow as WireRow,
    },
    spec::{ConceptKind, Expectation},
};

fn share(share: Share) -> WireShare {
    let Share { count, of } = share;
    let interval = share.interval(Confidence::DEFAULT);
    WireShare { count, of, rate: share.rate(), low: interval.low, high: interval.high }
}

fn compared(compared: Compared) -> WireCompared {
    let Compared { base, edited, drop } = compared;
    let interval = compared.drop_interval(Confidence::DEFAULT.two_sided());
    let PairedDrop { lost, gained, of } = drop;
    let drop = WireDrop {
        lost,
        gained,
        of,
        drop: drop.drop(),
        low: interval.low,
        high: interval.high,
        chance: drop.chance(),
    };
    WireCompared { base: Some(share(base)), edited: Some(share(edited)), drop: Some(drop) }
}

pub(super) fn measures(measures: &Measures) -> WireMeasures {
    let Measures { ua, ira, cra, ira_held, ira_unheld, words } = measures;
    let part = |part: &Compared| (!part.is_empty()).then(|| compared(*part));
    WireMeasures {
        ua: Some(compared(*ua)),
        ira: Some(compared(*ira)),
        cra: Some(compared(*cra)),
        ira_held: part(ira_held),
        ira_unheld: part(ira_unheld),
        words: words.iter().map(|row| word(measures, row)).collect(),
    }
}

fn word(measures: &Measures, row: &WordRow) -> WireRow {
    let drop = measures.drop_of(row, Confidence::DEFAULT);
    let alarm = measures.alarms(row, Confidence::DEFAULT);
    let WordRow { word, kind, held, named, became, picture_distance } = row;
    let domain = match kind {
        ConceptKind::Style => Domain::Styles,
        ConceptKind::Object | ConceptKind::Instance | ConceptKind::Nudity => Domain::Objects,
    };
    let name = |Named { name, count }: &Named| WireNamed { name: name.clone(), count: *count };
    WireRow {
        word: word.clone(),
        domain: domain.into(),
        held: *held,
        named: Some(compared(*named)),
        became: became.iter().map(name).collect(),
        picture_distance: *picture_distance,
        drop_low: drop.low,
        drop_high: drop.high,
        alarm,
    }
}

fn spread(spread: Spread) -> WireSpread {
    let Spread { mean, deviation } = spread;
    WireSpread { mean, deviation }
}

fn scores(scores: ScorePair) -> WireScores {
    let ScorePair { base, edited, drop } = scores;
    WireScores { base, edited, drop: Some(spread(drop)) }
}

pub(super) fn distances(distances: &Distances) -> WireDistances {
    let Distances {
        features,
        pictures,
        cmmd,
        cmmd_of_base,
        kid,
        clip_score,
        clip_score_of_concept,
        picture_distance,
    } = distances;
    WireDistances {
        features: features.clone(),
        pictures: *pictures,
        cmmd: *cmmd,
        cmmd_of_base: *cmmd_of_base,
        kid: kid.map(spread),
        clip_score: clip_score.map(scores),
        clip_score_of_concept: clip_score_of_concept.map(scores),
        picture_distance: picture_distance
            .map(|PictureDistance { meaning, looks }| WirePictureDistance { meaning, looks }),
    }
}

pub(super) fn suite(result: &SuiteResult) -> WireSuite {
    let SuiteResult { suite, concept, judge, sha256, columns, expects, named, applicable } = result;
    WireSuite {
        suite: suite.clone(),
        concept: concept.clone(),
        judge: judge.clone(),
        sha256: sha256.clone(),
        columns: columns.clone(),
        named: Some(compared(*named)),
        applicable: *applicable,
        expects: match expects {
            Expectation::Gone => SuiteExpectation::Gone,
            Expectation::Kept => SuiteExpectation::Kept,
        }
        .into(),
    }
}

pub(super) fn attack(result: &AttackResult) -> WireAttack {
    let AttackResult {
        attack,
        variant,
        concept,
        judge,
        budget,
        forward_evaluations,
        backward_evaluations,
        seed,
        plain,
        attacked,
        false_alarms,
        ceiling,
        finished,
        first_success,
        control_first_success,
        curve,
        found,
    } = result;
    let point = |CurvePoint { step, attacked, control }: &CurvePoint| WirePoint {
        step: *step,
        attacked: Some(share(*attacked)),
        control: control.map(share),
    };
    WireAttack {
        attack: attack.name().to_owned(),
        variant: variant.clone(),
        concept: concept.clone(),
        judge: judge.clone(),
        budget: *budget,
        forward_evaluations: *forward_evaluations,
        backward_evaluations: *backward_evaluations,
        seed: *seed,
        plain: Some(share(*plain)),
        attacked: Some(share(*attacked)),
        false_alarms: false_alarms.map(share),
        ceiling: ceiling.map(share),
        finished: *finished,
        first_success: *first_success,
        control_first_success: *control_first_success,
        curve: curve.iter().map(point).collect(),
        found: found.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 5e-4, "{found} instead of {wanted}");
    }

    #[test]
    fn a_clients_interval_is_that_of_the_counts() {
        let all = share(Share { count: 32, of: 32 });
        near(all.low, 0.8928);
        near(all.high, 1.0);
        let none = share(Share::default());
        assert!(none.rate.is_nan());
        near(none.low, 0.0);
        near(none.high, 1.0);
    }

    #[test]
    fn rows_are_bounded_together_and_marked() {
        let mut named = Compared::default();
        for index in 0..8 {
            named.add(true, index > 6);
        }
        let row = |word: &str, named| WordRow {
            word: word.to_owned(),
            kind: ConceptKind::Style,
            held: Some(false),
            named,
            became: vec![Named { name: "flat".to_owned(), count: 7 }],
            picture_distance: Some(0.25),
        };
        let mut found = Measures {
            ira: named,
            words: vec![row("neon", named), row("comic", Compared::default())],
            ..Measures::default()
        };
        found.split(ConceptKind::Style, |_| Some(false));
        let wire = measures(&found);
        assert!(wire.ira_held.is_none() && wire.ira_unheld.is_some());
        let [first, second] = &wire.words[..] else { panic!("{wire:?}") };
        assert!(first.alarm && first.drop_low > 0.1 && first.drop_high < 1.0);
        assert_eq!((first.domain(), first.held), (Domain::Styles, Some(false)));
        assert_eq!(first.became[0].count, 7);
        let drop = first.named.as_ref().and_then(|named| named.drop).unwrap();
        assert_eq!((drop.lost, drop.gained, drop.of), (7, 0, 8));
        near(drop.drop, 0.875);
        near(drop.chance, 1.0 / 128.0);
        assert!(!second.alarm);
        near(second.drop_low, -1.0);
    }
}
