//! `vae/config.json`: diffusers `AutoencoderKL`.

use serde_json::json;

use super::fields::{Fields, MAX_CHANNELS, MAX_LAYERS, affordable, divisible, refuse, within};
use crate::engine::EngineError;

/// The shape of an autoencoder.
#[derive(Debug, Clone, PartialEq)]
pub struct VaeConfig {
    /// Channels of the pictures that go in.
    pub in_channels: usize,
    /// Channels of the pictures that come out.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of each level, from the full resolution down.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks a level of the encoder; one more in the decoder.
    pub layers_per_block: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// What latents are multiplied by for the U-Net.
    pub scaling_factor: f64,
    /// Whether the encoder ends in a 1×1 convolution.
    pub use_quant_conv: bool,
    /// Whether the decoder begins with a 1×1 convolution.
    pub use_post_quant_conv: bool,
    /// Whether the middle blocks attend.
    pub mid_block_add_attention: bool,
}

impl VaeConfig {
    /// Reads and checks a `config.json`; `file` names it in errors.
    pub fn parse(json: &str, file: &str) -> Result<Self, EngineError> {
        let fields = Fields::parse(json, file)?;
        fields.expect_class("_class_name", "AutoencoderKL")?;
        fields.expect_only(&[
            ("act_fn", json!("silu")),
            ("shift_factor", json!(null)),
            ("latents_mean", json!(null)),
            ("latents_std", json!(null)),
        ])?;
        // Asks for f32 where the pipeline runs in f16: ours always is f32.
        fields.flag("force_upcast", true)?;
        let block_out_channels = fields.sizes("block_out_channels", &[64])?;
        let down = fields.choices("down_block_types", &[()], &[("DownEncoderBlock2D", ())])?;
        let up = fields.choices("up_block_types", &[()], &[("UpDecoderBlock2D", ())])?;
        for (field, length) in [("down_block_types", down.len()), ("up_block_types", up.len())] {
            if length != block_out_channels.len() {
                return Err(refuse(
                    file,
                    format!(
                        "{field} lists {length} levels, block_out_channels lists {}; they must be as many",
                        block_out_channels.len()
                    ),
                ));
            }
        }
        let config = Self {
            in_channels: fields.size("in_channels", 3)?,
            out_channels: fields.size("out_channels", 3)?,
            latent_channels: fields.size("latent_channels", 4)?,
            block_out_channels,
            layers_per_block: fields.size("layers_per_block", 1)?,
            norm_num_groups: fields.size("norm_num_groups", 32)?,
            scaling_factor: fields.number("scaling_factor", 0.18215)?,
            use_quant_conv: fields.flag("use_quant_conv", true)?,
            use_post_quant_conv: fields.flag("use_post_quant_conv", true)?,
            mid_block_add_attention: fields.flag("mid_block_add_attention", true)?,
        };
        config.validate(file)?;
        Ok(config)
    }

    /// Refuses sizes that do not fit together or that no machine can hold, before any of them is
    /// allocated.
    pub fn validate(&self, file: &str) -> Result<(), EngineError> {
        within(file, "the length of block_out_channels", self.block_out_channels.len(), 1..=8)?;
        // Pictures are RGB all the way to the PNG.
        within(file, "in_channels", self.in_channels, 3..=3)?;
        within(file, "out_channels", self.out_channels, 3..=3)?;
        within(file, "latent_channels", self.latent_channels, 1..=MAX_CHANNELS)?;
        within(file, "layers_per_block", self.layers_per_block, 1..=MAX_LAYERS)?;
        within(file, "norm_num_groups", self.norm_num_groups, 1..=MAX_CHANNELS)?;
        within(file, "scaling_factor", self.scaling_factor, 1e-6..=1e6)?;
        for (level, &channels) in self.block_out_channels.iter().enumerate() {
            let field = format!("block_out_channels[{level}]");
            within(file, &field, channels, 1..=MAX_CHANNELS)?;
            divisible(file, &field, channels, "norm_num_groups", self.norm_num_groups)?;
        }
        affordable(file, self.parameters())
    }

    /// About how many weights encoder and decoder have. Floating point, since hostile sizes
    /// overflow.
    fn parameters(&self) -> f64 {
        let layers = self.layers_per_block as f64;
        let residual = |from: f64, to: f64| 9.0 * to * (from + to) + from * to;
        let mut previous = self.block_out_channels[0] as f64;
        let mut sum = 0.0;
        for &channels in &self.block_out_channels {
            let channels = channels as f64;
            sum += residual(previous, channels) + residual(channels, previous);
            sum += (2.0 * layers - 1.0) * residual(channels, channels);
            sum += 18.0 * channels * channels;
            previous = channels;
        }
        // Both middle blocks: two residual blocks and an attention each; then the latents' ends.
        sum + 4.0 * residual(previous, previous)
            + 8.0 * previous * previous
            + 36.0 * previous * self.latent_channels as f64
    }
}
