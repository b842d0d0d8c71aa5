//! What a job came to, to the wire.

use super::{fields::sampler, small};
use crate::{
    api::names::checkpoint_name,
    jobs::{ConceptVerdict, Evaluated, JobId, PublishedFile, Unlearned},
    outcome::{Figures, Verdict},
    proto::keystep::v1::{
        EvaluateErasureResponse, Figures as WireFigures, LogSnrWindow as WireWindow,
        PublishedFile as WireFile, UnlearnConceptResponse, Verdict as WireVerdict,
    },
};

pub(super) fn unlearned(id: JobId, outcome: &Unlearned) -> UnlearnConceptResponse {
    let Unlearned {
        manifest_uri,
        manifest_sha256,
        files: published,
        verdicts,
        key_steps,
        window,
        updates,
        unet_evaluations,
    } = outcome;
    UnlearnConceptResponse {
        manifest_uri: manifest_uri.clone(),
        manifest_sha256: manifest_sha256.clone(),
        model: checkpoint_name(id),
        verdicts: verdicts.iter().map(verdict).collect(),
        key_steps: key_steps.iter().map(|step| small(step.0)).collect(),
        window: window.map(|window| WireWindow { low: window.low, high: window.high }),
        updates: small(*updates),
        unet_evaluations: *unet_evaluations,
        plan: None,
        files: published.iter().map(file).collect(),
    }
}

pub(super) fn evaluated(outcome: &Evaluated) -> EvaluateErasureResponse {
    let Evaluated { manifest_uri, manifest_sha256, files: published, verdicts, unet_evaluations } =
        outcome;
    EvaluateErasureResponse {
        verdicts: verdicts.iter().map(verdict).collect(),
        manifest_uri: manifest_uri.clone(),
        manifest_sha256: manifest_sha256.clone(),
        unet_evaluations: *unet_evaluations,
        files: published.iter().map(file).collect(),
    }
}

fn file(file: &PublishedFile) -> WireFile {
    // The name is the end of the URI.
    let PublishedFile { name: _, uri, size, sha256 } = file;
    WireFile { uri: uri.clone(), size_bytes: *size, sha256: sha256.clone() }
}

pub(super) fn verdict(verdict: &ConceptVerdict) -> WireVerdict {
    let ConceptVerdict { concept, verdict } = verdict;
    let Verdict { judge, sampler: drawn_with, edited, base } = verdict;
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
