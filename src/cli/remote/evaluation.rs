//! Reads what judging counted and measured from the API's messages; rates and intervals follow from
//! the counts.

use crate::{
    outcome::{
        Compared, Distances, Measures, Named, PairedDrop, PictureDistance, ScorePair, Share,
        Spread, WordRow,
    },
    proto::keystep::v1::{
        Compared as WireCompared, Distances as WireDistances, Domain, Measures as WireMeasures,
        Named as WireNamed, ScorePair as WireScores, Share as WireShare, Spread as WireSpread,
        WordRow as WireRow,
    },
    spec::ConceptKind,
};

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

/// Counts that are not of the same pictures, which no server sends, are nothing.
fn compared(compared: Option<&WireCompared>) -> Compared {
    let share = |share: Option<WireShare>| {
        share.map_or_else(Share::default, |WireShare { count, of, .. }| Share { count, of })
    };
    let read = |compared: &WireCompared| Compared {
        base: share(compared.base),
        edited: share(compared.edited),
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

#[cfg(test)]
mod tests {
    use super::*;

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
