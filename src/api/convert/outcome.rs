//! Converts a job's outcome into the response of its operation.

use super::{fields::sampler, small};
use crate::{
    api::names::checkpoint_name,
    jobs::{Evaluated, JobId, Unlearned},
    outcome::{ConceptVerdict, Figures, Published, PublishedFile, Verdict},
    proto::keystep::v1::{
        EvaluateErasureResponse, Figures as WireFigures, LogSnrWindow as WireWindow,
        PublishedFile as WireFile, UnlearnConceptResponse, Verdict as WireVerdict,
    },
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
    let Evaluated { published, verdicts, unet_evaluations, evaluation: _ } = outcome;
    let Published { manifest_uri, manifest_sha256, files } = published.clone();
    EvaluateErasureResponse {
        verdicts: verdicts.iter().map(verdict).collect(),
        manifest_uri,
        manifest_sha256,
        unet_evaluations: *unet_evaluations,
        files: files.into_iter().map(file).collect(),
    }
}

fn file(file: PublishedFile) -> WireFile {
    // The name is the end of the URI.
    let PublishedFile { name: _, uri, size, sha256 } = file;
    WireFile { uri, size_bytes: size, sha256 }
}

pub(super) fn verdict(verdict: &ConceptVerdict) -> WireVerdict {
    let ConceptVerdict { concept, verdict } = verdict;
    let Verdict { judge, sampler: drawn_with, edited, base, measures: _ } = verdict;
    WireVerdict {
        judge: judge.clone(),
        edited: Some(figures(*edited)),
        base: Some(figures(*base)),
        concept: concept.clone(),
        sampler: sampler(*drawn_with).into(),
    }
}

fn figures(figures: Figures) -> WireFigures {
    let Figures { ua, ira, cra } = figures;
    WireFigures { ua, ira, cra }
}
