//! What attacks hold in memory beside the models.

use std::collections::BTreeSet;

use super::{
    passes::{Pass, seek_tokens},
    work::{Canvas, WorkMemory, Worker},
};
use crate::{
    engine::{
        EngineError,
        attack::{BATCH, KEPT_LATENTS, MOST_TOKENS, RELEARNED_SCOPE},
        denoise::samples_a_pass,
        family::PROMPTS_AT_ONCE,
        generate::{DrawingPolicy, group_size},
    },
    spec::{AttackName, AttackSpec, JudgeSpec},
};

/// Latents that a picture of a drawing is kept by while others are drawn: where it began, and clean.
const LATENTS_A_PICTURE: u64 = 3;

/// What the attack that holds most holds.
pub(super) fn most(
    worker: &Worker<'_>,
    spec: &JudgeSpec,
    policy: DrawingPolicy,
) -> Result<WorkMemory, EngineError> {
    let each = spec.attacks.iter().map(|attack| one(worker, spec, attack, policy));
    let each = each.collect::<Result<Vec<_>, _>>()?;
    let most = each.into_iter().max_by_key(|memory| memory.work);
    Ok(most.unwrap_or_else(|| worker.memory(0, 0)))
}

fn one(
    worker: &Worker<'_>,
    spec: &JudgeSpec,
    attack: &AttackSpec,
    policy: DrawingPolicy,
) -> Result<WorkMemory, EngineError> {
    let size = worker.sizes.size;
    let canvas = Canvas { size, guides: spec.guidance_scale > 1.0, encodes: false };
    let pictures = attack.pictures;
    let group = group_size(size).min(pictures);
    let drawn = worker.drawn(canvas, (group, pictures), (policy.decode, policy.passes))?;
    // Two models' prompts, and what the pictures began with.
    let latent = worker.sizes.latent();
    let kept = pictures as u64 * LATENTS_A_PICTURE * latent + worker.prompts(size, 2 * pictures);
    let searched = match attack.attack {
        AttackName::ConceptInversion => searching(worker)?,
        AttackName::UnlearnDiffAtk | AttackName::P4d => searching(worker)? + hunting(worker),
        AttackName::RingABell => {
            let states = 2 * PROMPTS_AT_ONCE as u64 * worker.sizes.text();
            worker.encoding(PROMPTS_AT_ONCE)? + states + hunting(worker)
        }
        AttackName::RelearningBenign | AttackName::RelearningFewShot => training(worker)?,
        _ => 0,
    };
    // The search and its optimiser lie beside the pictures that it is judged by.
    let search = worker.memory(kept + searched, 0);
    Ok(WorkMemory { work: drawn.work.saturating_add(search.work), ..drawn })
}

/// Numbers of a search for tokens.
fn searching(worker: &Worker<'_>) -> Result<u64, EngineError> {
    let size = worker.sizes.size;
    let samples = samples_a_pass(BATCH, size.iter().product());
    let at_once = worker.threads.min(BATCH.div_ceil(samples)) as u64;
    let passes = at_once * worker.pass(size, samples).seek_text()?.peak;
    let towers = worker.pipeline.towers.iter();
    let text = towers.map(|tower| Ok(seek_tokens(&tower.encoder, BATCH)?.peak));
    let text = text.collect::<Result<Vec<_>, EngineError>>()?.into_iter().max().unwrap_or(0);
    let states = 4 * BATCH as u64 * worker.sizes.text();
    // Values, gradient and both moments.
    let tokens = 4 * (MOST_TOKENS as u64) * worker.sizes.text();
    Ok(KEPT_LATENTS as u64 * worker.sizes.latent() + passes + text + states + tokens)
}

/// Numbers of a search over the vocabulary, beside the passes.
fn hunting(worker: &Worker<'_>) -> u64 {
    /// Rows of places over the vocabulary, with their gradient and moments.
    const ROWS: usize = 5 * 6;
    let towers = worker.pipeline.towers.iter().map(|tower| tower.encoder.config());
    let tables =
        towers.map(|config| (config.vocab_size * (3 * config.tower.hidden_size + ROWS)) as u64);
    tables.max().unwrap_or(0)
}

/// Numbers of a training of the edited model.
fn training(worker: &Worker<'_>) -> Result<u64, EngineError> {
    let size = worker.sizes.size;
    let trained = worker.sizes.scoped_by(&RELEARNED_SCOPE)?;
    let parameters: u64 = trained.values().sum();
    let denoiser = worker.sizes.trained_denoiser(&trained)?;
    let samples = samples_a_pass(BATCH, size.iter().product());
    let passes = BATCH.div_ceil(samples);
    let pass = Pass { denoiser: &*denoiser, ..worker.pass(size, samples) };
    let peak = pass.train(&BTreeSet::new())?.peak;
    let at_once = worker.threads.min(passes) as u64;
    // The weights, both moments, the gradients of each pass, and their sum.
    let weights = (3 + passes as u64 + 1) * parameters;
    Ok(weights + at_once * peak.total() + 2 * BATCH as u64 * worker.sizes.latent())
}
