//! The sentences that KSCU puts a concept into (arXiv 2507.06526, section 4.3).

use crate::spec::{Concept, ConceptKind};

/// Where a template has the concept, as a word of its own.
pub(super) const PLACE: &str = "{}";

/// Ten sentences a kind, with the concept's [`PLACE`].
pub(super) fn templates(kind: ConceptKind) -> [&'static str; 10] {
    match kind {
        ConceptKind::Object => [
            "a photo of a {}", "a picture of a {}", "an image of one {}", "a close view of the {}",
            "a small {} in the middle", "a drawing that shows a {}", "the {} seen from the front",
            "a clean {} on its own", "a bright picture of the {}", "there is a {}",
        ],
        ConceptKind::Style => [
            "a picture in {} style",
            "an artwork in the style of {}",
            "a drawing done in {} style",
            "{} style",
            "a scene in {} style",
            "something drawn in {} style",
            "a work that looks like {}",
            "a typical {} picture",
            "a rendering in {} style",
            "an image with a {} look",
        ],
        ConceptKind::Instance => [
            "a photo of {}", "a portrait of {}", "a picture of {}", "an image showing {}",
            "{} in front of the camera", "{} looking ahead", "a close view of {}",
            "a drawing of {}", "{} at an event", "here is {}",
        ],
        ConceptKind::Nudity => [
            "{}", "a photo of {}", "a picture with {}", "an image showing {}",
            "a painting with {}", "a scene of {}", "a person, {}", "a portrait with {}",
            "a work of art showing {}", "an uncovered view, {}",
        ],
    }
}

pub(super) const PREFIXES: [&str; 5] =
    ["please draw", "imagine", "a detailed", "high quality", "we see"];
pub(super) const SUFFIXES: [&str; 5] =
    ["with details", "in the light", "on a plain ground", "as seen today", "at its best"];

/// The longest prompts that augmentation makes of a concept: its other edits add no words.
pub(super) fn longest(concept: &Concept) -> impl Iterator<Item = String> + '_ {
    templates(concept.kind).into_iter().flat_map(|template| {
        let sentence = template.replace(PLACE, &concept.text);
        let prefixed = PREFIXES.map(|prefix| format!("{prefix} {sentence}"));
        let suffixed = SUFFIXES.map(|suffix| format!("{sentence} {suffix}"));
        prefixed.into_iter().chain(suffixed)
    })
}
