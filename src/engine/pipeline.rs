//! A whole Stable Diffusion model in memory, read from a diffusers folder.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::{
    Compute, EngineError,
    checkpoint::{StoredTensors, read_component, read_large_component, read_text},
    judge::Judges,
    model::{
        ClipTextConfig, ClipTextModel, ClipTokenizer, Origin, Thrift, Unet, UnetConfig, Vae,
        VaeConfig, Weights,
    },
    ops,
    schedule::Ddim,
};
use crate::spec::{ModelFiles, SpecError, Vocabulary};

/// The parts of diffusers' `StableDiffusionPipeline`, and what Keystep reads beside them: the
/// vocabulary and the judges. Cloning shares every tensor.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Where it came from, for messages.
    pub location: String,
    /// Where the networks lie.
    pub device: Device,
    /// What the U-Net computes in; everything else is f32.
    pub unet_dtype: DType,
    /// The U-Net's weights by name, in host memory as f32: what digests, trained weights and results
    /// start from, whatever the network computes in.
    pub unet_tensors: Arc<StoredTensors>,
    /// The same on the device, as the network computes with them; shares `unet_tensors` where that
    /// is the CPU.
    pub unet_weights: Arc<StoredTensors>,
    /// The denoiser over `unet_weights`.
    pub unet: Arc<Unet>,
    /// Between pictures and latents.
    pub vae: Arc<Vae>,
    /// Prompts to hidden states.
    pub text_encoder: Arc<ClipTextModel>,
    /// Prompts to token ids.
    pub tokenizer: Arc<ClipTokenizer>,
    /// The sampler.
    pub scheduler: Arc<Ddim>,
    /// What can judge its pictures; may be empty.
    pub judges: Arc<Judges>,
    /// Bytes of all weights of all parts, as loaded.
    pub weight_bytes: u64,
    /// The words it is known to draw; empty when the folder does not say.
    pub vocabulary: Vocabulary,
}

impl Pipeline {
    /// Reads every part. `variant` is diffusers' (such as `fp16`).
    pub fn load(
        files: &dyn ModelFiles,
        variant: Option<&str>,
        compute: &Compute,
    ) -> Result<Self, EngineError> {
        ops::keep_freed_memory();
        let device = &compute.device;
        let location = files.location().to_owned();
        let config_of = |component: &str, name: &str| {
            let path = format!("{component}/{name}");
            Ok::<_, EngineError>((read_text(files, &path)?, format!("{location}/{path}")))
        };
        // Every config is read and checked before the first weight.
        let (json, file) = config_of("unet", "config.json")?;
        let unet_config = UnetConfig::parse(&json, &file)?;
        let (json, file) = config_of("vae", "config.json")?;
        let vae_config = VaeConfig::parse(&json, &file)?;
        let (json, file) = config_of("text_encoder", "config.json")?;
        let text_config = ClipTextConfig::parse(&json, &file)?;
        let (json, scheduler_file) = config_of("scheduler", "scheduler_config.json")?;
        let scheduler = Ddim::from_config(&json, &scheduler_file)?;
        if text_config.hidden_size != unet_config.cross_attention_dim {
            return Err(EngineError::Config {
                file,
                message: format!(
                    "hidden_size is {}, the U-Net's cross_attention_dim is {}; the parts do not \
                     belong together",
                    text_config.hidden_size, unet_config.cross_attention_dim
                ),
            });
        }
        if vae_config.latent_channels != unet_config.in_channels
            || unet_config.in_channels != unet_config.out_channels
        {
            return Err(EngineError::Config {
                file: format!("{location}/unet/config.json"),
                message: format!(
                    "in_channels is {} and out_channels {}, the autoencoder has {} latent \
                     channels; inpainting and depth models are not supported",
                    unet_config.in_channels, unet_config.out_channels, vae_config.latent_channels
                ),
            });
        }
        let tokenizer = ClipTokenizer::from_files(files, "tokenizer")?;
        if tokenizer.vocabulary_size() > text_config.vocab_size {
            return Err(EngineError::Config {
                file,
                message: format!(
                    "vocab_size is {}, the tokenizer has {} entries; the parts do not belong \
                     together",
                    text_config.vocab_size,
                    tokenizer.vocabulary_size()
                ),
            });
        }
        let vocabulary = read_vocabulary(files)?;

        let unet_tensors = read_large_component(files, "unet", variant, &Device::Cpu)?;
        let unet_weights = unet_tensors.placed(device, compute.dtype, None)?;
        let unet = Unet::new(&Weights::frozen(&unet_weights), &unet_config)?;
        let vae_tensors = read_component(files, "vae", variant, device)?;
        let vae = Vae::new(&Weights::frozen(&vae_tensors), &vae_config)?;
        let text_tensors = read_component(files, "text_encoder", variant, device)?;
        let text_encoder = ClipTextModel::new(&Weights::frozen(&text_tensors), &text_config)?;
        let judges = Judges::load(files, &vocabulary, device)?;
        let networks = [&unet_tensors, &vae_tensors, &text_tensors];
        let networks = networks.iter().map(|tensors| tensors.bytes()).sum::<u64>();
        let weight_bytes = networks + 4 * judges.parameters;
        Ok(Self {
            location,
            device: device.clone(),
            unet_dtype: compute.dtype,
            unet_tensors: Arc::new(unet_tensors),
            unet_weights: Arc::new(unet_weights),
            unet: Arc::new(unet),
            vae: Arc::new(vae),
            text_encoder: Arc::new(text_encoder),
            tokenizer: Arc::new(tokenizer),
            scheduler: Arc::new(scheduler),
            judges: Arc::new(judges),
            weight_bytes,
            vocabulary,
        })
    }

    /// What the U-Net in memory was made of.
    pub fn unet_origin(&self) -> Origin<'_> {
        Origin { read: &self.unet_tensors, placed: &self.unet_weights }
    }

    /// The same pipeline with another U-Net of the same architecture, whose tensors lie in host
    /// memory; those that are this pipeline's own are not moved again.
    pub fn with_unet(&self, tensors: StoredTensors) -> Result<Self, EngineError> {
        let here = (&*self.unet_tensors, &*self.unet_weights);
        let weights = tensors.placed(&self.device, self.unet_dtype, Some(here))?;
        let unet = Unet::new(&Weights::frozen(&weights), self.unet.config())?;
        Ok(Self {
            unet: Arc::new(unet),
            unet_tensors: Arc::new(tensors),
            unet_weights: Arc::new(weights),
            ..self.clone()
        })
    }

    /// The same pipeline, whose U-Net saves memory at the cost of time.
    pub(super) fn with_thrift(&self, thrift: Thrift) -> Result<Self, EngineError> {
        let unet = Unet::new(&Weights::frozen(&self.unet_weights), self.unet.config())?;
        Ok(Self { unet: Arc::new(unet.with_thrift(thrift)), ..self.clone() })
    }

    /// Text hidden states, `[prompts, tokens, channels]`.
    pub fn encode_prompts<S: AsRef<str>>(&self, prompts: &[S]) -> Result<Tensor, EngineError> {
        // A bound on the text encoder's activations; hidden states are small beside them.
        const PROMPTS_AT_ONCE: usize = 64;
        let mut parts = Vec::new();
        for prompts in prompts.chunks(PROMPTS_AT_ONCE) {
            let ids = prompts
                .iter()
                .map(|prompt| self.tokenizer.encode(prompt.as_ref()))
                .collect::<Result<Vec<_>, _>>()?;
            parts.push(self.text_encoder.forward(&ids)?);
        }
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// `[channels, height, width]` of a latent for a picture of this size in pixels.
    pub fn latent_shape(&self, size: Option<(usize, usize)>) -> Result<[usize; 3], EngineError> {
        let config = self.unet.config();
        let cells = match size {
            None => (config.sample_size, config.sample_size),
            Some((width, height)) => {
                let factor = self.vae.factor();
                // Every level of the U-Net halves; what does not divide cannot come back up.
                let multiple = factor << (config.block_out_channels.len() - 1);
                for (field, pixels) in [("width", width), ("height", height)] {
                    if pixels % multiple != 0 {
                        return Err(SpecError::one(
                            field,
                            format!(
                                "{pixels} is not a multiple of {multiple}, as this model needs"
                            ),
                        )
                        .into());
                    }
                }
                (width / factor, height / factor)
            }
        };
        Ok([config.in_channels, cells.1, cells.0])
    }
}

fn read_vocabulary(files: &dyn ModelFiles) -> Result<Vocabulary, EngineError> {
    const NAME: &str = "vocabulary.json";
    if !files.names().iter().any(|name| name == NAME) {
        return Ok(Vocabulary::default());
    }
    let file = format!("{}/{NAME}", files.location());
    let vocabulary: Vocabulary = serde_json::from_str(&read_text(files, NAME)?)
        .map_err(|error| EngineError::Config { file, message: error.to_string() })?;
    vocabulary.validate()?;
    Ok(vocabulary)
}
