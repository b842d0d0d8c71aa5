//! The sizes of a model, from its configs and headers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::memory::NUMBER;
use crate::{
    engine::{
        EngineError, Pipeline,
        checkpoint::{StoredTensor, StoredTensors, read_text},
        family::{self, Conditioning, Denoiser, Family},
        judge::JudgeParts,
        nn::Weights,
        part::{NetworkParts, Part},
        pipeline::read_vocabulary,
        schedule::Ddim,
    },
    spec::{ModelFiles, Scope, UnlearnSpec},
};

/// The sizes of a model that its configs and headers tell.
#[derive(Debug)]
pub(super) struct Sizes {
    family: Arc<dyn Family>,
    /// Frozen.
    pub(super) denoiser: Arc<dyn Denoiser>,
    /// The denoiser's.
    tensors: Arc<StoredTensors>,
    /// Height and width of a latent.
    pub(super) size: [usize; 2],
    /// The shape of a prompt.
    pub(super) prompt: Conditioning<Vec<usize>>,
    pub(super) scheduler: Ddim,
    /// Bytes of all weights as they lie in memory.
    pub(super) weights: u64,
}

impl Sizes {
    /// Weights in other than the plain variant are taken where they are the only ones.
    pub(super) fn read(files: &dyn ModelFiles) -> Result<Self, EngineError> {
        const SCHEDULER: &str = "scheduler/scheduler_config.json";
        let family = family::open(files)?;
        let size = family.own_size()?;
        let file = format!("{}/{SCHEDULER}", files.location());
        let scheduler = Ddim::for_pipeline(&read_text(files, SCHEDULER)?, &file)?;

        // Loading the model reports them.
        let mut warnings = Vec::new();
        let parts = NetworkParts::find(files, &*family, None, &mut warnings)?;
        let others = [&parts.vae].into_iter().chain(&parts.towers).map(Part::count);
        let mut weights = parts.denoiser.large_bytes()? + NUMBER * others.sum::<u64>();
        let tensors = parts.denoiser.into_outline();
        let denoiser = family.denoiser(&Weights::frozen(&tensors))?;
        let vocabulary = read_vocabulary(files)?;
        let judges = JudgeParts::find(files, &vocabulary, &mut warnings)?;
        weights += NUMBER * judges.parameters();
        let prompt = family.conditioning_shape();
        Ok(Self { family, denoiser, tensors: Arc::new(tensors), size, prompt, scheduler, weights })
    }

    /// Those of a model that is loaded, at its own size.
    pub(super) fn of(pipeline: &Pipeline) -> Result<Self, EngineError> {
        let [_, height, width] = pipeline.latent_shape(None)?;
        Ok(Self::at(pipeline, [height, width]))
    }

    /// The same for latents of this height and width, where the model may have no size of its own.
    pub(super) fn at(pipeline: &Pipeline, size: [usize; 2]) -> Self {
        Self {
            family: Arc::clone(&pipeline.family),
            denoiser: Arc::clone(&pipeline.denoiser),
            tensors: Arc::clone(&pipeline.unet_tensors),
            size,
            prompt: pipeline.family.conditioning_shape(),
            scheduler: Ddim::clone(&pipeline.scheduler),
            weights: pipeline.weight_bytes,
        }
    }

    /// Numbers of a latent.
    pub(super) fn latent(&self) -> u64 {
        self.latent_of(self.size)
    }

    /// Numbers of an encoded prompt.
    pub(super) fn text(&self) -> u64 {
        self.prompt.parts().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
    }

    /// Numbers of a latent of this height and width.
    pub(super) fn latent_of(&self, size: [usize; 2]) -> u64 {
        self.latent_shape(size).into_iter().product::<usize>() as u64
    }

    /// `[channels, height, width]` of a latent of this height and width.
    pub(super) fn latent_shape(&self, [height, width]: [usize; 2]) -> [usize; 3] {
        [self.family.latent_channels(), height, width]
    }

    /// Numbers of each tensor in a spec's scope.
    pub(super) fn scoped(&self, spec: &UnlearnSpec) -> Result<BTreeMap<String, u64>, EngineError> {
        self.scoped_by(&spec.scope)
    }

    pub(super) fn scoped_by(&self, scope: &Scope) -> Result<BTreeMap<String, u64>, EngineError> {
        let tensors = self.tensors.tensors.iter();
        let inside = tensors.filter(|(name, _)| self.family.trains(scope, name));
        let numbers = |stored: &StoredTensor| stored.tensor.elem_count() as u64;
        let scoped: BTreeMap<_, _> = inside.map(|(name, t)| (name.clone(), numbers(t))).collect();
        if scoped.is_empty() {
            return Err(EngineError::EmptyScope { scope: scope.to_string() });
        }
        Ok(scoped)
    }

    /// The denoiser with these of its tensors in training.
    pub(super) fn trained_denoiser(
        &self,
        trained: &BTreeMap<String, u64>,
    ) -> Result<Arc<dyn Denoiser>, EngineError> {
        let names: BTreeSet<String> = trained.keys().cloned().collect();
        self.family.denoiser(&Weights::dry_run(&self.tensors, &names))
    }
}
