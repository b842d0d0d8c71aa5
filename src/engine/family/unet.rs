//! The U-Net of Stable Diffusion.

use std::sync::Arc;

use candle_core::DType;

use super::{
    conditioning::Prompts,
    config::{BlockKind, UnetConfig},
    denoiser::Denoiser,
};
use crate::engine::{
    EngineError,
    nn::{
        BlockInputs, Conv2d, Conv2dSize, DownBlock, GroupNormLayer, KeyValue, Linear, MemoryPolicy,
        MidBlock, ResnetSize, Segment, Text, Transformer, TransformerSize, UpBlock, Weights,
        sinusoidal_embedding,
    },
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
            let attention = (*kind == BlockKind::CrossAttention).then(|| transformer(level));
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
            let attention = (*kind == BlockKind::CrossAttention).then(|| transformer(level));
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

    /// In the order in which they run.
    fn segments(&mut self) -> impl Iterator<Item = &mut Segment> {
        let down = self.down_blocks.iter_mut().flat_map(|block| &mut block.residuals);
        let up = self.up_blocks.iter_mut().flat_map(UpBlock::segments);
        down.chain(&mut self.mid_block.residuals).chain(up)
    }

    /// In the order in which they run.
    fn transformers(&self) -> impl Iterator<Item = &Transformer> {
        let down = self.down_blocks.iter().flat_map(|block| &block.residuals);
        let up = self.up_blocks.iter().flat_map(|block| &block.residuals);
        down.chain(&self.mid_block.residuals).chain(up).filter_map(Segment::transformer)
    }

    /// The architecture.
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }
}

impl Denoiser for Unet {
    fn location(&self) -> &str {
        &self.location
    }

    /// # Shapes
    /// `sample: [batch, in, h, w]`, states `[batch, tokens, cross_attention_dim]`, result `[batch, out,
    /// h, w]`.
    fn predict(
        &self,
        sample: &TapeTensor,
        timesteps: &[f64],
        prompts: Prompts<'_>,
    ) -> candle_core::Result<TapeTensor> {
        let text = match prompts.text {
            Text::States(states) => Text::States(ops::cast(&states, self.dtype)?),
            projected @ Text::Projected { .. } => projected,
        };
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
        let inputs = &mut BlockInputs { activated_time: &activated_time, text };

        let mut x = self.conv_in.forward(sample)?;
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.forward(x, inputs, &mut skips)?;
        }
        x = self.mid_block.forward(x, inputs)?;
        for block in &self.up_blocks {
            x = block.forward(x, inputs, &mut skips)?;
        }
        let output = self.conv_out.forward(&self.conv_norm_out.forward(&x)?)?;
        ops::cast(&output, DType::F32)
    }

    fn project_text(&self, states: &TapeTensor) -> candle_core::Result<Option<Vec<KeyValue>>> {
        let states = &ops::cast(states, self.dtype)?;
        let blocks = self.transformers().flat_map(|transformer| transformer.project_text(states));
        blocks.collect::<candle_core::Result<_>>().map(Some)
    }

    fn projected_numbers(&self, tokens: usize) -> Option<usize> {
        Some(tokens * self.transformers().map(Transformer::projected_channels).sum::<usize>())
    }

    fn gradient_scale(&self) -> f64 {
        // A power of two changes no digit. Gradients of a mean over a latent start at about 1e-4.
        if self.dtype == DType::F16 { 1024.0 } else { 1.0 }
    }

    fn segment_count(&self) -> usize {
        self.clone().segments().count()
    }

    fn memory_policy(&self) -> &MemoryPolicy {
        &self.memory_policy
    }

    fn with_memory_policy(&self, memory_policy: MemoryPolicy) -> Arc<dyn Denoiser> {
        let mut unet = self.clone();
        for (index, segment) in unet.segments().enumerate() {
            segment.recomputed = memory_policy.recomputed.contains(&index);
        }
        unet.memory_policy = memory_policy;
        Arc::new(unet)
    }
}
