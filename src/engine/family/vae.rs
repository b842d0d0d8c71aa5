//! The autoencoder between pictures and latents.

use candle_core::Tensor;

use super::{config::VaeConfig, key_map, vae_tiles};
use crate::engine::{
    EngineError, finite,
    nn::{
        Conv2d, Conv2dSize, Downsample, GroupNormLayer, Linear, ResnetBlock, ResnetSize, Upsample,
        Weights,
    },
    ops::{self, GroupNorm},
    tape::TapeTensor,
};

const EPS: f64 = 1e-6;

/// diffusers `AutoencoderKL`.
#[derive(Debug)]
pub struct Vae {
    location: String,
    config: VaeConfig,
    /// None where the folder holds the decoder alone, which is enough to draw from noise.
    encoder: Option<Encoder>,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
}

/// The distribution that a picture is encoded to.
#[derive(Debug)]
pub struct LatentDistribution {
    /// `[batch, latent, h, w]`, unscaled.
    pub mean: Tensor,
    /// Logarithm of the variance, clamped to −30 … 20 as in diffusers.
    pub log_variance: Tensor,
}

impl LatentDistribution {
    /// Samples of it, from standard normal noise.
    ///
    /// # Shapes
    /// `noise: [samples, latent, h, w]`, of a distribution of one picture or of as many.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor, EngineError> {
        let deviation = (&self.log_variance * 0.5)?.exp()?;
        Ok(noise.broadcast_mul(&deviation)?.broadcast_add(&self.mean)?)
    }
}

impl Vae {
    /// Takes every tensor of the component; those of the encoder may all be absent.
    pub fn new(w: &Weights, config: &VaeConfig) -> Result<Self, EngineError> {
        let latent = config.latent_channels;
        let encodes = w.has_any_below("encoder");
        let vae = Self {
            location: w.location().to_owned(),
            encoder: encodes.then(|| Encoder::new(&w.at("encoder"), config)).transpose()?,
            decoder: Decoder::new(&w.at("decoder"), config)?,
            quant_conv: (encodes && config.use_quant_conv)
                .then(|| {
                    Conv2d::new(&w.at("quant_conv"), Conv2dSize::pointwise(latent * 2, latent * 2))
                })
                .transpose()?,
            post_quant_conv: config
                .use_post_quant_conv
                .then(|| {
                    Conv2d::new(&w.at("post_quant_conv"), Conv2dSize::pointwise(latent, latent))
                })
                .transpose()?,
            config: config.clone(),
        };
        Ok(vae)
    }

    /// The architecture.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Pixels a latent cell a side.
    pub fn factor(&self) -> usize {
        1 << (self.config.block_out_channels.len() - 1)
    }

    /// Fails where the folder holds no encoder.
    ///
    /// # Shapes
    /// Pictures in −1 … 1, `[batch, 3, H, W]`.
    pub fn encode(&self, pictures: &Tensor) -> Result<LatentDistribution, EngineError> {
        let moments = self.trace_encoding(&TapeTensor::no_grad(pictures))?;
        finite::check(&self.location, "a latent", moments.tensor())?;
        let halves = moments.tensor().chunk(2, 1)?;
        Ok(LatentDistribution {
            mean: halves[0].contiguous()?,
            log_variance: halves[1].clamp(-30.0, 20.0)?,
        })
    }

    /// Whether the folder holds an encoder.
    pub fn encodes(&self) -> bool {
        self.encoder.is_some()
    }

    /// Mean and logarithm of the variance, beside each other on the channels' axis, of pictures that
    /// may be followed, or that have a shape and no values: a dry run ([`Meter`](crate::engine::tape::Meter)).
    pub fn trace_encoding(&self, pictures: &TapeTensor) -> Result<TapeTensor, EngineError> {
        let encoder = self.encoder.as_ref().ok_or(EngineError::NoEncoder)?;
        let moments = ops::in_pool(|| encoder.forward(pictures))?;
        match &self.quant_conv {
            Some(quant_conv) => Ok(quant_conv.forward(&moments)?),
            None => Ok(moments),
        }
    }

    /// # Shapes
    /// Unscaled latents `[batch, latent, h, w]` to pictures, about −1 … 1, `[batch, 3, H, W]`.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor, EngineError> {
        let pictures = self.trace_decoding(&TapeTensor::no_grad(latents))?.into_tensor();
        finite::check(&self.location, "a picture", &pictures)?;
        Ok(pictures)
    }

    /// The same of latents that may be followed, or that have a shape and no values: a dry run
    /// ([`Meter`](crate::engine::tape::Meter)).
    pub fn trace_decoding(&self, latents: &TapeTensor) -> Result<TapeTensor, EngineError> {
        let quantised = match &self.post_quant_conv {
            Some(conv) => &conv.forward(latents)?,
            None => latents,
        };
        ops::in_pool(|| self.decoder.forward(quantised))
    }
}

impl Vae {
    /// [`Vae::decode`] in tiles of 512 pixels a side that overlap by a quarter: it takes no more
    /// memory for a large picture than for a tile, and gives another picture.
    pub fn decode_tiled(&self, latents: &Tensor) -> Result<Tensor, EngineError> {
        vae_tiles::decode_tiled(latents, self.factor(), |tile| self.decode(tile))
    }
}

fn resnet(
    w: &Weights,
    config: &VaeConfig,
    inputs: usize,
    outputs: usize,
) -> Result<ResnetBlock, EngineError> {
    let size = ResnetSize { inputs, outputs, time: None, groups: config.norm_num_groups, eps: EPS };
    ResnetBlock::new(w, size)
}

/// diffusers `Attention` in the autoencoder's middle: one head over all pixels, residual.
#[derive(Debug)]
struct PixelAttention {
    group_norm: GroupNormLayer,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl PixelAttention {
    fn new(w: &Weights, channels: usize, groups: usize) -> Result<Self, EngineError> {
        let norm = GroupNorm { groups, eps: EPS, silu: false };
        let names = key_map::autoencoder_attention(w);
        let linear = |name: &str| Linear::new(&w.at(name), channels, channels);
        Ok(Self {
            group_norm: GroupNormLayer::new(&w.at("group_norm"), channels, norm)?,
            to_q: linear(names.query)?,
            to_k: linear(names.key)?,
            to_v: linear(names.value)?,
            to_out: linear(names.out)?,
        })
    }

    fn forward(&self, x: &TapeTensor) -> Result<TapeTensor, EngineError> {
        let (batch, channels, height, width) = x.tensor().dims4()?;
        let planes = |x: &TapeTensor| ops::reshape(x, (batch, channels, height * width));
        let sequence = ops::transpose(&planes(&self.group_norm.forward(x)?)?)?;
        let (query, key, value) = (
            self.to_q.forward(&sequence)?,
            self.to_k.forward(&sequence)?,
            self.to_v.forward(&sequence)?,
        );
        let attended = ops::attention(&query, &key, &value, 1, None)?;
        let sum = self.to_out.forward_onto_planes(&planes(x)?, &attended)?;
        Ok(ops::reshape(&sum, x.tensor().shape().clone())?)
    }
}

/// diffusers `UNetMidBlock2D`.
#[derive(Debug)]
struct MidBlock {
    resnet_0: ResnetBlock,
    attention: Option<PixelAttention>,
    resnet_1: ResnetBlock,
}

impl MidBlock {
    fn new(w: &Weights, config: &VaeConfig, channels: usize) -> Result<Self, EngineError> {
        Ok(Self {
            resnet_0: resnet(&w.at("resnets.0"), config, channels, channels)?,
            attention: config
                .mid_block_add_attention
                .then(|| {
                    PixelAttention::new(&w.at("attentions.0"), channels, config.norm_num_groups)
                })
                .transpose()?,
            resnet_1: resnet(&w.at("resnets.1"), config, channels, channels)?,
        })
    }

    fn forward(&self, x: &TapeTensor) -> Result<TapeTensor, EngineError> {
        let mut x = self.resnet_0.forward(x, None)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x)?;
        }
        Ok(self.resnet_1.forward(&x, None)?)
    }
}

/// A level of the encoder or the decoder.
#[derive(Debug)]
struct Level<Resample> {
    resnets: Vec<ResnetBlock>,
    resample: Option<Resample>,
}

#[derive(Debug)]
struct Encoder {
    conv_in: Conv2d,
    levels: Vec<Level<Downsample>>,
    mid_block: MidBlock,
    conv_norm_out: GroupNormLayer,
    conv_out: Conv2d,
}

impl Encoder {
    fn new(w: &Weights, config: &VaeConfig) -> Result<Self, EngineError> {
        let channels = &config.block_out_channels;
        let last = channels[channels.len() - 1];
        let mut inputs = channels[0];
        let mut levels = Vec::with_capacity(channels.len());
        for (level, &outputs) in channels.iter().enumerate() {
            let w = w.at("down_blocks").at(level);
            let resnets = (0..config.layers_per_block).map(|layer| {
                let inputs = if layer == 0 { inputs } else { outputs };
                resnet(&w.at("resnets").at(layer), config, inputs, outputs)
            });
            levels.push(Level {
                resnets: resnets.collect::<Result<_, _>>()?,
                resample: (level + 1 < channels.len())
                    .then(|| Downsample::new(&w.at("downsamplers.0"), outputs, true))
                    .transpose()?,
            });
            inputs = outputs;
        }
        let norm = GroupNorm { groups: config.norm_num_groups, eps: EPS, silu: true };
        let moments = config.latent_channels * 2;
        Ok(Self {
            conv_in: Conv2d::new(
                &w.at("conv_in"),
                Conv2dSize::same(config.in_channels, channels[0]),
            )?,
            levels,
            mid_block: MidBlock::new(&w.at("mid_block"), config, last)?,
            conv_norm_out: GroupNormLayer::new(&w.at("conv_norm_out"), last, norm)?,
            conv_out: Conv2d::new(&w.at("conv_out"), Conv2dSize::same(last, moments))?,
        })
    }

    fn forward(&self, pictures: &TapeTensor) -> Result<TapeTensor, EngineError> {
        let mut x = self.conv_in.forward(pictures)?;
        for level in &self.levels {
            for resnet in &level.resnets {
                x = resnet.forward(&x, None)?;
            }
            if let Some(downsample) = &level.resample {
                x = downsample.forward(&x)?;
            }
        }
        x = self.mid_block.forward(&x)?;
        Ok(self.conv_out.forward(&self.conv_norm_out.forward(&x)?)?)
    }
}

#[derive(Debug)]
struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    levels: Vec<Level<Upsample>>,
    conv_norm_out: GroupNormLayer,
    conv_out: Conv2d,
}

impl Decoder {
    fn new(w: &Weights, config: &VaeConfig) -> Result<Self, EngineError> {
        let channels = &config.block_out_channels;
        let last = channels[channels.len() - 1];
        let mut inputs = last;
        let mut levels = Vec::with_capacity(channels.len());
        for (level, &outputs) in channels.iter().rev().enumerate() {
            let w = w.at("up_blocks").at(level);
            let resnets = (0..=config.layers_per_block).map(|layer| {
                let inputs = if layer == 0 { inputs } else { outputs };
                resnet(&w.at("resnets").at(layer), config, inputs, outputs)
            });
            levels.push(Level {
                resnets: resnets.collect::<Result<_, _>>()?,
                resample: (level + 1 < channels.len())
                    .then(|| Upsample::new(&w.at("upsamplers.0"), outputs))
                    .transpose()?,
            });
            inputs = outputs;
        }
        let norm = GroupNorm { groups: config.norm_num_groups, eps: EPS, silu: true };
        Ok(Self {
            conv_in: Conv2d::new(&w.at("conv_in"), Conv2dSize::same(config.latent_channels, last))?,
            mid_block: MidBlock::new(&w.at("mid_block"), config, last)?,
            levels,
            conv_norm_out: GroupNormLayer::new(&w.at("conv_norm_out"), channels[0], norm)?,
            conv_out: Conv2d::new(
                &w.at("conv_out"),
                Conv2dSize::same(channels[0], config.out_channels),
            )?,
        })
    }

    fn forward(&self, latents: &TapeTensor) -> Result<TapeTensor, EngineError> {
        let mut x = self.mid_block.forward(&self.conv_in.forward(latents)?)?;
        for level in &self.levels {
            for resnet in &level.resnets {
                x = resnet.forward(&x, None)?;
            }
            if let Some(upsample) = &level.resample {
                x = upsample.forward(&x, None)?;
            }
        }
        Ok(self.conv_out.forward(&self.conv_norm_out.forward(&x)?)?)
    }
}
