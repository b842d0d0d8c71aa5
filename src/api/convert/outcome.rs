//! Converts a job's outcome into the response of its operation.

use super::{fields::sampler, small};
use crate::{
    api::names::checkpoint_name,
    jobs::{Evaluated, JobId, Unlearned},
    outcome::{
        Compared, ConceptVerdict, Figures, Measures, Published, PublishedFile, Share, Verdict,
        WordRow,
    },
    proto::keystep::v1::{
        Compared as WireCompared, ConceptKind as WireKind, EvaluateErasureResponse,
        Figures as WireFigures, LogSnrWindow as WireWindow, Measures as WireMeasures,
        PublishedFile as WireFile, Share as WireShare, UnlearnConceptResponse,
        Verdict as WireVerdict, WordRow as WireWordRow,
    },
    spec::ConceptKind,
};

pub(super) fn unlearned(id: JobId, outcome: &Unlearned) -> UnlearnConceptResponse {
    let Unlearned {
        published,
        verdicts,
        key_steps,
        window,
        updates,
        unet_evaluations,
        evaluation: _,
    } = outcome;
    let Published { manifest_uri, manifest_sha256, files } = published.clone();
    UnlearnConceptResponse {
        manifest_uri,
        manifest_sha256,
        model: checkpoint_name(id),
        verdicts: verdicts.iter().map(verdict).collect(),
        key_steps: key_steps.iter().map(|step| small(step.0)).collect(),
        window: window.map(|window| WireWindow { low: window.low, high: window.high }),
        updates: small(*updates),
        unet_evaluations: *unet_evaluations,
        plan: None,
        files: files.into_iter().map(file).collect(),
    }
}

pub(super) fn evaluated(outcome: &Evaluated) -> EvaluateErasureResponse {
    let Evaluated { published, verdicts, unet_evaluations, evaluation } = outcome;
    let Published { manifest_uri, manifest_sha256, files } = published.clone();
    let with_counts = |judged: &ConceptVerdict| WireVerdict {
        measures: judged.verdict.measures.as_ref().map(counts),
        ..verdict(judged)
    };
    EvaluateErasureResponse {
        verdicts: verdicts.iter().map(with_counts).collect(),
        manifest_uri,
        manifest_sha256,
        unet_evaluations: *unet_evaluations,
        files: files.into_iter().map(file).collect(),
        evaluation_json: if evaluation.is_empty() {
            String::new()
        } else {
            // Plain data, which always is JSON.
            serde_json::to_string(evaluation).unwrap_or_default()
        },
    }
}

fn file(file: PublishedFile) -> WireFile {
    // The name is the end of the URI.
    let PublishedFile { name: _, uri, size, sha256 } = file;
    WireFile { uri, size_bytes: size, sha256 }
}

/// A verdict without what was counted, which lists of models would not fit into a message with.
pub(super) fn verdict(verdict: &ConceptVerdict) -> WireVerdict {
    let ConceptVerdict { concept, verdict } = verdict;
    let Verdict { judge, sampler: drawn_with, edited, base, measures: _ } = verdict;
    WireVerdict {
        judge: judge.clone(),
        edited: Some(figures(*edited)),
        base: Some(figures(*base)),
        concept: concept.clone(),
        sampler: sampler(*drawn_with).into(),
        measures: None,
    }
}

fn counts(measures: &Measures) -> WireMeasures {
    WireMeasures {
        ua: Some(compared(measures.ua)),
        ira: Some(compared(measures.ira)),
        cra: Some(compared(measures.cra)),
        words: measures.words.iter().map(word).collect(),
    }
}

fn word(row: &WordRow) -> WireWordRow {
    let kind = match row.kind {
        ConceptKind::Object => WireKind::ObjectClass,
        ConceptKind::Style => WireKind::Style,
        ConceptKind::Instance => WireKind::Instance,
        ConceptKind::Nudity => WireKind::Nudity,
    };
    WireWordRow { word: row.word.clone(), kind: kind.into(), named: Some(compared(row.named)) }
}

fn compared(compared: Compared) -> WireCompared {
    let share = |Share { count, of }| WireShare { count, of };
    WireCompared {
        base: Some(share(compared.base)),
        edited: Some(share(compared.edited)),
        lost: compared.drop.lost,
        gained: compared.drop.gained,
    }
}

fn figures(figures: Figures) -> WireFigures {
    let Figures { ua, ira, cra } = figures;
    WireFigures { ua, ira, cra }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::PairedDrop;

    #[test]
    fn what_was_counted_is_said() {
        let (base, edited) = (Share { count: 30, of: 40 }, Share { count: 28, of: 40 });
        let drop = PairedDrop { lost: 5, gained: 3, of: 40 };
        let dog = Compared { base, edited, drop };
        let row = WordRow {
            word: "dog".to_owned(),
            kind: ConceptKind::Style,
            held: None,
            named: dog,
            became: Vec::new(),
            picture_distance: None,
        };
        let said = counts(&Measures { ira: dog, words: vec![row], ..Measures::default() });
        let share = |count| Some(WireShare { count, of: 40 });
        let wanted = WireCompared { base: share(30), edited: share(28), lost: 5, gained: 3 };
        assert_eq!(said.ira, Some(wanted.clone()));
        let named =
            (said.words[0].word.as_str(), said.words[0].kind(), said.words[0].named.clone());
        assert_eq!(named, ("dog", WireKind::Style, Some(wanted)));
    }
}
