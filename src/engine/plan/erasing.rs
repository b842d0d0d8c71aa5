//! Decides how an erasure runs within a memory limit.

use std::collections::BTreeMap;

use super::{
    WorkMemory,
    evaluations::{self, Costs},
    memory::{Arrangement, Demand, margin},
    sizes::Sizes,
};
use crate::{
    engine::{EngineError, Pipeline, nn::MemoryPolicy},
    spec::{Method, UnlearnSpec},
};

/// Updates of a run, and samples of each.
pub(super) fn updates_and_batch(spec: &UnlearnSpec) -> (usize, usize) {
    match &spec.method {
        Method::Keystep(settings) => {
            (settings.updates, settings.erase_batch + settings.preserve_batch)
        }
        Method::Kscu(settings) => (settings.updates, 2),
        Method::Esd(settings) => (settings.updates, 1),
    }
}

/// The fastest way to run an erasure within a limit.
pub(super) fn arrange(
    sizes: &Sizes,
    spec: &UnlearnSpec,
    trained: &BTreeMap<String, u64>,
    costs: &Costs,
    limit: Option<u64>,
) -> Result<Arrangement, EngineError> {
    let demand = Demand {
        denoiser: &*sizes.trained_denoiser(trained)?,
        latent: sizes.latent_shape(sizes.size),
        prompt: &sizes.prompt,
        parameters: trained.values().sum(),
        batch: updates_and_batch(spec).1,
        weights: sizes.weights,
        bank: costs.bank,
        walks: &costs.walks,
        projected: costs.projected,
        threads: rayon::current_num_threads(),
    };
    demand.arrange(limit)
}

/// What an erasure holds, in the way that stays within the pipeline's limit.
pub(in crate::engine) fn erasure(
    pipeline: &Pipeline,
    spec: &UnlearnSpec,
) -> Result<WorkMemory, EngineError> {
    let sizes = Sizes::of(pipeline)?;
    let trained = sizes.scoped(spec)?;
    let costs = evaluations::count(&sizes, spec)?;
    let memory = arrange(&sizes, spec, &trained, &costs, pipeline.memory_limit)?.memory;
    let program = memory.program + margin(memory.program);
    Ok(WorkMemory { program, work: memory.total - memory.weights - program })
}

/// How an erasure by this pipeline stays within a limit: what [`super::plan`] said before it was loaded.
pub(in crate::engine) fn memory_policy(
    pipeline: &Pipeline,
    spec: &UnlearnSpec,
    memory_limit: u64,
) -> Result<MemoryPolicy, EngineError> {
    let sizes = Sizes::of(pipeline)?;
    let trained = sizes.scoped(spec)?;
    let costs = evaluations::count(&sizes, spec)?;
    Ok(arrange(&sizes, spec, &trained, &costs, Some(memory_limit))?.memory_policy)
}
