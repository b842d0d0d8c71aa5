//! CLIP: the text encoder of most families, and both towers for judging.

use candle_core::{D, Device, IndexOp, Tensor};

use super::{
    config::{ClipActivation, ClipConfig, ClipTextConfig, ClipTowerConfig, ClipVisionConfig},
    key_map,
};
use crate::engine::{
    EngineError, finite,
    nn::{Conv2d, Conv2dSize, LayerNorm, Linear, Weights},
    ops,
    tape::TapeTensor,
};

/// transformers `CLIPEncoderLayer`.
#[derive(Debug)]
struct EncoderLayer {
    layer_norm1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
    activation: ClipActivation,
}

impl EncoderLayer {
    fn new(w: &Weights, config: &ClipTowerConfig) -> Result<Self, EngineError> {
        let ClipTowerConfig { hidden_size: hidden, layer_norm_eps: eps, .. } = *config;
        let projection = |name: &str| Linear::new(&w.at("self_attn").at(name), hidden, hidden);
        Ok(Self {
            layer_norm1: LayerNorm::new(&w.at("layer_norm1"), hidden, eps)?,
            q_proj: projection("q_proj")?,
            k_proj: projection("k_proj")?,
            v_proj: projection("v_proj")?,
            out_proj: projection("out_proj")?,
            layer_norm2: LayerNorm::new(&w.at("layer_norm2"), hidden, eps)?,
            fc1: Linear::new(&w.at("mlp.fc1"), hidden, config.intermediate_size)?,
            fc2: Linear::new(&w.at("mlp.fc2"), config.intermediate_size, hidden)?,
            heads: config.num_attention_heads,
            activation: config.activation,
        })
    }

    fn forward(&self, x: &TapeTensor, mask: Option<&Tensor>) -> Result<TapeTensor, EngineError> {
        let normed = self.layer_norm1.forward(x)?;
        let (query, key, value) = (
            self.q_proj.forward(&normed)?,
            self.k_proj.forward(&normed)?,
            self.v_proj.forward(&normed)?,
        );
        let attended = ops::attention(&query, &key, &value, self.heads, mask)?;
        let x = self.out_proj.forward_onto(x, &attended)?;
        let hidden = self.fc1.forward(&self.layer_norm2.forward(&x)?)?;
        let hidden = match self.activation {
            ClipActivation::QuickGelu => ops::quick_gelu(&hidden)?,
            ClipActivation::Gelu => ops::gelu_erf(&hidden)?,
        };
        Ok(self.fc2.forward_onto(&x, &hidden)?)
    }
}

fn encoder_layers(w: &Weights, config: &ClipTowerConfig) -> Result<Vec<EncoderLayer>, EngineError> {
    (0..config.num_hidden_layers)
        .map(|layer| EncoderLayer::new(&w.at("encoder.layers").at(layer), config))
        .collect()
}

/// transformers `CLIPTextModel`.
#[derive(Debug)]
pub struct ClipTextModel {
    location: String,
    config: ClipTextConfig,
    token_embedding: Tensor,
    position_embedding: Tensor,
    layers: Vec<EncoderLayer>,
    final_layer_norm: LayerNorm,
}

impl ClipTextModel {
    /// The text encoder of a pipeline, which may lie in a whole `CLIPModel`, or have more layers than
    /// the config asks for: the first ones count.
    pub fn new(w: &Weights, config: &ClipTextConfig) -> Result<Self, EngineError> {
        let model = Self::tower(&key_map::text_encoder(w), config)?;
        w.pass_over(|name| name.ends_with("position_ids") || name == "text_projection.weight");
        Ok(model)
    }

    fn tower(w: &Weights, config: &ClipTextConfig) -> Result<Self, EngineError> {
        let ClipTowerConfig { hidden_size: hidden, layer_norm_eps: eps, .. } = config.tower;
        let embeddings = w.at("embeddings");
        Ok(Self {
            location: w.location().to_owned(),
            token_embedding: embeddings
                .take("token_embedding.weight", &[config.vocab_size, hidden])?,
            position_embedding: embeddings
                .take("position_embedding.weight", &[config.max_position_embeddings, hidden])?,
            layers: encoder_layers(w, &config.tower)?,
            final_layer_norm: LayerNorm::new(&w.at("final_layer_norm"), hidden, eps)?,
            config: config.clone(),
        })
    }

    /// The architecture.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// `last_hidden_state`, the U-Net's conditioning.
    ///
    /// # Shapes
    /// Token ids, one equally long row a prompt, to `[batch, tokens, hidden]`.
    pub fn forward(&self, ids: &[Vec<u32>]) -> Result<Tensor, EngineError> {
        let embedded = TapeTensor::no_grad(&self.token_embeddings(ids)?);
        let states = self.trace(&embedded)?.into_tensor();
        finite::check(&self.location, "a text's states", &states)?;
        Ok(states)
    }

    /// Rows of the token embedding, which [`ClipTextModel::trace`] continues from.
    ///
    /// # Shapes
    /// Token ids, one equally long row a prompt, to `[batch, tokens, hidden]`.
    pub fn token_embeddings(&self, ids: &[Vec<u32>]) -> Result<Tensor, EngineError> {
        let tokens = ids.first().map_or(0, Vec::len);
        let index = Tensor::from_vec(ids.concat(), ids.len() * tokens, self.device())?;
        let rows = self.token_embedding.index_select(&index, 0)?;
        Ok(rows.reshape((ids.len(), tokens, self.config.tower.hidden_size))?)
    }

    /// `last_hidden_state` of token embeddings that may be followed, or that have a shape and no
    /// values: a dry run ([`Meter`](crate::engine::tape::Meter)).
    ///
    /// # Shapes
    /// `embedded: [batch, tokens, hidden]`, and the result alike.
    pub fn trace(&self, embedded: &TapeTensor) -> Result<TapeTensor, EngineError> {
        let tokens = embedded.tensor().dim(1)?;
        let positions = self.position_embedding.narrow(0, 0, tokens)?;
        let mask = causal_mask(tokens, self.device())?;
        let mut x = ops::add_constant(embedded, &positions)?;
        for layer in &self.layers {
            x = layer.forward(&x, Some(&mask))?;
        }
        Ok(self.final_layer_norm.forward(&x)?)
    }

    fn device(&self) -> &Device {
        self.token_embedding.device()
    }
}

/// A large negative number rather than infinity, so that no row can become NaN.
fn causal_mask(tokens: usize, device: &Device) -> Result<Tensor, EngineError> {
    let mask: Vec<f32> = (0..tokens)
        .flat_map(|row| (0..tokens).map(move |column| if column > row { f32::MIN } else { 0.0 }))
        .collect();
    Ok(Tensor::from_vec(mask, (tokens, tokens), device)?)
}

/// transformers `CLIPVisionModel`.
#[derive(Debug)]
struct ClipVisionModel {
    config: ClipVisionConfig,
    class_embedding: Tensor,
    patch_embedding: Conv2d,
    position_embedding: Tensor,
    pre_layer_norm: LayerNorm,
    layers: Vec<EncoderLayer>,
    post_layer_norm: LayerNorm,
}

impl ClipVisionModel {
    fn new(w: &Weights, config: &ClipVisionConfig) -> Result<Self, EngineError> {
        let ClipTowerConfig { hidden_size: hidden, layer_norm_eps: eps, .. } = config.tower;
        let patches = (config.image_size / config.patch_size).pow(2);
        let patch = Conv2dSize {
            inputs: config.num_channels,
            outputs: hidden,
            kernel: config.patch_size,
            stride: config.patch_size,
            padding: 0,
        };
        let embeddings = w.at("embeddings");
        Ok(Self {
            class_embedding: embeddings.take("class_embedding", &[hidden])?,
            patch_embedding: Conv2d::without_bias(&embeddings.at("patch_embedding"), patch)?,
            position_embedding: embeddings
                .take("position_embedding.weight", &[patches + 1, hidden])?,
            // The spelling is the checkpoint's.
            pre_layer_norm: LayerNorm::new(&w.at("pre_layrnorm"), hidden, eps)?,
            layers: encoder_layers(w, &config.tower)?,
            post_layer_norm: LayerNorm::new(&w.at("post_layernorm"), hidden, eps)?,
            config: config.clone(),
        })
    }

    /// The pooled class token, `[batch, hidden]`.
    fn forward(&self, pixels: &Tensor) -> Result<Tensor, EngineError> {
        let batch = pixels.dim(0)?;
        let hidden = self.config.tower.hidden_size;
        let patches = self
            .patch_embedding
            .forward(&TapeTensor::no_grad(pixels))?
            .into_tensor()
            .reshape((batch, hidden, ()))?
            .transpose(1, 2)?
            .contiguous()?;
        let class = self.class_embedding.reshape((1, 1, hidden))?.expand((batch, 1, hidden))?;
        let embedded =
            Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.position_embedding)?;
        let mut x = self.pre_layer_norm.forward(&TapeTensor::no_grad(&embedded))?;
        for layer in &self.layers {
            x = layer.forward(&x, None)?;
        }
        let class = x.tensor().i((.., 0, ..))?.contiguous()?;
        Ok(self.post_layer_norm.forward(&TapeTensor::no_grad(&class))?.into_tensor())
    }
}

/// transformers `CLIPModel`: both towers and their projections into one space.
#[derive(Debug)]
pub struct ClipModel {
    text: ClipTextModel,
    vision: ClipVisionModel,
    text_projection: Linear,
    visual_projection: Linear,
    logit_scale: f64,
}

impl ClipModel {
    /// Both towers of a component.
    pub fn new(w: &Weights, config: &ClipConfig) -> Result<Self, EngineError> {
        let projected = config.projection_dim;
        let logit_scale = w.take("logit_scale", &[])?.to_scalar::<f32>()?;
        let model = Self {
            text: ClipTextModel::tower(&w.at("text_model"), &config.text)?,
            vision: ClipVisionModel::new(&w.at("vision_model"), &config.vision)?,
            text_projection: Linear::without_bias(
                &w.at("text_projection"),
                config.text.tower.hidden_size,
                projected,
            )?,
            visual_projection: Linear::without_bias(
                &w.at("visual_projection"),
                config.vision.tower.hidden_size,
                projected,
            )?,
            logit_scale: f64::from(logit_scale).exp(),
        };
        w.pass_over(|name| name.ends_with("position_ids"));
        Ok(model)
    }

    /// How messages name the component.
    pub fn location(&self) -> &str {
        &self.text.location
    }

    /// Pixels a side that the image tower reads.
    pub fn image_size(&self) -> usize {
        self.vision.config.image_size
    }

    /// Numbers that a picture's way through the image tower holds at most.
    pub fn working_numbers_a_picture(&self) -> u64 {
        let config = &self.vision.config;
        let tower = config.tower;
        let patches = (config.image_size / config.patch_size.max(1)).pow(2) + 1;
        let pixels = 2 * config.num_channels * config.image_size * config.image_size;
        (pixels + patches * (6 * tower.hidden_size + 2 * tower.intermediate_size)) as u64
    }

    /// The learned temperature, already exponentiated: cosines times this are logits.
    pub fn logit_scale(&self) -> f64 {
        self.logit_scale
    }

    /// Unit vectors, `[batch, projection]`, of prompts given as token ids; the text is pooled at
    /// its first end-of-text token.
    pub fn text_features(&self, ids: &[Vec<u32>]) -> Result<Tensor, EngineError> {
        let hidden = self.text.forward(ids)?;
        let end = self.text.config.eos_token_id;
        let pooled = ids
            .iter()
            .enumerate()
            .map(|(row, ids)| {
                // Configs of the first CLIP release say 2 here and mean the largest id.
                let position = if end == 2 {
                    let largest = ids.iter().max();
                    ids.iter().position(|id| Some(id) == largest)
                } else {
                    ids.iter().position(|id| *id == end)
                };
                hidden.i((row, position.unwrap_or(0)))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let pooled = TapeTensor::no_grad(&Tensor::stack(&pooled, 0)?);
        unit(self.text_projection.forward(&pooled)?.tensor())
    }

    /// Unit vectors, `[batch, projection]`, of normalised pixels `[batch, 3, size, size]`.
    pub fn image_features(&self, pixels: &Tensor) -> Result<Tensor, EngineError> {
        let pooled = TapeTensor::no_grad(&self.vision.forward(pixels)?);
        unit(self.visual_projection.forward(&pooled)?.tensor())
    }
}

fn unit(x: &Tensor) -> Result<Tensor, EngineError> {
    Ok(x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?)
}
