//! What an erasure will cost, from a model's configs and headers alone: no weight is read.

mod evaluations;
mod memory;
mod network;
mod operations;
mod rehearsal;

use std::collections::BTreeMap;

use super::{
    EngineError, Pipeline,
    checkpoint::{Measured, measure_component, measure_large_component, read_text},
    judge,
    model::{ClipTextConfig, Thrift, UnetConfig},
    schedule::Ddim,
    unlearn::{concept_walks, window_scores},
};
use crate::{
    outcome::{Plan, Saving},
    spec::{KeySteps, Method, ModelFiles, UnlearnSpec},
};
use evaluations::Costs;
use memory::{Arrangement, Demand};

/// The sizes of a model that its configs and headers tell.
#[derive(Debug)]
struct Sizes {
    unet: UnetConfig,
    scheduler: Ddim,
    /// Tokens of a prompt.
    tokens: usize,
    /// Numbers of each of the U-Net's tensors.
    tensors: Measured,
    /// Bytes of all weights as they lie in memory.
    weights: u64,
}

impl Sizes {
    /// Weights in other than the plain variant are taken where they are the only ones.
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

        let count = |measured: &Measured| measured.values().map(|n| *n as u64).sum::<u64>();
        let tensors = measure_component(files, "unet", None)?;
        let mut weights = measure_large_component(files, "unet", None)?;
        for component in ["vae", "text_encoder"] {
            weights += memory::NUMBER * count(&measure_component(files, component, None)?);
        }
        weights += memory::NUMBER * judge::count_parameters(files)?;
        Ok(Self { unet, scheduler, tokens: text.max_position_embeddings, tensors, weights })
    }

    /// Those of a model that is loaded.
    fn of(pipeline: &Pipeline) -> Self {
        let tensors = pipeline.unet_tensors.tensors.iter();
        Self {
            unet: pipeline.unet.config().clone(),
            scheduler: Ddim::clone(&pipeline.scheduler),
            tokens: pipeline.text_encoder.config().max_position_embeddings,
            tensors: tensors.map(|(name, t)| (name.clone(), t.tensor.elem_count())).collect(),
            weights: pipeline.weight_bytes,
        }
    }

    /// Numbers of a latent.
    fn latent(&self) -> u64 {
        (self.unet.in_channels * self.unet.sample_size * self.unet.sample_size) as u64
    }

    /// Numbers of a prompt's hidden states.
    fn text(&self) -> u64 {
        (self.tokens * self.unet.cross_attention_dim) as u64
    }

    /// Numbers of each tensor in a spec's scope.
    fn scoped(&self, spec: &UnlearnSpec) -> Result<BTreeMap<String, u64>, EngineError> {
        let inside = self.tensors.iter().filter(|(name, _)| spec.scope.contains(name));
        let scoped: BTreeMap<_, _> = inside.map(|(name, n)| (name.clone(), *n as u64)).collect();
        if scoped.is_empty() {
            return Err(EngineError::EmptyScope { scope: spec.scope.to_string() });
        }
        Ok(scoped)
    }

    fn arrange(
        &self,
        spec: &UnlearnSpec,
        trained: &BTreeMap<String, u64>,
        costs: &Costs,
        limit: Option<u64>,
    ) -> Result<Arrangement, EngineError> {
        let demand = Demand {
            config: &self.unet,
            tokens: self.tokens,
            trained,
            batch: updates_and_batch(spec).1,
            weights: self.weights,
            bank: costs.bank,
            walks: &costs.walks,
            projected: costs.projected,
            threads: rayon::current_num_threads(),
        };
        demand.arrange(limit)
    }
}

/// Updates of a run, and samples of each.
fn updates_and_batch(spec: &UnlearnSpec) -> (usize, usize) {
    match &spec.method {
        Method::Keystep(settings) => {
            (settings.updates, settings.erase_batch + settings.preserve_batch)
        }
        Method::Kscu(settings) => (settings.updates, 2),
        Method::Esd(settings) => (settings.updates, 1),
    }
}

/// What an erasure on a model will cost, in a process that may take `memory_limit` bytes where there
/// is a limit.
///
/// Evaluations are exact, for all methods, where the window is given and the run does not stop
/// early: the draws that decide them are drawn here too. Memory is the process's peak on the CPU,
/// with as many threads as this process has; [`crate::outcome::MemoryPlan`] says how close that
/// comes. Where it would exceed the limit, the run saves memory at the cost of time, with the same
/// result; where it cannot save enough, this fails with [`EngineError::MemoryLimit`].
pub fn plan(
    files: &dyn ModelFiles,
    spec: &UnlearnSpec,
    memory_limit: Option<u64>,
) -> Result<Plan, EngineError> {
    spec.validate()?;
    let sizes = Sizes::read(files)?;
    let trained = sizes.scoped(spec)?;
    let costs = evaluations::count(&sizes, spec)?;
    let arrangement = sizes.arrange(spec, &trained, &costs, memory_limit)?;
    let Arrangement { thrift, memory, segments, repeated } = arrangement;
    Ok(Plan {
        updates: updates_and_batch(spec).0,
        unet_evaluations: costs.method,
        score_evaluations: costs.scores,
        check_evaluations: costs.checks,
        window_assumed: costs.window_assumed,
        trainable_tensors: trained.len(),
        trainable_parameters: trained.values().sum(),
        memory_bytes: memory,
        saving: Saving {
            recomputed_segments: thrift.recomputed.len(),
            segments,
            repeated_work: repeated,
            passes: thrift.passes.map(std::num::NonZeroUsize::get),
        },
    })
}

/// How an erasure by this pipeline stays within a limit: what [`plan`] said before it was loaded.
pub(super) fn thrift(
    pipeline: &Pipeline,
    spec: &UnlearnSpec,
    memory_limit: u64,
) -> Result<Thrift, EngineError> {
    let sizes = Sizes::of(pipeline);
    let trained = sizes.scoped(spec)?;
    let costs = evaluations::count(&sizes, spec)?;
    Ok(sizes.arrange(spec, &trained, &costs, Some(memory_limit))?.thrift)
}
