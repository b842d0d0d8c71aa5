//! KSCU's prompt augmentation (arXiv 2507.06526, section 4.3): a template, one edit of the
//! words, and a little noise on the embedding.

use candle_core::Tensor;

use super::Run;
use crate::{
    engine::EngineError,
    spec::{Concept, ConceptKind},
};

/// Ten sentences a kind; `{}` is the concept.
fn templates(kind: ConceptKind) -> [&'static str; 10] {
    match kind {
        ConceptKind::Object => [
            "a photo of a {}",
            "a picture of a {}",
            "an image of one {}",
            "a close view of the {}",
            "a small {} in the middle",
            "a drawing that shows a {}",
            "the {} seen from the front",
            "a clean {} on its own",
            "a bright picture of the {}",
            "there is a {}",
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
            "a photo of {}",
            "a portrait of {}",
            "a picture of {}",
            "an image showing {}",
            "{} in front of the camera",
            "{} looking ahead",
            "a close view of {}",
            "a drawing of {}",
            "{} at an event",
            "here is {}",
        ],
        ConceptKind::Nudity => [
            "{}",
            "a photo of {}",
            "a picture with {}",
            "an image showing {}",
            "a painting with {}",
            "a scene of {}",
            "a person, {}",
            "a portrait with {}",
            "a work of art showing {}",
            "an uncovered view, {}",
        ],
    }
}

const PREFIXES: [&str; 5] = ["please draw", "imagine", "a detailed", "high quality", "we see"];
const SUFFIXES: [&str; 5] =
    ["with details", "in the light", "on a plain ground", "as seen today", "at its best"];

/// Length of the noise on the embedding, as published.
const EMBEDDING_NOISE: f64 = 1e-5;

/// The longest prompts that [`augmented`] makes of a concept: its other edits add no words.
pub(super) fn longest(concept: &Concept) -> impl Iterator<Item = String> + '_ {
    templates(concept.kind).into_iter().flat_map(|template| {
        let sentence = template.replace("{}", &concept.text);
        let prefixed = PREFIXES.map(|prefix| format!("{prefix} {sentence}"));
        let suffixed = SUFFIXES.map(|suffix| format!("{sentence} {suffix}"));
        prefixed.into_iter().chain(suffixed)
    })
}

/// Hidden states, `[1, tokens, channels]`, of a freshly augmented prompt of a concept.
pub(super) fn augmented(run: &mut Run<'_>, concept: usize) -> Result<Tensor, EngineError> {
    let concept = &run.spec.concepts[concept];
    let template = templates(concept.kind)[run.noise.index(10)];
    let mut words: Vec<&str> = template
        .split(' ')
        .map(|word| if word == "{}" { concept.text.as_str() } else { word })
        .collect();
    match run.noise.index(4) {
        0 => run.noise.shuffle(&mut words),
        1 => {
            let others: Vec<usize> =
                (0..words.len()).filter(|index| words[*index] != concept.text).collect();
            if !others.is_empty() {
                words.remove(others[run.noise.index(others.len())]);
            }
        }
        2 => words.insert(0, PREFIXES[run.noise.index(PREFIXES.len())]),
        _ => words.push(SUFFIXES[run.noise.index(SUFFIXES.len())]),
    }
    let text = run.pipeline.encode_prompts(&[words.join(" ")])?;
    let noise = run.noise.randn_tensor(text.dims(), text.device())?;
    Ok((text + (noise * EMBEDDING_NOISE)?)?)
}
