//! What an erasure will cost, from a model's configs and headers alone: no weight is read.

mod activations;
mod evaluations;

use super::{
    EngineError,
    checkpoint::{Measured, measure_component, measure_single, read_text},
    denoise::SAMPLES_A_PASS,
    model::{ClipTextConfig, UnetConfig},
    schedule::Ddim,
    unlearn::{PROBE_PASSES, concept_walks, window_scores},
};
use crate::{
    outcome::{MemoryPlan, Plan},
    spec::{KeySteps, Method, ModelFiles, UnlearnSpec},
};

/// Bytes of a number in memory: everything is computed in f32, however a file stores it.
const NUMBER: u64 = 4;

/// What a process holds that has loaded the built-in model, less its weights, and what walking adds
/// for a while: measured, and much the same for every model.
const PROGRAM_BYTES: u64 = 54 << 20;

/// The sizes of a model that its configs tell.
#[derive(Debug)]
struct Sizes {
    unet: UnetConfig,
    scheduler: Ddim,
    /// Tokens of a prompt.
    tokens: usize,
}

impl Sizes {
    fn read(files: &dyn ModelFiles) -> Result<Self, EngineError> {
        let config = |path: &str| {
            Ok::<_, EngineError>((read_text(files, path)?, format!("{}/{path}", files.location())))
        };
        let (json, file) = config("unet/config.json")?;
        let unet = UnetConfig::parse(&json, &file)?;
        let (json, file) = config("text_encoder/config.json")?;
        let text = ClipTextConfig::parse(&json, &file)?;
        let (json, file) = config("scheduler/scheduler_config.json")?;
        let scheduler = Ddim::from_config(&json, &file)?;
        Ok(Self { unet, scheduler, tokens: text.max_position_embeddings })
    }

    /// Numbers of a latent.
    fn latent(&self) -> u64 {
        (self.unet.in_channels * self.unet.sample_size * self.unet.sample_size) as u64
    }

    /// Numbers of a prompt's hidden states.
    fn text(&self) -> u64 {
        (self.tokens * self.unet.cross_attention_dim) as u64
    }
}

/// What an erasure on a model will cost.
///
/// Evaluations are exact, for all methods, where the window is given and the run does not stop
/// early: the draws that decide them are drawn here too. Memory is the process's peak on the CPU,
/// with as many threads as this process has; [`MemoryPlan`] says how close that comes.
///
/// Weights in other than the plain variant are taken where they are the only ones.
pub fn plan(files: &dyn ModelFiles, spec: &UnlearnSpec) -> Result<Plan, EngineError> {
    spec.validate()?;
    let sizes = Sizes::read(files)?;
    let unet = measure_component(files, "unet", None)?;
    let scoped: Vec<u64> =
        unet.iter().filter(|(name, _)| spec.scope.contains(name)).map(|(_, n)| *n as u64).collect();
    if scoped.is_empty() {
        return Err(EngineError::EmptyScope { scope: spec.scope.to_string() });
    }
    let parameters: u64 = scoped.iter().sum();
    let costs = evaluations::count(&sizes, spec)?;

    let count = |measured: &Measured| measured.values().map(|n| *n as u64).sum::<u64>();
    let mut weights = count(&unet);
    for component in ["vae", "text_encoder"] {
        weights += count(&measure_component(files, component, None)?);
    }
    let has = |name: &str| files.names().iter().any(|file| file == name);
    if has("clip/config.json") {
        weights += count(&measure_component(files, "clip", None)?);
    }
    if has("judge/config.json") {
        weights += count(&measure_single(files, "judge/judge.safetensors")?);
    }

    let (updates, batch) = match &spec.method {
        Method::Keystep(settings) => {
            (settings.updates, settings.erase_batch + settings.preserve_batch)
        }
        Method::Kscu(settings) => (settings.updates, 2),
        Method::Esd(settings) => (settings.updates, 1),
    };
    let passes = batch.div_ceil(SAMPLES_A_PASS);
    // What a pass keeps is gone when it ends, so that no more count than run side by side. The
    // probe's predictions by the edited model keep as much, without a backward pass to read it.
    let threads = rayon::current_num_threads();
    let trained = batch.min(SAMPLES_A_PASS * threads);
    let probed = SAMPLES_A_PASS * threads.min(PROBE_PASSES);
    let samples = trained.max(probed) as u64;
    let memory = Memory {
        weights,
        trainable: parameters,
        optimiser: 2 * parameters,
        gradients: passes as u64 * parameters,
        activations: samples * activations::of_a_sample(&sizes.unet, sizes.tokens),
        bank: costs.bank,
    };
    Ok(Plan {
        updates,
        unet_evaluations: costs.method,
        score_evaluations: costs.scores,
        check_evaluations: costs.checks,
        window_assumed: costs.window_assumed,
        trainable_tensors: scoped.len(),
        trainable_parameters: parameters,
        memory_bytes: memory.in_bytes(),
    })
}

/// Numbers that a run holds.
struct Memory {
    weights: u64,
    trainable: u64,
    optimiser: u64,
    gradients: u64,
    activations: u64,
    bank: u64,
}

impl Memory {
    fn in_bytes(self) -> MemoryPlan {
        let Self { weights, trainable, optimiser, gradients, activations, bank } = self;
        let bytes = |numbers: u64| numbers.saturating_mul(NUMBER);
        let all = [weights, trainable, optimiser, gradients, activations, bank];
        let add = |sum: u64, numbers: u64| sum.saturating_add(bytes(numbers));
        MemoryPlan {
            program: PROGRAM_BYTES,
            weights: bytes(weights),
            trainable: bytes(trainable),
            optimiser: bytes(optimiser),
            gradients: bytes(gradients),
            activations: bytes(activations),
            bank: bytes(bank),
            total: all.into_iter().fold(PROGRAM_BYTES, add),
        }
    }
}
