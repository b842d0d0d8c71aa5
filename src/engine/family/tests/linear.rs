//! A small family for tests: its denoiser is a linear map of the latents, the timestep and the
//! conditioning, so that what it draws can be worked out by hand.

use std::{fs, path::Path, sync::Arc};

use candle_core::{DType, Device, Tensor, bail};
use safetensors::Dtype;

use crate::{
    engine::{
        EngineError, Pipeline,
        checkpoint::{StoredTensor, StoredTensors, testing::MemoryModel},
        family::{
            ClipTextConfig, ClipTextModel, ClipTokenizer, Conditioning, Denoiser, Family, Prompts,
            TextTower, TextTowerConfig, Vae, VaeConfig,
            config::{ClipActivation, ClipTowerConfig},
        },
        judge::JudgeParts,
        nn::{Conv2d, Conv2dSize, Linear, MemoryPolicy, Text, Weights},
        ops::{self, Addends},
        sampler::SamplerConfig,
        schedule::Ddim,
        tape::TapeTensor,
    },
    spec::{Scope, Vocabulary},
};

pub(super) const CHANNELS: usize = 2;
const TOKENS: usize = 2;
const WIDTH: usize = 3;
/// Of the latents that it was trained at.
pub(super) const OWN_SIZE: [usize; 2] = [4, 8];
/// Pixels of a latent cell a side.
const FACTOR: usize = 2;
/// What no scope trains.
pub(super) const UNTRAINED: &str = "time.weight";

/// Which parts of a prompt it reads as it should; the others are zeros.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reads {
    pub(super) pooled: bool,
    pub(super) extra: bool,
}

/// Predicts `latents(z) + text(states) + pooled(pooled) + extra(extra) + time · t / 1000`.
#[derive(Debug, Clone)]
struct LinearDenoiser {
    latents: Conv2d,
    text: Linear,
    pooled: Linear,
    extra: Linear,
    time: Linear,
    memory_policy: MemoryPolicy,
}

impl LinearDenoiser {
    fn new(w: &Weights<'_>) -> Result<Self, EngineError> {
        let linear = |name: &str, inputs| Linear::without_bias(&w.at(name), inputs, CHANNELS);
        Ok(Self {
            latents: Conv2d::without_bias(
                &w.at("latents"),
                Conv2dSize::pointwise(CHANNELS, CHANNELS),
            )?,
            text: linear("text", TOKENS * WIDTH)?,
            pooled: linear("pooled", 2)?,
            extra: linear("extra", 2)?,
            time: linear("time", 1)?,
            memory_policy: MemoryPolicy::default(),
        })
    }
}

impl Denoiser for LinearDenoiser {
    fn location(&self) -> &'static str {
        "linear/transformer"
    }

    fn predict(
        &self,
        sample: &TapeTensor,
        timesteps: &[f64],
        prompts: Prompts<'_>,
    ) -> candle_core::Result<TapeTensor> {
        let Prompts { text: Text::States(states), pooled: Some(pooled), extra: Some(extra) } =
            prompts
        else {
            bail!("a linear denoiser reads states, pooled and extra");
        };
        let device = sample.tensor().device();
        let timesteps = timesteps.iter().map(|timestep| (timestep / 1000.0) as f32);
        let timesteps = Tensor::from_iter(timesteps, device)?.unsqueeze(1)?;
        let states = ops::reshape(&states, (timesteps.dim(0)?, TOKENS * WIDTH))?;
        let shift = self.time.forward(&sample.with_same_tracking(&timesteps)?)?;
        let shift = self.text.forward_onto(&shift, &states)?;
        let shift = self.pooled.forward_onto(&shift, &pooled)?;
        let shift = self.extra.forward_onto(&shift, &extra)?;
        let addends = Addends { shift: Some(&shift), ..Addends::default() };
        self.latents.forward_adding(sample, addends)
    }

    fn memory_policy(&self) -> &MemoryPolicy {
        &self.memory_policy
    }

    fn with_memory_policy(&self, memory_policy: MemoryPolicy) -> Arc<dyn Denoiser> {
        Arc::new(Self { memory_policy, ..self.clone() })
    }
}

#[derive(Debug)]
struct LinearFamily {
    reads: Reads,
    vae: VaeConfig,
    towers: [TextTowerConfig; 1],
}

impl LinearFamily {
    fn new(reads: Reads) -> Self {
        let vae = VaeConfig {
            in_channels: 3,
            out_channels: 3,
            latent_channels: CHANNELS,
            block_out_channels: vec![4; 2],
            layers_per_block: 1,
            norm_num_groups: 2,
            scaling_factor: 0.5,
            use_quant_conv: false,
            use_post_quant_conv: false,
            mid_block_add_attention: false,
        };
        let encoder = ClipTextConfig {
            tower: ClipTowerConfig {
                hidden_size: 2,
                intermediate_size: 2,
                num_hidden_layers: 1,
                num_attention_heads: 1,
                layer_norm_eps: 1e-5,
                activation: ClipActivation::Gelu,
                projection_dim: 2,
            },
            vocab_size: 900,
            max_position_embeddings: 32,
            eos_token_id: 2,
        };
        let tower = TextTowerConfig {
            component: "text_encoder",
            tokenizer: "tokenizer",
            encoder,
            file: "linear/text_encoder/config.json".to_owned(),
        };
        Self { reads, vae, towers: [tower] }
    }

    fn extra(&self, [height, width]: [usize; 2]) -> [f32; 2] {
        let share = |side: usize, own: usize| side as f32 / (own * FACTOR) as f32;
        let size = [share(height, OWN_SIZE[0]), share(width, OWN_SIZE[1])];
        if self.reads.extra { size } else { [0.0; 2] }
    }
}

impl Family for LinearFamily {
    fn denoiser_component(&self) -> &'static str {
        "transformer"
    }

    fn denoiser(&self, weights: &Weights<'_>) -> Result<Arc<dyn Denoiser>, EngineError> {
        Ok(Arc::new(LinearDenoiser::new(weights)?))
    }

    fn trains(&self, scope: &Scope, name: &str) -> bool {
        scope.contains(name) && name != UNTRAINED
    }

    fn latent_channels(&self) -> usize {
        CHANNELS
    }

    fn own_size(&self) -> Result<[usize; 2], EngineError> {
        Ok(OWN_SIZE)
    }

    fn autoencoder(&self) -> &VaeConfig {
        &self.vae
    }

    fn text_towers(&self) -> &[TextTowerConfig] {
        &self.towers
    }

    fn conditioning_shape(&self) -> Conditioning<Vec<usize>> {
        Conditioning { states: vec![TOKENS, WIDTH], pooled: Some(vec![2]), extra: Some(vec![2]) }
    }

    /// States and pooled are sums over the words' tokens, extra is the picture's size over its own.
    fn encode(
        &self,
        towers: &[TextTower],
        prompts: &[&str],
        picture: Option<[usize; 2]>,
    ) -> Result<Conditioning, EngineError> {
        let picture = picture.unwrap_or(OWN_SIZE.map(|side| side * FACTOR));
        let (mut states, mut pooled, mut extra) = (Vec::new(), Vec::new(), Vec::new());
        for prompt in prompts {
            let tokenizer = &towers[0].tokenizer;
            let ids = tokenizer.encode(prompt)?;
            let words: Vec<_> = ids[1..].iter().take_while(|id| **id != tokenizer.end()).collect();
            let sum = |factor: usize| -> f32 {
                words.iter().map(|id| (**id as f32 * 0.7 * factor as f32).sin()).sum()
            };
            states.extend((1..=TOKENS * WIDTH).map(sum));
            let of_text = [sum(TOKENS * WIDTH + 1), sum(TOKENS * WIDTH + 2)];
            pooled.extend(if self.reads.pooled { of_text } else { [0.0; 2] });
            extra.extend(self.extra(picture));
        }
        let count = prompts.len();
        Ok(Conditioning {
            states: Tensor::from_vec(states, (count, TOKENS, WIDTH), &Device::Cpu)?,
            pooled: Some(Tensor::from_vec(pooled, (count, 2), &Device::Cpu)?),
            extra: Some(Tensor::from_vec(extra, (count, 2), &Device::Cpu)?),
        })
    }

    /// Zeros for an empty prompt, as SDXL takes them.
    fn unconditional(
        &self,
        towers: &[TextTower],
        negative_prompt: &str,
        picture: Option<[usize; 2]>,
    ) -> Result<Conditioning, EngineError> {
        let encoded = self.encode(towers, &[negative_prompt], picture)?;
        if !negative_prompt.is_empty() {
            return Ok(encoded);
        }
        let pooled = encoded.pooled.map(|pooled| pooled.zeros_like()).transpose()?;
        Ok(Conditioning { states: encoded.states.zeros_like()?, pooled, extra: encoded.extra })
    }

    fn check(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

/// Tensors of the shapes that a network asks for, with small values that all differ.
fn filled<T>(build: impl Fn(&Weights<'_>) -> Result<T, EngineError>) -> StoredTensors {
    let mut stored = StoredTensors::default();
    loop {
        let Err(error) = build(&Weights::frozen(&stored)) else { return stored };
        let EngineError::MissingTensor { name, expected, .. } = error else { panic!("{error}") };
        let start = (stored.tensors.len() * 100) as f32;
        let values = (0..expected.iter().product::<usize>())
            .map(|index| 0.3 * (start + 1.7 * index as f32).sin());
        let tensor = Tensor::from_iter(values, &Device::Cpu).unwrap().reshape(expected).unwrap();
        stored
            .tensors
            .insert(name, StoredTensor { tensor, file: String::new(), dtype: Dtype::F32 });
    }
}

/// The built-in model's tokenizer, in a folder that holds no judge.
fn tokenizer_files() -> MemoryModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/emoji-canvas/model/tokenizer");
    MemoryModel::new(fs::read_dir(folder).unwrap().map(|file| {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        (format!("tokenizer/{name}"), fs::read(&path).unwrap())
    }))
}

/// A whole model of the family, whose prompts are read in part.
pub(super) fn pipeline(reads: Reads) -> Pipeline {
    let family = Arc::new(LinearFamily::new(reads));
    let files = tokenizer_files();
    let [tower] = &family.towers;
    let tokenizer =
        ClipTokenizer::for_encoder(&files, tower.tokenizer, &tower.encoder, &tower.file).unwrap();
    let tokenizer = Arc::new(tokenizer);
    let encoder = filled(|w| ClipTextModel::new(w, &tower.encoder));
    let encoder = ClipTextModel::new(&Weights::frozen(&encoder), &tower.encoder).unwrap();
    let towers = [TextTower { tokenizer: Arc::clone(&tokenizer), encoder: Arc::new(encoder) }];
    let vae = filled(|w| Vae::new(w, &family.vae));
    let unet_tensors = Arc::new(filled(|w| family.denoiser(w)));
    let judges = JudgeParts::find(&files, &Vocabulary::default(), &mut Vec::new());
    let scheduler = r#"{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "set_alpha_to_one": false, "steps_offset": 1, "clip_sample": false}"#;
    Pipeline {
        location: "linear".to_owned(),
        device: Device::Cpu,
        denoiser: family.denoiser(&Weights::frozen(&unet_tensors)).unwrap(),
        unet_dtype: DType::F32,
        unet_weights: Arc::clone(&unet_tensors),
        unet_tensors,
        vae: Arc::new(Vae::new(&Weights::frozen(&vae), &family.vae).unwrap()),
        towers: towers.into(),
        tokenizer,
        scheduler: Arc::new(Ddim::for_pipeline(scheduler, "scheduler").unwrap()),
        sampling: Arc::new(SamplerConfig::parse(scheduler, "scheduler").unwrap()),
        judges: Arc::new(judges.unwrap().read(&Device::Cpu).unwrap()),
        weight_bytes: vae.bytes(),
        own_bytes: 0,
        memory_limit: None,
        vocabulary: Vocabulary::default(),
        warnings: Vec::new(),
        family,
    }
}
