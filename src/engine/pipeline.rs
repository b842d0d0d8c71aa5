//! A whole Stable Diffusion model in memory, read from a diffusers folder.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::{
    Compute, EngineError,
    checkpoint::{StoredTensor, StoredTensors, read_text},
    judge::{JudgeParts, Judges},
    model::{
        ClipTextConfig, ClipTextModel, ClipTokenizer, MemoryPolicy, Origin, Unet, UnetConfig, Vae,
        VaeConfig, Weights,
    },
    ops,
    part::{Part, variants},
    python_json,
    sampler::SamplerConfig,
    schedule::Ddim,
    wording::Reader,
};
use crate::{
    outcome::DeviceKind,
    spec::{Field, ModelFiles, SpecError, Vocabulary},
};

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
    /// for, and fields that are read otherwise than they stand there; for whoever loads it to tell.
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
        let config_of = |component: &str, name: &str| {
            let path = format!("{component}/{name}");
            Ok::<_, EngineError>((read_text(files, &path)?, format!("{location}/{path}")))
        };
        // Every config is read and checked before the first weight.
        let (json, file) = config_of("unet", "config.json")?;
        let unet_config = UnetConfig::parse(&json, &file)?;
        let mut warnings: Vec<String> = unet_config.repairs(&file).into_iter().collect();
        let (json, file) = config_of("vae", "config.json")?;
        let vae_config = VaeConfig::parse(&json, &file)?;
        let (json, file) = config_of("text_encoder", "config.json")?;
        let text_config = ClipTextConfig::parse(&json, &file)?;
        let (json, scheduler_file) = config_of("scheduler", "scheduler_config.json")?;
        let scheduler = Ddim::for_pipeline(&json, &scheduler_file)?;
        let sampling = SamplerConfig::parse(&json, &scheduler_file)?;
        warnings.extend_from_slice(scheduler.repairs());
        warnings.extend(sampling.foreign_class());
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
        let tokenizer = ClipTokenizer::for_encoder(files, "tokenizer", &text_config, &file)?;
        warnings.extend(tokenizer.repair().map(str::to_owned));
        let vocabulary = read_vocabulary(files)?;

        // Every header before the first weight.
        let of = variants(files, ["unet", "vae", "text_encoder"], variant, &mut warnings)?;
        let [unet_of, vae_of, text_of] = of;
        let unet = |w: &Weights| Unet::new(w, &unet_config);
        let unet_part = Part::find(files, unet_of, |w| unet(w).map(drop), &mut warnings)?;
        let vae = |w: &Weights| Vae::new(w, &vae_config);
        let vae_part = Part::find(files, vae_of, |w| vae(w).map(drop), &mut warnings)?;
        let text = |w: &Weights| ClipTextModel::new(w, &text_config);
        let text_part = Part::find(files, text_of, |w| text(w).map(drop), &mut warnings)?;
        let judges = JudgeParts::find(files, &vocabulary, &mut warnings)?;

        let unet_tensors = unet_part.read_large(&Device::Cpu)?;
        let unet_weights = unet_tensors.placed(device, compute.dtype, None)?;
        let unet = unet(&Weights::frozen(&unet_weights))?;
        let vae_tensors = vae_part.read(device)?;
        let vae = vae(&Weights::frozen(&vae_tensors))?;
        let text_tensors = text_part.read(device)?;
        let text_encoder = text(&Weights::frozen(&text_tensors))?;
        let judges = judges.read(device)?;
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
            sampling: Arc::new(sampling),
            judges: Arc::new(judges),
            weight_bytes,
            own_bytes: weight_bytes,
            memory_limit: None,
            vocabulary,
            warnings,
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
        let is_own = |(name, stored): &(&String, &StoredTensor)| {
            let before = self.unet_tensors.tensors.get(*name);
            before.is_none_or(|before| before.tensor.id() != stored.tensor.id())
        };
        let own = tensors.tensors.iter().filter(is_own);
        let own_bytes = own.map(|(_, stored)| stored.bytes()).sum();
        Ok(Self {
            own_bytes,
            unet: Arc::new(unet),
            unet_tensors: Arc::new(tensors),
            unet_weights: Arc::new(weights),
            ..self.clone()
        })
    }

    /// The same pipeline, whose U-Net saves memory at the cost of time.
    pub(super) fn with_memory_policy(
        &self,
        memory_policy: MemoryPolicy,
    ) -> Result<Self, EngineError> {
        let unet = Unet::new(&Weights::frozen(&self.unet_weights), self.unet.config())?;
        Ok(Self { unet: Arc::new(unet.with_memory_policy(memory_policy)), ..self.clone() })
    }

    /// Reads texts as [`Pipeline::encode_prompts`] does.
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader::new(&self.tokenizer, self.text_encoder.config())
    }

    /// What computes.
    pub(super) fn device_kind(&self) -> DeviceKind {
        if self.device.is_cuda() { DeviceKind::Cuda } else { DeviceKind::Cpu }
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
        let [height, width] = match size {
            None => config.own_size(&format!("{}/unet/config.json", self.location))?,
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
        Ok([config.in_channels, height, width])
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
