//! What a result says of itself: its judges' verdicts, and the versions and device that computed
//! it.

use std::collections::BTreeMap;

use super::Measurements;
use crate::outcome::{ConceptVerdict, JudgeReport};

/// The verdicts of a judgement, each with the concept that it is about.
pub(super) fn verdicts(judged: &JudgeReport) -> impl Iterator<Item = ConceptVerdict> + '_ {
    judged.verdicts.iter().map(|verdict| ConceptVerdict {
        concept: judged.spec.concept.text.clone(),
        verdict: verdict.clone(),
    })
}

/// What computed a result; the machine where it is measured.
pub fn versions(measurements: Option<&dyn Measurements>) -> BTreeMap<String, String> {
    let keystep = ("keystep".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    let platform = measurements.map(|measured| ("platform".to_owned(), measured.platform()));
    [keystep].into_iter().chain(platform).collect()
}
