//! The sizes of a model, which its configs and headers tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::memory::NUMBER;
use crate::{
    engine::{
        EngineError, Pipeline,
        checkpoint::{StoredTensor, StoredTensors, read_text},
        judge::JudgeParts,
        model::{ClipTextConfig, ClipTextModel, Unet, UnetConfig, Vae, VaeConfig, Weights},
        part::Part,
        pipeline::read_vocabulary,
        schedule::Ddim,
    },
    spec::{ModelFiles, Scope, UnlearnSpec},
};

/// The sizes of a model that its configs and headers tell.
#[derive(Debug)]
pub(super) struct Sizes {
    /// Frozen.
    pub(super) unet: Arc<Unet>,
    /// The U-Net's.
    pub(super) tensors: Arc<StoredTensors>,
    /// Height and width of a latent.
    pub(super) size: [usize; 2],
    pub(super) scheduler: Ddim,
    /// Tokens of a prompt.
    pub(super) tokens: usize,
    /// Bytes of all weights as they lie in memory.
    pub(super) weights: u64,
}

impl Sizes {
    /// Weights in other than the plain variant are taken where they are the only ones.
    pub(super) fn read(files: &dyn ModelFiles) -> Result<Self, EngineError> {
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
        weights += NUMBER * part.count();
        let build = |w: &Weights| ClipTextModel::new(w, &text).map(drop);
        let part = Part::find(files, ("text_encoder", None), build, &mut warnings)?;
        weights += NUMBER * part.count();
        let vocabulary = read_vocabulary(files)?;
        let judges = JudgeParts::find(files, &vocabulary, &mut warnings)?;
        weights += NUMBER * judges.parameters();
        let tokens = text.max_position_embeddings;
        let (unet, tensors) = (Arc::new(unet), Arc::new(tensors));
        Ok(Self { unet, tensors, size, scheduler, tokens, weights })
    }

    /// Those of a model that is loaded, at its own size.
    pub(super) fn of(pipeline: &Pipeline) -> Result<Self, EngineError> {
        let [_, height, width] = pipeline.latent_shape(None)?;
        Ok(Self::at(pipeline, [height, width]))
    }

    /// The same for latents of this height and width, where the model may have no size of its own.
    pub(super) fn at(pipeline: &Pipeline, size: [usize; 2]) -> Self {
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
    pub(super) fn latent(&self) -> u64 {
        self.latent_of(self.size)
    }

    /// Numbers of a prompt's hidden states.
    pub(super) fn text(&self) -> u64 {
        (self.tokens * self.unet.config().cross_attention_dim) as u64
    }

    /// Numbers of a latent of this height and width.
    pub(super) fn latent_of(&self, size: [usize; 2]) -> u64 {
        (self.unet.config().in_channels * size[0] * size[1]) as u64
    }

    /// Numbers of each tensor in a spec's scope.
    pub(super) fn scoped(&self, spec: &UnlearnSpec) -> Result<BTreeMap<String, u64>, EngineError> {
        self.scoped_by(&spec.scope)
    }

    pub(super) fn scoped_by(&self, scope: &Scope) -> Result<BTreeMap<String, u64>, EngineError> {
        let inside = self.tensors.tensors.iter().filter(|(name, _)| scope.contains(name));
        let numbers = |stored: &StoredTensor| stored.tensor.elem_count() as u64;
        let scoped: BTreeMap<_, _> = inside.map(|(name, t)| (name.clone(), numbers(t))).collect();
        if scoped.is_empty() {
            return Err(EngineError::EmptyScope { scope: scope.to_string() });
        }
        Ok(scoped)
    }

    /// The U-Net with these of its tensors in training.
    pub(super) fn trained_unet(
        &self,
        trained: &BTreeMap<String, u64>,
    ) -> Result<Unet, EngineError> {
        let names: BTreeSet<String> = trained.keys().cloned().collect();
        Unet::new(&Weights::dry_run(&self.tensors, &names), self.unet.config())
    }
}
