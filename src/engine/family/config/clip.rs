//! `text_encoder/config.json` (transformers `CLIPTextModel`) and `clip/config.json` (`CLIPModel`).

use super::fields::{Fields, MAX_CHANNELS, MAX_LAYERS, affordable, divisible, refuse, within};
use crate::engine::EngineError;

/// CLIP's activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClipActivation {
    /// `x · sigmoid(1.702 x)`: `OpenAI`'s models, Stable Diffusion 1.x.
    QuickGelu,
    /// `x · Φ(x)`: `OpenCLIP`'s models, Stable Diffusion 2.x.
    Gelu,
}

impl ClipActivation {
    const NAMES: [(&'static str, Self); 2] =
        [("quick_gelu", Self::QuickGelu), ("gelu", Self::Gelu)];
}

/// What both encoders have: transformer layers, and a projection into the common space.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClipTowerConfig {
    /// Width of the states.
    pub hidden_size: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f64,
    /// Inside the feed-forward layers.
    pub activation: ClipActivation,
    /// Width of the common space of texts and pictures.
    pub projection_dim: usize,
}

impl ClipTowerConfig {
    /// The defaults of `CLIPTextConfig`.
    const TEXT: Self = Self {
        hidden_size: 512,
        intermediate_size: 2_048,
        num_hidden_layers: 12,
        num_attention_heads: 8,
        layer_norm_eps: 1e-5,
        activation: ClipActivation::QuickGelu,
        projection_dim: 512,
    };
    /// The defaults of `CLIPVisionConfig`.
    const VISION: Self =
        Self { hidden_size: 768, intermediate_size: 3_072, num_attention_heads: 12, ..Self::TEXT };

    fn read(fields: &Fields<'_>, default: Self) -> Result<Self, EngineError> {
        let projected = fields.optional_size("projection_dim")?;
        Ok(Self {
            hidden_size: fields.size("hidden_size", default.hidden_size)?,
            intermediate_size: fields.size("intermediate_size", default.intermediate_size)?,
            num_hidden_layers: fields.size("num_hidden_layers", default.num_hidden_layers)?,
            num_attention_heads: fields.size("num_attention_heads", default.num_attention_heads)?,
            layer_norm_eps: fields.number("layer_norm_eps", default.layer_norm_eps)?,
            activation: fields.choice("hidden_act", default.activation, &ClipActivation::NAMES)?,
            projection_dim: projected.unwrap_or(default.projection_dim),
        })
    }

    /// `embeddings` is how many vectors of the hidden size it has beside its layers.
    fn validate(&self, file: &str, embeddings: usize) -> Result<(), EngineError> {
        within(file, "hidden_size", self.hidden_size, 1..=MAX_CHANNELS)?;
        within(file, "intermediate_size", self.intermediate_size, 1..=4 * MAX_CHANNELS)?;
        within(file, "num_hidden_layers", self.num_hidden_layers, 1..=MAX_LAYERS)?;
        within(file, "num_attention_heads", self.num_attention_heads, 1..=self.hidden_size)?;
        within(file, "layer_norm_eps", self.layer_norm_eps, 1e-12..=1.0)?;
        within(file, "projection_dim", self.projection_dim, 1..=MAX_CHANNELS)?;
        divisible(
            file, "hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads,
        )?;
        let hidden = self.hidden_size as f64;
        let layer = 4.0 * hidden * hidden + 2.0 * hidden * self.intermediate_size as f64;
        let ends = hidden * (embeddings + self.projection_dim) as f64;
        affordable(file, self.num_hidden_layers as f64 * layer + ends)
    }
}

/// The shape of a text encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipTextConfig {
    /// The transformer.
    pub tower: ClipTowerConfig,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Tokens of a prompt, with begin and end.
    pub max_position_embeddings: usize,
    /// The token that ends a prompt, whose state is the pooled one; 2 in configs older than
    /// transformers 4.31, which then pool at the largest token instead.
    pub eos_token_id: u32,
}

impl ClipTextConfig {
    /// Reads and checks a `config.json`; `file` names it in errors.
    pub fn parse(json: &str, file: &str) -> Result<Self, EngineError> {
        let fields = Fields::parse(json, file)?;
        // A whole CLIPModel's config is one that `CLIPTextModel.from_pretrained` reads as well.
        let config = if fields.text("model_type")? == Some("clip") {
            // It goes by `text_config`, and knows nothing of `text_config_dict`.
            let within = match fields.nested("text_config")? {
                Some(within) => within,
                None => nested(&fields, "text_config", file)?,
            };
            Self::read(&within, file)?
        } else {
            fields.expect_class("model_type", "clip_text_model")?;
            Self::read(&fields, file)?
        };
        config.validate(file)?;
        Ok(config)
    }

    fn read(fields: &Fields<'_>, file: &str) -> Result<Self, EngineError> {
        let end = fields.uniform_size("eos_token_id", 49_407)?;
        Ok(Self {
            tower: ClipTowerConfig::read(fields, ClipTowerConfig::TEXT)?,
            vocab_size: fields.size("vocab_size", 49_408)?,
            max_position_embeddings: fields.size("max_position_embeddings", 77)?,
            eos_token_id: u32::try_from(end)
                .map_err(|_| refuse(file, format!("eos_token_id is {end}, which is no token")))?,
        })
    }

    /// Refuses sizes that do not fit together or that no machine can hold, before any of them is
    /// allocated.
    pub fn validate(&self, file: &str) -> Result<(), EngineError> {
        within(file, "vocab_size", self.vocab_size, 1..=10_000_000)?;
        within(file, "max_position_embeddings", self.max_position_embeddings, 2..=MAX_CHANNELS)?;
        self.tower.validate(file, self.vocab_size + self.max_position_embeddings)
    }
}

/// The shape of a picture encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipVisionConfig {
    /// The transformer.
    pub tower: ClipTowerConfig,
    /// Width and height of the pictures.
    pub image_size: usize,
    /// Width and height of a patch.
    pub patch_size: usize,
    /// Channels of the pictures.
    pub num_channels: usize,
}

impl ClipVisionConfig {
    fn read(fields: &Fields<'_>) -> Result<Self, EngineError> {
        Ok(Self {
            tower: ClipTowerConfig::read(fields, ClipTowerConfig::VISION)?,
            image_size: fields.uniform_size("image_size", 224)?,
            patch_size: fields.uniform_size("patch_size", 32)?,
            num_channels: fields.size("num_channels", 3)?,
        })
    }

    /// Refuses sizes that do not fit together or that no machine can hold, before any of them is
    /// allocated.
    pub fn validate(&self, file: &str) -> Result<(), EngineError> {
        within(file, "image_size", self.image_size, 1..=16_384)?;
        within(file, "patch_size", self.patch_size, 1..=self.image_size)?;
        within(file, "num_channels", self.num_channels, 3..=3)?;
        // The convolution of patches would drop the rest of the picture.
        divisible(file, "image_size", self.image_size, "patch_size", self.patch_size)?;
        let side = self.image_size / self.patch_size;
        let positions = side * side + 1;
        within(file, "the number of patches", positions, 2..=MAX_CHANNELS)?;
        let patch = self.num_channels * self.patch_size * self.patch_size;
        self.tower.validate(file, positions + patch)
    }
}

/// The shape of a CLIP model: both encoders.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipConfig {
    /// The text encoder.
    pub text: ClipTextConfig,
    /// The picture encoder.
    pub vision: ClipVisionConfig,
    /// Width of the common space; counts over those of the encoders.
    pub projection_dim: usize,
}

impl ClipConfig {
    /// Reads and checks a `config.json`; `file` names it in errors.
    pub fn parse(json: &str, file: &str) -> Result<Self, EngineError> {
        let fields = Fields::parse(json, file)?;
        fields.expect_class("model_type", "clip")?;
        let config = Self {
            text: ClipTextConfig::read(&nested(&fields, "text_config", file)?, file)?,
            vision: ClipVisionConfig::read(&nested(&fields, "vision_config", file)?)?,
            projection_dim: fields.optional_size("projection_dim")?.unwrap_or(512),
        };
        config.validate(file)?;
        Ok(config)
    }

    /// Refuses sizes that do not fit together or that no machine can hold, before any of them is
    /// allocated.
    pub fn validate(&self, file: &str) -> Result<(), EngineError> {
        within(file, "projection_dim", self.projection_dim, 1..=MAX_CHANNELS)?;
        self.text.validate(file)?;
        // Here alone is it looked for: a pipeline takes every state, so that the default beside a small
        // vocabulary does no harm there.
        let (end, size) = (self.text.eos_token_id as usize, self.text.vocab_size);
        if end >= size {
            return Err(refuse(file, format!("eos_token_id is {end}, vocab_size is only {size}")));
        }
        self.vision.validate(file)
    }
}

/// The config of one encoder within a `CLIPModel`'s. Old files have a `text_config_dict` beside
/// `text_config`; as in transformers, it then stands for the whole.
fn nested<'a>(fields: &Fields<'a>, name: &str, file: &'a str) -> Result<Fields<'a>, EngineError> {
    if let Some(old) = fields.nested(&format!("{name}_dict"))? {
        return Ok(old);
    }
    Ok(fields.nested(name)?.unwrap_or_else(|| Fields::empty(file)))
}
