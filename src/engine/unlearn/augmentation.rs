//! KSCU's prompt augmentation (arXiv 2507.06526, section 4.3): a template, one edit of the
//! words, and a little noise on the embedding.

use super::run::Run;
use crate::engine::{
    EngineError,
    family::Conditioning,
    templates::{PLACE, PREFIXES, SUFFIXES, templates},
};

/// Length of the noise on the embedding, as published.
const EMBEDDING_NOISE: f64 = 1e-5;

/// A freshly augmented prompt of a concept: one row.
pub(super) fn augmented(run: &mut Run<'_>, concept: usize) -> Result<Conditioning, EngineError> {
    let concept = &run.spec.concepts[concept];
    let template = templates(concept.kind)[run.noise.index(10)];
    // The concept's place is kept apart from its words, which may be some of the template's.
    let mut words: Vec<&str> = template.split(' ').collect();
    match run.noise.index(4) {
        0 => run.noise.shuffle(&mut words),
        1 => {
            let others: Vec<usize> =
                (0..words.len()).filter(|index| words[*index] != PLACE).collect();
            if !others.is_empty() {
                words.remove(others[run.noise.index(others.len())]);
            }
        }
        2 => words.insert(0, PREFIXES[run.noise.index(PREFIXES.len())]),
        _ => words.push(SUFFIXES[run.noise.index(SUFFIXES.len())]),
    }
    let sentence = words.join(" ").replace(PLACE, &concept.text);
    let prompt = run.pipeline.encode_prompts(&[sentence])?;
    let noise = run.noise.randn_tensor(prompt.states.dims(), prompt.states.device())?;
    // The text's states alone, as KSCU does for FLUX.1, whose prompts have a pooled part too.
    Ok(Conditioning { states: (&prompt.states + (noise * EMBEDDING_NOISE)?)?, ..prompt })
}
