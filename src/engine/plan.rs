//! What an erasure will cost, from a model's configs and headers alone: no weight is read.

mod evaluations;
mod memory;
mod passes;
mod work;

pub use work::WorkMemory;
pub(super) use work::{Drawing, drawing, erasure, judgement, scoring, spare};

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    EngineError, Pipeline,
    checkpoint::{StoredTensor, StoredTensors, read_text},
    judge::JudgeParts,
    model::{
        ClipTextConfig, ClipTextModel, MemoryPolicy, Unet, UnetConfig, Vae, VaeConfig, Weights,
    },
    part::Part,
    pipeline::read_vocabulary,
    schedule::Ddim,
    unlearn::{concept_walks, window_scores},
    wording,
};
use crate::{
    outcome::{MemorySavings, Plan},
    spec::{KeySteps, Method, ModelFiles, Scope, UnlearnSpec},
};
use evaluations::Costs;
use memory::{Arrangement, Demand};

/// The sizes of a model that its configs and headers tell.
#[derive(Debug)]
struct Sizes {
    /// Frozen.
    unet: Arc<Unet>,
    /// The U-Net's.
    tensors: Arc<StoredTensors>,
    /// Height and width of a latent.
    size: [usize; 2],
    scheduler: Ddim,
    /// Tokens of a prompt.
    tokens: usize,
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
        let unet_config = UnetConfig::parse(&json, &file)?;
        let size = unet_config.own_size(&file)?;
        let (json, file) = config("text_encoder/config.json")?;
        let text = ClipTextConfig::parse(&json, &file)?;
        let (json, file) = config("scheduler/scheduler_config.json")?;
        let scheduler = Ddim::for_pipeline(&json, &file)?;

        let (json, file) = config("vae/config.json")?;
        let vae = VaeConfig::parse(&json, &file)?;

        // They are told when the model is loaded.
        let mut warnings = Vec::new();
        let build = |w: &Weights| Unet::new(w, &unet_config).map(drop);
        let part = Part::find(files, ("unet", None), build, &mut warnings)?;
        let mut weights = part.large_bytes()?;
        let tensors = part.into_outline();
        let unet = Unet::new(&Weights::frozen(&tensors), &unet_config)?;
        let build = |w: &Weights| Vae::new(w, &vae).map(drop);
        let part = Part::find(files, ("vae", None), build, &mut warnings)?;
        weights += memory::NUMBER * part.count();
        let build = |w: &Weights| ClipTextModel::new(w, &text).map(drop);
        let part = Part::find(files, ("text_encoder", None), build, &mut warnings)?;
        weights += memory::NUMBER * part.count();
        let vocabulary = read_vocabulary(files)?;
        let judges = JudgeParts::find(files, &vocabulary, &mut warnings)?;
        weights += memory::NUMBER * judges.parameters();
        let tokens = text.max_position_embeddings;
        let (unet, tensors) = (Arc::new(unet), Arc::new(tensors));
        Ok(Self { unet, tensors, size, scheduler, tokens, weights })
    }

    /// Those of a model that is loaded, at its own size.
    fn of(pipeline: &Pipeline) -> Result<Self, EngineError> {
        let [_, height, width] = pipeline.latent_shape(None)?;
        Ok(Self::at(pipeline, [height, width]))
    }

    /// The same for latents of this height and width, where the model may have no size of its own.
    fn at(pipeline: &Pipeline, size: [usize; 2]) -> Self {
        Self {
            unet: Arc::clone(&pipeline.unet),
            tensors: Arc::clone(&pipeline.unet_tensors),
            size,
            scheduler: Ddim::clone(&pipeline.scheduler),
            tokens: pipeline.text_encoder.config().max_position_embeddings,
            weights: pipeline.weight_bytes,
        }
    }

    /// Numbers of a latent.
    fn latent(&self) -> u64 {
        self.latent_of(self.size)
    }

    /// Numbers of a prompt's hidden states.
    fn text(&self) -> u64 {
        (self.tokens * self.unet.config().cross_attention_dim) as u64
    }

    /// Numbers of a latent of this height and width.
    fn latent_of(&self, size: [usize; 2]) -> u64 {
        (self.unet.config().in_channels * size[0] * size[1]) as u64
    }

    /// Numbers of each tensor in a spec's scope.
    fn scoped(&self, spec: &UnlearnSpec) -> Result<BTreeMap<String, u64>, EngineError> {
        self.scoped_by(&spec.scope)
    }

    fn scoped_by(&self, scope: &Scope) -> Result<BTreeMap<String, u64>, EngineError> {
        let inside = self.tensors.tensors.iter().filter(|(name, _)| scope.contains(name));
        let numbers = |stored: &StoredTensor| stored.tensor.elem_count() as u64;
        let scoped: BTreeMap<_, _> = inside.map(|(name, t)| (name.clone(), numbers(t))).collect();
        if scoped.is_empty() {
            return Err(EngineError::EmptyScope { scope: scope.to_string() });
        }
        Ok(scoped)
    }

    /// The U-Net with these of its tensors in training.
    fn trained_unet(&self, trained: &BTreeMap<String, u64>) -> Result<Unet, EngineError> {
        let names: BTreeSet<String> = trained.keys().cloned().collect();
        Unet::new(&Weights::dry_run(&self.tensors, &names), self.unet.config())
    }

    fn arrange(
        &self,
        spec: &UnlearnSpec,
        trained: &BTreeMap<String, u64>,
        costs: &Costs,
        limit: Option<u64>,
    ) -> Result<Arrangement, EngineError> {
        let demand = Demand {
            unet: &self.trained_unet(trained)?,
            size: self.size,
            tokens: self.tokens,
            parameters: trained.values().sum(),
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
    let spec = &spec.canonical();
    wording::check_erasure_words(files, spec)?;
    let sizes = Sizes::read(files)?;
    let trained = sizes.scoped(spec)?;
    let costs = evaluations::count(&sizes, spec)?;
    let arrangement = sizes.arrange(spec, &trained, &costs, memory_limit)?;
    let Arrangement { memory_policy, memory, segments, repeated } = arrangement;
    Ok(Plan {
        updates: updates_and_batch(spec).0,
        unet_evaluations: costs.method,
        score_evaluations: costs.scores,
        check_evaluations: costs.checks,
        window_assumed: costs.window_assumed,
        trainable_tensors: trained.len(),
        trainable_parameters: trained.values().sum(),
        memory_bytes: memory,
        saving: MemorySavings {
            recomputed_segments: memory_policy.recomputed.len(),
            segments,
            repeated_work: repeated,
            passes: memory_policy.passes.map(std::num::NonZeroUsize::get),
        },
    })
}

/// Bytes of a model's weights once it is loaded, from its headers.
pub fn weight_bytes(files: &dyn ModelFiles) -> Result<u64, EngineError> {
    Ok(Sizes::read(files)?.weights)
}

/// How an erasure by this pipeline stays within a limit: what [`plan`] said before it was loaded.
pub(super) fn memory_policy(
    pipeline: &Pipeline,
    spec: &UnlearnSpec,
    memory_limit: u64,
) -> Result<MemoryPolicy, EngineError> {
    let sizes = Sizes::of(pipeline)?;
    let trained = sizes.scoped(spec)?;
    let costs = evaluations::count(&sizes, spec)?;
    Ok(sizes.arrange(spec, &trained, &costs, Some(memory_limit))?.memory_policy)
}
