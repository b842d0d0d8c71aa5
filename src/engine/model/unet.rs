//! The denoiser.

use candle_core::{DType, Device, Tensor};

use super::{
    ProjectedText, UnetConfig, Weights,
    config::{DownBlockKind, UpBlockKind},
    layers::{Conv2d, Conv2dSize, GroupNormLayer, Linear},
    projected_text::{Text, distinct_rows},
    resnet::ResnetSize,
    segments::{Conditioning, MemoryPolicy, Segment},
    transformer::{Transformer, TransformerSize},
    unet_blocks::{DownBlock, MidBlock, UpBlock},
};
use crate::engine::{
    EngineError, finite,
    ops::{self, GroupNorm},
    tape::TapeTensor,
};

/// diffusers `UNet2DConditionModel` of Stable Diffusion 1.x and 2.x.
#[derive(Debug, Clone)]
pub struct Unet {
    location: String,
    config: UnetConfig,
    memory_policy: MemoryPolicy,
    /// What activations are held in.
    dtype: DType,
    conv_in: Conv2d,
    time_linear_1: Linear,
    time_linear_2: Linear,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNormLayer,
    conv_out: Conv2d,
}

impl Unet {
    /// Takes every tensor of the component and refuses one that is left over.
    pub fn new(w: &Weights, config: &UnetConfig) -> Result<Self, EngineError> {
        let channels = &config.block_out_channels;
        let levels = channels.len();
        let first = channels[0];
        let time = first * 4;
        let resnet = |inputs, outputs| ResnetSize {
            inputs,
            outputs,
            time: Some(time),
            groups: config.norm_num_groups,
            eps: config.norm_eps,
        };
        let transformer = |level: usize| TransformerSize {
            channels: channels[level],
            heads: config.heads[level],
            layers: config.transformer_layers[level],
            cross_attention_dim: config.cross_attention_dim,
            groups: config.norm_num_groups,
            use_linear_projection: config.use_linear_projection,
        };

        let mut down_blocks = Vec::with_capacity(levels);
        // Channels of every skip connection, in the order in which the way down pushes them.
        let mut skip_channels = vec![first];
        let mut inputs = first;
        for (level, kind) in config.down_blocks.iter().enumerate() {
            let outputs = channels[level];
            let sizes: Vec<_> = (0..config.layers_per_block)
                .map(|layer| resnet(if layer == 0 { inputs } else { outputs }, outputs))
                .collect();
            let attention = (*kind == DownBlockKind::CrossAttention).then(|| transformer(level));
            let downsample = level + 1 < levels;
            let at = w.at("down_blocks").at(level);
            down_blocks.push(DownBlock::new(&at, &sizes, attention, downsample)?);
            skip_channels.extend(sizes.iter().map(|size| size.outputs));
            if downsample {
                skip_channels.push(outputs);
            }
            inputs = outputs;
        }

        let last = levels - 1;
        let mid_block = MidBlock::new(
            &w.at("mid_block"),
            resnet(channels[last], channels[last]),
            transformer(last),
        )?;

        let mut up_blocks = Vec::with_capacity(levels);
        let mut inputs = channels[last];
        for (index, kind) in config.up_blocks.iter().enumerate() {
            let level = last - index;
            let outputs = channels[level];
            let sizes: Vec<_> = (0..=config.layers_per_block)
                .map(|layer| {
                    let skip = skip_channels.pop().unwrap_or(0);
                    resnet(skip + if layer == 0 { inputs } else { outputs }, outputs)
                })
                .collect();
            let attention = (*kind == UpBlockKind::CrossAttention).then(|| transformer(level));
            let at = w.at("up_blocks").at(index);
            up_blocks.push(UpBlock::new(&at, &sizes, attention, level > 0)?);
            inputs = outputs;
        }

        let norm_out =
            GroupNorm { groups: config.norm_num_groups, eps: config.norm_eps, silu: true };
        let unet = Self {
            location: w.location().to_owned(),
            conv_in: Conv2d::new(&w.at("conv_in"), Conv2dSize::same(config.in_channels, first))?,
            time_linear_1: Linear::new(&w.at("time_embedding.linear_1"), first, time)?,
            time_linear_2: Linear::new(&w.at("time_embedding.linear_2"), time, time)?,
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNormLayer::new(&w.at("conv_norm_out"), first, norm_out)?,
            conv_out: Conv2d::new(&w.at("conv_out"), Conv2dSize::same(first, config.out_channels))?,
            config: config.clone(),
            memory_policy: MemoryPolicy::default(),
            dtype: w.compute_type(),
        };
        Ok(unet)
    }

    /// The same network, that saves memory at the cost of time.
    #[must_use]
    pub fn with_memory_policy(mut self, memory_policy: MemoryPolicy) -> Self {
        for (index, segment) in self.segments().enumerate() {
            segment.recomputed = memory_policy.recomputed.contains(&index);
        }
        self.memory_policy = memory_policy;
        self
    }

    /// How it saves memory.
    pub fn memory_policy(&self) -> &MemoryPolicy {
        &self.memory_policy
    }

    /// How many parts a backward pass can do again.
    pub fn segment_count(&self) -> usize {
        self.clone().segments().count()
    }

    /// In the order in which they run.
    fn segments(&mut self) -> impl Iterator<Item = &mut Segment> {
        let down = self.down_blocks.iter_mut().flat_map(DownBlock::segments);
        let up = self.up_blocks.iter_mut().flat_map(UpBlock::segments);
        down.chain(self.mid_block.segments()).chain(up)
    }

    /// In the order in which they run.
    fn transformers(&self) -> impl Iterator<Item = &Transformer> {
        let down = self.down_blocks.iter().flat_map(DownBlock::transformers);
        let up = self.up_blocks.iter().flat_map(UpBlock::transformers);
        down.chain(self.mid_block.transformers()).chain(up)
    }

    /// The architecture.
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// What the prediction's gradient must be multiplied by on its way in, and the variables'
    /// gradients divided by when it has come out: in `f16` small ones would vanish.
    pub fn gradient_scale(&self) -> f64 {
        // A power of two changes no digit. Gradients of a mean over a latent start at about 1e-4.
        if self.dtype == DType::F16 { 1024.0 } else { 1.0 }
    }

    /// Predicts noise (or velocity, as the scheduler's config says). Keeps nothing for gradients.
    ///
    /// # Shapes
    /// `sample: [batch, in, h, w]`, one timestep a sample, `text: [batch, tokens,
    /// cross_attention_dim]`, result `[batch, out, h, w]`.
    pub fn forward(
        &self,
        sample: &Tensor,
        timesteps: &[f64],
        text: &Tensor,
    ) -> Result<Tensor, EngineError> {
        let sample = TapeTensor::no_grad(sample);
        Ok(ops::in_pool(|| self.project_and_predict(&sample, timesteps, text))?.into_tensor())
    }

    /// Projects prompts for any number of predictions by [`Unet::forward_projected`], each that
    /// differs from the others once.
    ///
    /// # Shapes
    /// `text: [batch, tokens, cross_attention_dim]`.
    pub fn project_text(&self, text: &Tensor) -> Result<ProjectedText, EngineError> {
        let (distinct, rows) = distinct_rows(text)?;
        let distinct = Tensor::new(distinct, text.device())?;
        let text = TapeTensor::no_grad(&text.index_select(&distinct, 0)?);
        let blocks = ops::in_pool(|| {
            let text = &ops::cast(&text, self.dtype)?;
            self.transformers()
                .flat_map(|transformer| transformer.project_text(text))
                .collect::<candle_core::Result<_>>()
        })?;
        Ok(ProjectedText::new(blocks, rows))
    }

    /// [`Unet::forward`] under prompts that this network has projected, with the weights that it
    /// still has; a row a sample. A prediction that is not finite is an error.
    pub fn forward_projected(
        &self,
        sample: &Tensor,
        timesteps: &[f64],
        text: &ProjectedText,
    ) -> Result<Tensor, EngineError> {
        let sample = TapeTensor::no_grad(sample);
        let predict = || self.predict(&sample, timesteps, text.text()?);
        let prediction = ops::in_pool(predict)?.into_tensor();
        finite::check(&self.location, "a prediction", &prediction)?;
        Ok(prediction)
    }

    /// The same prediction, from which gradients flow back to the network's variables.
    pub fn trace(
        &self,
        sample: &Tensor,
        timesteps: &[f64],
        text: &Tensor,
    ) -> Result<TapeTensor, EngineError> {
        let sample = TapeTensor::constant(sample);
        Ok(ops::in_pool(|| self.project_and_predict(&sample, timesteps, text))?)
    }

    /// The same of a latent and hidden states that may be followed themselves, or that have a shape
    /// and no values: a dry run ([`Meter`](crate::engine::tape::Meter)). Gradients of frozen weights are not computed.
    pub fn trace_inputs(
        &self,
        sample: &TapeTensor,
        timesteps: &[f64],
        text: &TapeTensor,
    ) -> Result<TapeTensor, EngineError> {
        let predict = || {
            let text = ops::cast(text, self.dtype)?;
            self.predict(sample, timesteps, Text::States(&text))
        };
        Ok(ops::in_pool(predict)?)
    }

    /// Numbers of the keys and values that [`Unet::project_text`] makes of a prompt's `tokens`.
    pub fn projected_numbers(&self, tokens: usize) -> usize {
        tokens * self.transformers().map(Transformer::projected_channels).sum::<usize>()
    }

    fn project_and_predict(
        &self,
        sample: &TapeTensor,
        timesteps: &[f64],
        text: &Tensor,
    ) -> candle_core::Result<TapeTensor> {
        let text = ops::cast(&sample.with_same_tracking(text)?, self.dtype)?;
        self.predict(sample, timesteps, Text::States(&text))
    }

    fn predict(
        &self,
        sample: &TapeTensor,
        timesteps: &[f64],
        text: Text<'_>,
    ) -> candle_core::Result<TapeTensor> {
        let embedding = sinusoidal_embedding(
            timesteps,
            self.config.block_out_channels[0],
            self.config.flip_sin_to_cos,
            self.config.freq_shift,
            sample.tensor().device(),
        )?;
        // Latents and the embedding come in f32, as hidden states do, and the prediction leaves as that.
        let embedding = ops::cast(&sample.with_same_tracking(&embedding)?, self.dtype)?;
        let sample = &ops::cast(sample, self.dtype)?;
        let time =
            self.time_linear_2.forward(&ops::silu(&self.time_linear_1.forward(&embedding)?)?)?;
        let activated_time = ops::silu(&time)?;
        let conditioning = &mut Conditioning { activated_time: &activated_time, text };

        let mut x = self.conv_in.forward(sample)?;
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.forward(x, conditioning, &mut skips)?;
        }
        x = self.mid_block.forward(x, conditioning)?;
        for block in &self.up_blocks {
            x = block.forward(x, conditioning, &mut skips)?;
        }
        let output = self.conv_out.forward(&self.conv_norm_out.forward(&x)?)?;
        ops::cast(&output, DType::F32)
    }
}

/// diffusers `get_timestep_embedding`, computed in f64 so that no timestep is rounded.
fn sinusoidal_embedding(
    timesteps: &[f64],
    channels: usize,
    flip_sin_to_cos: bool,
    freq_shift: f64,
    device: &Device,
) -> candle_core::Result<Tensor> {
    const MAX_PERIOD: f64 = 10_000.0;
    let half = channels / 2;
    let mut values = Vec::with_capacity(timesteps.len() * channels);
    for timestep in timesteps {
        let angle = |index: usize| {
            // The frequency is rounded to f32, as PyTorch's is; the product then agrees with it.
            let exponent = -MAX_PERIOD.ln() * index as f64 / (half as f64 - freq_shift);
            timestep * f64::from(exponent.exp() as f32)
        };
        let sines = (0..half).map(|index| angle(index).sin() as f32);
        let cosines = (0..half).map(|index| angle(index).cos() as f32);
        if flip_sin_to_cos {
            values.extend(cosines.chain(sines));
        } else {
            values.extend(sines.chain(cosines));
        }
        values.resize(values.len() + channels % 2, 0.0);
    }
    Tensor::from_vec(values, (timesteps.len(), channels), device)
}
