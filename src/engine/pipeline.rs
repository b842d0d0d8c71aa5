//! A whole model in memory, read from a diffusers folder.

use std::sync::Arc;

use candle_core::{DType, Device};

use super::{
    Compute, EngineError,
    checkpoint::{StoredTensor, StoredTensors, read_text},
    family::{self, ClipTextModel, ClipTokenizer, Conditioning, Denoiser, Family, TextTower, Vae},
    judge::{GivenJudge, JudgeParts, Judges},
    nn::{MemoryPolicy, Origin, Scoped, Weights},
    ops,
    part::{NetworkParts, Part},
    python_json,
    sampler::SamplerConfig,
    schedule::Ddim,
    wording::Reader,
};
use crate::{
    outcome::DeviceKind,
    spec::{Field, ModelFiles, Scope, SpecError, Vocabulary},
};

/// The parts of a pipeline of diffusers, such as `StableDiffusionPipeline`, and what Keystep reads
/// beside them: the vocabulary and the judges. Cloning shares every tensor.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Where it came from, for messages.
    pub location: String,
    /// Where the networks lie.
    pub device: Device,
    /// What kind of model it is.
    pub family: Arc<dyn Family>,
    /// What the denoiser computes in; everything else is f32.
    pub unet_dtype: DType,
    /// The denoiser's weights by name, in host memory as f32: what digests, trained weights and
    /// results start from, whatever the network computes in.
    pub unet_tensors: Arc<StoredTensors>,
    /// The same on the device, as the network computes with them; shares `unet_tensors` where that
    /// is the CPU.
    pub unet_weights: Arc<StoredTensors>,
    /// The network over `unet_weights`.
    pub denoiser: Arc<dyn Denoiser>,
    /// Between pictures and latents.
    pub vae: Arc<Vae>,
    /// The text encoders, in the order in which the family reads them.
    pub towers: Arc<[TextTower]>,
    /// The first tower's: words are compared, and texts measured, by its tokens.
    pub tokenizer: Arc<ClipTokenizer>,
    /// The trained noise schedule, and DDIM on it, which scores and training use.
    pub scheduler: Arc<Ddim>,
    /// What pictures are drawn with, where a drawing does not say.
    pub sampling: Arc<SamplerConfig>,
    /// What can judge its pictures; may be empty.
    pub judges: Arc<Judges>,
    /// Bytes of all weights of all parts, as loaded.
    pub weight_bytes: u64,
    /// Of them, those of this pipeline that it shares with no other that it was made of.
    pub own_bytes: u64,
    /// Bytes that the process may take, its weights included, where there is a limit.
    pub memory_limit: Option<u64>,
    /// The words it is known to draw; empty when the folder does not say.
    pub vocabulary: Vocabulary,
    /// What about its folder is odd and no hindrance, such as tensors that no network has a place
    /// for, and fields that are read otherwise than they stand there; for the caller that loads it to report.
    pub warnings: Vec<String>,
}

impl Pipeline {
    /// Reads every part. `variant` is diffusers' (such as `fp16`); where some parts have it, the
    /// others are read without.
    pub fn load(
        files: &dyn ModelFiles,
        variant: Option<&str>,
        compute: &Compute,
    ) -> Result<Self, EngineError> {
        ops::keep_freed_memory();
        let device = &compute.device;
        let location = files.location().to_owned();
        // Every config is read and checked before the first weight.
        let family = family::open(files)?;
        let mut warnings = family.repairs();
        let scheduler_config = "scheduler/scheduler_config.json";
        let json = read_text(files, scheduler_config)?;
        let scheduler_file = format!("{location}/{scheduler_config}");
        let scheduler = Ddim::for_pipeline(&json, &scheduler_file)?;
        let sampling = SamplerConfig::parse(&json, &scheduler_file)?;
        warnings.extend_from_slice(scheduler.repairs());
        warnings.extend(sampling.foreign_class());
        family.check()?;
        let mut tokenizers = Vec::new();
        for tower in family.text_towers() {
            let tokenizer =
                ClipTokenizer::for_encoder(files, tower.tokenizer, &tower.encoder, &tower.file)?;
            warnings.extend(tokenizer.repair().map(str::to_owned));
            tokenizers.push(Arc::new(tokenizer));
        }
        let Some(tokenizer) = tokenizers.first().cloned() else {
            let message = "names no text encoder".to_owned();
            return Err(EngineError::Config { file: location, message });
        };
        let vocabulary = read_vocabulary(files)?;

        // Every header before the first weight.
        let parts = NetworkParts::find(files, family.as_ref(), variant, &mut warnings)?;
        let judges = JudgeParts::find(files, &vocabulary, &mut warnings)?;

        let unet_tensors = parts.denoiser.read_large(&Device::Cpu)?;
        let unet_weights = unet_tensors.placed(device, compute.dtype, None)?;
        let denoiser = family.denoiser(&Weights::frozen(&unet_weights))?;
        let mut network_bytes = unet_tensors.bytes();
        let mut read = |part: &Part<'_>| {
            let tensors = part.read(device)?;
            network_bytes += tensors.bytes();
            Ok::<_, EngineError>(tensors)
        };
        let vae = Vae::new(&Weights::frozen(&read(&parts.vae)?), family.autoencoder())?;
        let mut towers = Vec::new();
        for ((config, part), tokenizer) in
            family.text_towers().iter().zip(&parts.towers).zip(tokenizers)
        {
            let encoder = ClipTextModel::new(&Weights::frozen(&read(part)?), &config.encoder)?;
            towers.push(TextTower { tokenizer, encoder: Arc::new(encoder) });
        }
        let judges = judges.read(device)?;
        let weight_bytes = network_bytes + 4 * judges.parameters;
        Ok(Self {
            location,
            device: device.clone(),
            unet_dtype: compute.dtype,
            unet_tensors: Arc::new(unet_tensors),
            unet_weights: Arc::new(unet_weights),
            denoiser,
            vae: Arc::new(vae),
            tokenizer,
            towers: towers.into(),
            scheduler: Arc::new(scheduler),
            sampling: Arc::new(sampling),
            judges: Arc::new(judges),
            weight_bytes,
            own_bytes: weight_bytes,
            memory_limit: None,
            vocabulary,
            warnings,
            family,
        })
    }

    /// What the denoiser in memory was made of.
    fn origin(&self) -> Origin<'_> {
        Origin { read: &self.unet_tensors, placed: &self.unet_weights }
    }

    /// Names of the denoiser's tensors that are trained in a scope; an error where there are none.
    pub(super) fn trained_names(&self, scope: &Scope) -> Result<Vec<&String>, EngineError> {
        let names = self.unet_tensors.tensors.keys();
        let trained: Vec<_> = names.filter(|name| self.family.trains(scope, name)).collect();
        if trained.is_empty() {
            return Err(EngineError::EmptyScope { scope: scope.to_string() });
        }
        Ok(trained)
    }

    /// Copies of the denoiser's tensors in a scope, to be trained.
    pub(super) fn scoped(&self, scope: &Scope) -> Result<Scoped, EngineError> {
        Scoped::of(self.origin(), scope, |name| self.family.trains(scope, name))
    }

    /// The denoiser over these copies, with the memory policy of the frozen one; it shares all other
    /// tensors with that.
    pub(super) fn trained(&self, scoped: &Scoped) -> Result<Arc<dyn Denoiser>, EngineError> {
        let trained = self.family.denoiser(&Weights::scoped(&self.unet_weights, scoped))?;
        Ok(trained.with_memory_policy(self.denoiser.memory_policy().clone()))
    }

    /// The same pipeline with another denoiser of the same architecture, whose tensors lie in host
    /// memory; those that are this pipeline's own are not moved again.
    pub fn with_unet(&self, tensors: StoredTensors) -> Result<Self, EngineError> {
        let here = (&*self.unet_tensors, &*self.unet_weights);
        let weights = tensors.placed(&self.device, self.unet_dtype, Some(here))?;
        let denoiser = self.family.denoiser(&Weights::frozen(&weights))?;
        let is_own = |(name, stored): &(&String, &StoredTensor)| {
            let before = self.unet_tensors.tensors.get(*name);
            before.is_none_or(|before| before.tensor.id() != stored.tensor.id())
        };
        let own = tensors.tensors.iter().filter(is_own);
        let own_bytes = own.map(|(_, stored)| stored.bytes()).sum();
        Ok(Self {
            own_bytes,
            denoiser,
            unet_tensors: Arc::new(tensors),
            unet_weights: Arc::new(weights),
            ..self.clone()
        })
    }

    /// The same pipeline with judges beside its own.
    pub(super) fn with_judges(&self, given: &[GivenJudge<'_>]) -> Result<Self, EngineError> {
        let mut warnings = self.warnings.clone();
        let judges = self.judges.with(given, &self.device, &mut warnings)?;
        let own_bytes = 4 * (judges.parameters - self.judges.parameters);
        Ok(Self {
            weight_bytes: self.weight_bytes + own_bytes,
            own_bytes,
            judges: Arc::new(judges),
            warnings,
            ..self.clone()
        })
    }

    /// The same pipeline, whose denoiser saves memory at the cost of time.
    pub(super) fn with_memory_policy(&self, memory_policy: MemoryPolicy) -> Self {
        Self { denoiser: self.denoiser.with_memory_policy(memory_policy), ..self.clone() }
    }

    /// Reads texts as [`Pipeline::encode_prompts`] does.
    pub(super) fn reader(&self) -> Reader<'_> {
        let limits = self.towers.iter().map(|tower| tower.encoder.config().max_position_embeddings);
        Reader::new(&self.tokenizer, limits.min().unwrap_or(usize::MAX))
    }

    /// What computes.
    pub(super) fn device_kind(&self) -> DeviceKind {
        if self.device.is_cuda() { DeviceKind::Cuda } else { DeviceKind::Cpu }
    }

    /// Encodes prompts for pictures of the model's own size.
    pub fn encode_prompts<S: AsRef<str>>(
        &self,
        prompts: &[S],
    ) -> Result<Conditioning, EngineError> {
        self.encode_prompts_at(prompts, None)
    }

    /// The same for pictures of a height and width in pixels.
    pub(super) fn encode_prompts_at<S: AsRef<str>>(
        &self,
        prompts: &[S],
        picture: Option<[usize; 2]>,
    ) -> Result<Conditioning, EngineError> {
        let prompts: Vec<&str> = prompts.iter().map(AsRef::as_ref).collect();
        self.family.encode(&self.towers, &prompts, picture)
    }

    /// What guidance steers away from: a row, for pictures of a height and width in pixels, or of the
    /// model's own.
    pub(super) fn unconditional(
        &self,
        negative_prompt: &str,
        picture: Option<[usize; 2]>,
    ) -> Result<Conditioning, EngineError> {
        self.family.unconditional(&self.towers, negative_prompt, picture)
    }

    /// `[channels, height, width]` of a latent for a picture of this size in pixels.
    pub fn latent_shape(&self, size: Option<(usize, usize)>) -> Result<[usize; 3], EngineError> {
        let [height, width] = match size {
            None => self.family.own_size()?,
            Some((width, height)) => {
                let factor = self.vae.factor();
                for (field, pixels) in [(Field::Width, width), (Field::Height, height)] {
                    if pixels == 0 || pixels % factor != 0 {
                        return Err(SpecError::one(
                            field,
                            format!(
                                "{pixels} is not a multiple of {factor}, by which this model's \
                                 autoencoder shrinks a picture"
                            ),
                        )
                        .into());
                    }
                }
                [height / factor, width / factor]
            }
        };
        Ok([self.family.latent_channels(), height, width])
    }
}

pub(super) fn read_vocabulary(files: &dyn ModelFiles) -> Result<Vocabulary, EngineError> {
    const NAME: &str = "vocabulary.json";
    if !files.names().iter().any(|name| name == NAME) {
        return Ok(Vocabulary::default());
    }
    let file = format!("{}/{NAME}", files.location());
    // The file is the model's, so what is wrong in it is no fault of the request.
    let wrong = |message: String| EngineError::Config { file: file.clone(), message };
    let vocabulary: Vocabulary =
        python_json::read(&read_text(files, NAME)?).map_err(|error| wrong(error.to_string()))?;
    vocabulary.validate().map_err(|error| wrong(error.to_string()))?;
    Ok(vocabulary)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::spec::{FileError, ReadSeek};

    /// A folder with nothing but a vocabulary.
    #[derive(Debug)]
    struct Words {
        names: [String; 1],
        text: String,
    }

    impl ModelFiles for Words {
        fn location(&self) -> &'static str {
            "model"
        }

        fn names(&self) -> &[String] {
            &self.names
        }

        fn open(&self, _: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError> {
            let bytes = self.text.clone().into_bytes();
            let length = bytes.len() as u64;
            Ok((Box::new(Cursor::new(bytes)), length))
        }
    }

    #[test]
    fn wrong_words_are_the_models_fault_and_their_list_ends() {
        let words = vec!["\"cat\""; 990].join(", ");
        let text = format!("{{\"objects\": [{words}], \"styles\": []}}");
        let files = Words { names: ["vocabulary.json".to_owned()], text };
        let error = read_vocabulary(&files).unwrap_err();
        assert!(matches!(error, EngineError::Config { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.starts_with("model/vocabulary.json: ") && text.ends_with("and 979 more"),
            "{text}"
        );
        assert!(text.len() < 2_000, "{text}");
    }
}
