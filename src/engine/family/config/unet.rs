//! `unet/config.json`: diffusers `UNet2DConditionModel`.

use serde_json::json;

use super::fields::{
    Fields, MAX_CHANNELS, MAX_LAYERS, Sides, affordable, divisible, refuse, within,
};
use crate::engine::EngineError;

/// A level, on the way down or up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// `CrossAttnDownBlock2D` or `CrossAttnUpBlock2D`: a transformer after each residual block.
    CrossAttention,
    /// `DownBlock2D` or `UpBlock2D`: residual blocks only.
    Plain,
}

impl BlockKind {
    const DOWN: [(&'static str, Self); 2] =
        [("CrossAttnDownBlock2D", Self::CrossAttention), ("DownBlock2D", Self::Plain)];
    const UP: [(&'static str, Self); 2] =
        [("CrossAttnUpBlock2D", Self::CrossAttention), ("UpBlock2D", Self::Plain)];
}

/// The shape of a U-Net.
#[derive(Debug, Clone, PartialEq)]
pub struct UnetConfig {
    /// Channels of the latents that go in.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Height and width of the latents that the model was trained at, where the file says.
    pub sample_size: Option<[usize; 2]>,
    /// What the file says in its place, where that is not believed.
    pub mended_sample_size: Option<usize>,
    /// Channels of each level, from the full resolution down.
    pub block_out_channels: Vec<usize>,
    /// The levels on the way down.
    pub down_blocks: Vec<BlockKind>,
    /// The levels on the way up, so the lowest resolution first.
    pub up_blocks: Vec<BlockKind>,
    /// Residual blocks a level on the way down; one more on the way up.
    pub layers_per_block: usize,
    /// Width of the text encoder's states.
    pub cross_attention_dim: usize,
    /// Attention heads of each level, in the order of `block_out_channels`.
    pub heads: Vec<usize>,
    /// Transformer layers of each level, in the order of `block_out_channels`.
    pub transformer_layers: Vec<usize>,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Epsilon of the residual blocks' group norms.
    pub norm_eps: f64,
    /// Whether the transformers project with linear layers instead of 1×1 convolutions.
    pub use_linear_projection: bool,
    /// Whether the timestep embedding has its cosines first.
    pub flip_sin_to_cos: bool,
    /// Shift of the timestep embedding's frequencies.
    pub freq_shift: f64,
}

impl UnetConfig {
    /// Reads and checks a `config.json`; `file` names it in errors.
    pub fn parse(json: &str, file: &str) -> Result<Self, EngineError> {
        use BlockKind::{CrossAttention, Plain};

        let fields = Fields::parse(json, file)?;
        fields.expect_class("_class_name", "UNet2DConditionModel")?;
        refuse_other_pipelines(&fields, file)?;
        fields.expect_only(&[
            ("mid_block_type", json!("UNetMidBlock2DCrossAttn")),
            ("act_fn", json!("silu")),
            ("downsample_padding", json!(1)),
            ("mid_block_scale_factor", json!(1)),
            ("dropout", json!(0)),
            ("center_input_sample", json!(false)),
            ("only_cross_attention", json!(false)),
            ("mid_block_only_cross_attention", json!(false)),
            ("dual_cross_attention", json!(false)),
            ("cross_attention_norm", json!(null)),
            ("attention_type", json!("default")),
            ("class_embed_type", json!(null)),
            ("num_class_embeds", json!(null)),
            ("class_embeddings_concat", json!(false)),
            ("encoder_hid_dim", json!(null)),
            ("encoder_hid_dim_type", json!(null)),
            ("num_attention_heads", json!(null)),
            ("resnet_time_scale_shift", json!("default")),
            ("resnet_skip_time_act", json!(false)),
            ("resnet_out_scale_factor", json!(1)),
            ("time_embedding_type", json!("positional")),
            ("time_embedding_dim", json!(null)),
            ("time_embedding_act_fn", json!(null)),
            ("timestep_post_act", json!(null)),
            ("time_cond_proj_dim", json!(null)),
            ("reverse_transformer_layers_per_block", json!(null)),
            ("conv_in_kernel", json!(3)),
            ("conv_out_kernel", json!(3)),
        ])?;
        // `upcast_attention` (Stable Diffusion 2.1) asks for f32 attention: ours always is.
        fields.flag("upcast_attention", false)?;

        let block_out_channels = fields.sizes("block_out_channels", &[320, 640, 1280, 1280])?;
        let levels = block_out_channels.len();
        let early = fields.text("_diffusers_version")?.is_some_and(before_0_9);
        let mut mended_sample_size = None;
        let sample_size = fields.optional_sides("sample_size")?.map(|sides| match sides {
            // `StableDiffusionPipeline` mends the sizes of early conversions, not the pairs.
            Sides::Square(side) if early && side < 64 => {
                mended_sample_size = Some(side);
                [64; 2]
            }
            Sides::Square(side) => [side; 2],
            Sides::Both(sides) => sides,
        });
        let config = Self {
            in_channels: fields.size("in_channels", 4)?,
            out_channels: fields.size("out_channels", 4)?,
            sample_size,
            mended_sample_size,
            down_blocks: fields.choices(
                "down_block_types",
                &[CrossAttention, CrossAttention, CrossAttention, Plain],
                &BlockKind::DOWN,
            )?,
            up_blocks: fields.choices(
                "up_block_types",
                &[Plain, CrossAttention, CrossAttention, CrossAttention],
                &BlockKind::UP,
            )?,
            layers_per_block: fields.uniform_size("layers_per_block", 2)?,
            cross_attention_dim: fields.uniform_size("cross_attention_dim", 1280)?,
            // Diffusers' oldest misnomer: without `num_attention_heads`, which it refuses, this is
            // the number of heads and not their width.
            heads: fields.sizes_by_level("attention_head_dim", 8, levels)?,
            transformer_layers: fields.sizes_by_level("transformer_layers_per_block", 1, levels)?,
            norm_num_groups: fields.size("norm_num_groups", 32)?,
            norm_eps: fields.number("norm_eps", 1e-5)?,
            use_linear_projection: fields.flag("use_linear_projection", false)?,
            flip_sin_to_cos: fields.flag("flip_sin_to_cos", true)?,
            freq_shift: fields.number("freq_shift", 0.0)?,
            block_out_channels,
        };
        config.validate(file)?;
        Ok(config)
    }

    /// Refuses sizes that do not fit together or that no machine can hold, before any of them is
    /// allocated.
    pub fn validate(&self, file: &str) -> Result<(), EngineError> {
        let levels = self.block_out_channels.len();
        within(file, "the length of block_out_channels", levels, 1..=8)?;
        for (field, length) in [
            ("down_block_types", self.down_blocks.len()),
            ("up_block_types", self.up_blocks.len()),
            ("attention_head_dim", self.heads.len()),
            ("transformer_layers_per_block", self.transformer_layers.len()),
        ] {
            if length != levels {
                return Err(refuse(
                    file,
                    format!(
                        "{field} lists {length} levels, block_out_channels lists {levels}; they must be as many"
                    ),
                ));
            }
        }
        within(file, "in_channels", self.in_channels, 1..=MAX_CHANNELS)?;
        within(file, "out_channels", self.out_channels, 1..=MAX_CHANNELS)?;
        for side in self.sample_size.into_iter().flatten() {
            within(file, "sample_size", side, 1..=4_096)?;
        }
        within(file, "layers_per_block", self.layers_per_block, 1..=MAX_LAYERS)?;
        within(file, "cross_attention_dim", self.cross_attention_dim, 1..=MAX_CHANNELS)?;
        within(file, "norm_num_groups", self.norm_num_groups, 1..=MAX_CHANNELS)?;
        within(file, "norm_eps", self.norm_eps, 1e-12..=1.0)?;
        for level in 0..levels {
            let channels = self.block_out_channels[level];
            let field = format!("block_out_channels[{level}]");
            within(file, &field, channels, 1..=MAX_CHANNELS)?;
            divisible(file, &field, channels, "norm_num_groups", self.norm_num_groups)?;
            if self.has_attention(level) {
                let layers = self.transformer_layers[level];
                within(
                    file,
                    &format!("transformer_layers_per_block[{level}]"),
                    layers,
                    1..=MAX_LAYERS,
                )?;
                let head_field = format!(
                    "attention_head_dim[{level}] (the number of heads, as diffusers reads it)"
                );
                within(file, &head_field, self.heads[level], 1..=MAX_CHANNELS)?;
                divisible(file, &field, channels, &head_field, self.heads[level])?;
            }
        }
        // Half of the timestep embedding are sines, half are cosines, and the shift is taken from
        // the half's length before dividing by it.
        let first = self.block_out_channels[0];
        divisible(file, "block_out_channels[0]", first, "2 (sines and cosines)", 2)?;
        within(file, "freq_shift", self.freq_shift, 0.0..=(first / 2) as f64 - 0.5)?;
        affordable(file, self.parameters())
    }

    /// What of its file is read otherwise than it stands there, in words.
    pub(in crate::engine) fn repairs(&self, file: &str) -> Option<String> {
        self.mended_sample_size.map(|side| {
            format!(
                "{file}: sample_size is {side}, which diffusers wrote wrongly before 0.9.0 \
                 (_diffusers_version); 64 is used, as StableDiffusionPipeline does"
            )
        })
    }

    /// Height and width of the latents that the model was trained at, which drawing without a size,
    /// scores and training need; `file` names the config where it does not say.
    pub fn own_size(&self, file: &str) -> Result<[usize; 2], EngineError> {
        self.sample_size.ok_or_else(|| {
            refuse(
                file,
                "sample_size is absent, so the model has no size of its own; to draw, give a size (--width and --height, in pixels); for scores and training, add the side of the latents that the model was trained at, such as \"sample_size\": 64",
            )
        })
    }

    /// Whether any block at this resolution, the middle one included, has a transformer.
    fn has_attention(&self, level: usize) -> bool {
        let last = self.block_out_channels.len() - 1;
        level == last
            || self.down_blocks[level] == BlockKind::CrossAttention
            || self.up_blocks[last - level] == BlockKind::CrossAttention
    }

    /// About how many weights the network has. Floating point, since hostile sizes overflow.
    pub(super) fn parameters(&self) -> f64 {
        let context = self.cross_attention_dim as f64;
        let first = self.block_out_channels[0] as f64;
        let time = 4.0 * first;
        let layers = self.layers_per_block as f64;
        let residual = |from: f64, to: f64| 9.0 * to * (from + to) + time * to + from * to;
        let last = self.block_out_channels.len() - 1;

        let mut sum = 9.0 * first * (self.in_channels + self.out_channels) as f64;
        sum += time * (first + time);
        let mut previous = first;
        for (level, &channels) in self.block_out_channels.iter().enumerate() {
            let channels = channels as f64;
            let depth = self.transformer_layers[level] as f64;
            // Both projections; then self-attention, cross-attention and the gated feed-forward.
            let transformer = 2.0 * channels * channels
                + depth * (18.0 * channels * channels + 2.0 * channels * context);
            sum += residual(previous, channels) + (layers - 1.0) * residual(channels, channels);
            sum += (layers + 1.0) * residual(2.0 * channels, channels);
            // Down- and upsampling.
            sum += 18.0 * channels * channels;
            if self.down_blocks[level] == BlockKind::CrossAttention {
                sum += layers * transformer;
            }
            if self.up_blocks[last - level] == BlockKind::CrossAttention {
                sum += (layers + 1.0) * transformer;
            }
            if level == last {
                sum += transformer + 2.0 * residual(channels, channels);
            }
            previous = channels;
        }
        sum
    }
}

/// Whether a version of diffusers is older than 0.9.0, whose U-Nets may name a wrong size. Its
/// first two numbers decide; whatever is no version is not old.
fn before_0_9(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(0)), Some(Ok(minor))) => minor < 9,
        _ => false,
    }
}

/// Names the families that are a good deal more likely than a damaged file.
fn refuse_other_pipelines(fields: &Fields<'_>, file: &str) -> Result<(), EngineError> {
    match fields.text("addition_embed_type")? {
        None => Ok(()),
        Some("text_time") => Err(refuse(
            file,
            "addition_embed_type is \"text_time\", which marks Stable Diffusion XL; SDXL is not supported yet, use a Stable Diffusion 1.x or 2.x model",
        )),
        Some(other) => Err(refuse(
            file,
            format!(
                "addition_embed_type is \"{other}\", which is not supported; use a Stable Diffusion 1.x or 2.x model"
            ),
        )),
    }
}
