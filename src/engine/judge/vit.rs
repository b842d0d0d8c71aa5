//! Vision transformers as classifiers: transformers' `ViTForImageClassification`, and timm's
//! `VisionTransformer`, whose file holds query, key and value in one matrix and names all else
//! differently. Both compute what candle-transformers' `vit` computes.

use std::collections::HashMap;

use candle_core::Tensor;
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::vit;
use serde_json::json;

use super::tensors::{Taken, Taking};
use crate::engine::{
    EngineError,
    family::config::fields::{
        Fields, MAX_CHANNELS, MAX_LAYERS, affordable, divisible, refuse, within,
    },
    nn::Weights,
};

/// Names of an encoder layer's modules: candle's, which are transformers', and timm's; query, key and
/// value aside.
const MODULES: [(&str, &str); 5] = [
    ("layernorm_before", "norm1"),
    ("attention.output.dense", "attn.proj"),
    ("layernorm_after", "norm2"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
];

/// timm's sizes: name, width, layers, heads.
const SIZES: [(&str, [usize; 3]); 5] = [
    ("tiny", [192, 12, 3]),
    ("small", [384, 12, 6]),
    ("base", [768, 12, 12]),
    ("large", [1_024, 24, 16]),
    ("huge", [1_280, 32, 16]),
];

/// Whose names a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Transformers,
    Timm,
}

/// The shape of a vision transformer.
#[derive(Debug, Clone)]
pub(super) struct VitConfig {
    layout: Layout,
    candle: vit::Config,
}

impl VitConfig {
    /// Reads transformers' config.
    pub(super) fn of_transformers(fields: &Fields<'_>, file: &str) -> Result<Self, EngineError> {
        fields.expect_only(&[("hidden_act", json!("gelu"))])?;
        let candle = vit::Config {
            hidden_size: fields.size("hidden_size", 768)?,
            num_hidden_layers: fields.size("num_hidden_layers", 12)?,
            num_attention_heads: fields.size("num_attention_heads", 12)?,
            intermediate_size: fields.size("intermediate_size", 3_072)?,
            hidden_act: Activation::Gelu,
            layer_norm_eps: fields.number("layer_norm_eps", 1e-12)?,
            image_size: fields.uniform_size("image_size", 224)?,
            patch_size: fields.uniform_size("patch_size", 16)?,
            num_channels: fields.size("num_channels", 3)?,
            qkv_bias: fields.flag("qkv_bias", true)?,
        };
        Self { layout: Layout::Transformers, candle }.checked(file)
    }

    /// Reads timm's config: an `architecture` such as `vit_large_patch16_224`, whose sizes
    /// `model_args` may change.
    pub(super) fn of_timm(
        architecture: &str,
        fields: &Fields<'_>,
        file: &str,
    ) -> Result<Self, EngineError> {
        let named = architecture_sizes(architecture).ok_or_else(|| {
            let shown: String = architecture.chars().take(80).collect();
            let message = format!(
                "architecture is \"{shown}\"; of timm's transformers, vit_SIZE_patchP_PIXELS is \
                 supported, with tiny, small, base, large or huge for SIZE"
            );
            refuse(file, message)
        })?;
        let Named { sizes: [hidden, layers, heads], patch, pixels } = named;
        fields.expect_only(&[("global_pool", json!("token"))])?;
        let arguments = fields.nested("model_args")?.unwrap_or_else(|| Fields::empty(file));
        arguments.expect_only(&[
            ("global_pool", json!("token")),
            ("class_token", json!(true)),
            ("qkv_bias", json!(true)),
            ("mlp_ratio", json!(4.0)),
            ("reg_tokens", json!(0)),
            ("pre_norm", json!(false)),
            ("qk_norm", json!(false)),
        ])?;
        let hidden = arguments.size("embed_dim", hidden)?;
        let candle = vit::Config {
            hidden_size: hidden,
            num_hidden_layers: arguments.size("depth", layers)?,
            num_attention_heads: arguments.size("num_heads", heads)?,
            intermediate_size: hidden.saturating_mul(4),
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-6,
            image_size: arguments.uniform_size("img_size", pixels)?,
            patch_size: arguments.uniform_size("patch_size", patch)?,
            num_channels: 3,
            qkv_bias: true,
        };
        Self { layout: Layout::Timm, candle }.checked(file)
    }

    /// Refuses sizes that do not fit together or that no machine can hold.
    fn checked(self, file: &str) -> Result<Self, EngineError> {
        let config = &self.candle;
        within(file, "hidden_size", config.hidden_size, 1..=MAX_CHANNELS)?;
        within(file, "intermediate_size", config.intermediate_size, 1..=MAX_CHANNELS)?;
        within(file, "num_hidden_layers", config.num_hidden_layers, 1..=MAX_LAYERS)?;
        within(file, "num_attention_heads", config.num_attention_heads, 1..=config.hidden_size)?;
        let heads = config.num_attention_heads;
        divisible(file, "hidden_size", config.hidden_size, "num_attention_heads", heads)?;
        within(file, "image_size", config.image_size, 1..=4_096)?;
        within(file, "patch_size", config.patch_size, 1..=config.image_size)?;
        divisible(file, "image_size", config.image_size, "patch_size", config.patch_size)?;
        within(file, "num_channels", config.num_channels, 3..=3)?;
        within(file, "layer_norm_eps", config.layer_norm_eps, 0.0..=1.0)?;
        within(file, "the number of patches", self.patches(), 1..=MAX_CHANNELS)?;
        let hidden = config.hidden_size as f64;
        let layer = 4.0 * hidden * hidden + 2.0 * hidden * config.intermediate_size as f64;
        affordable(file, layer * config.num_hidden_layers as f64)?;
        Ok(self)
    }

    fn patches(&self) -> usize {
        (self.candle.image_size / self.candle.patch_size).pow(2)
    }

    /// Pixels a side that it reads.
    pub(super) fn image_size(&self) -> usize {
        self.candle.image_size
    }

    /// Numbers that a picture's way through it holds at most.
    pub(super) fn working_numbers_a_picture(&self) -> u64 {
        let vit::Config { hidden_size, intermediate_size, num_attention_heads, .. } = self.candle;
        let tokens = self.patches() + 1;
        let scores = 3 * num_attention_heads * tokens * tokens;
        let pixels = 2 * 3 * self.candle.image_size * self.candle.image_size;
        (pixels + scores + tokens * (8 * hidden_size + 3 * intermediate_size)) as u64
    }

    /// Takes every weight, by candle's names.
    pub(super) fn take(&self, w: &Weights) -> Result<Taken, EngineError> {
        match self.layout {
            Layout::Transformers => self.take_transformers(w),
            Layout::Timm => self.take_timm(w),
        }
    }

    fn take_transformers(&self, w: &Weights) -> Result<Taken, EngineError> {
        let config = &self.candle;
        let mut taking = Taking::below(w, "vit.embeddings.cls_token")?;
        // Of the bare model; no classifier asks it.
        w.pass_over(|name| name.contains("vit.pooler."));
        let hidden = config.hidden_size;
        let same = |name: &str| (name.to_owned(), name.to_owned());
        self.take_ends(
            &mut taking,
            [
                same("vit.embeddings.cls_token"),
                same("vit.embeddings.position_embeddings"),
                same("vit.embeddings.patch_embeddings.projection"),
                same("vit.layernorm"),
                same("classifier"),
            ],
        )?;
        for layer in 0..config.num_hidden_layers {
            let layer = format!("vit.encoder.layer.{layer}");
            for (module, _) in MODULES {
                let name = format!("{layer}.{module}");
                taking.module(&name, &name, &self.shape(module))?;
            }
            for module in ["query", "key", "value"] {
                let name = format!("{layer}.attention.attention.{module}");
                let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
                taking.tensor(&weight, &weight, &[hidden, hidden])?;
                if config.qkv_bias {
                    taking.tensor(&bias, &bias, &[hidden])?;
                }
            }
        }
        taking.finish("classifier")
    }

    fn take_timm(&self, w: &Weights) -> Result<Taken, EngineError> {
        let config = &self.candle;
        let mut taking = Taking::below(w, "patch_embed.proj.weight")?;
        let hidden = config.hidden_size;
        let renamed = |to: &str, from: &str| (to.to_owned(), from.to_owned());
        self.take_ends(
            &mut taking,
            [
                renamed("vit.embeddings.cls_token", "cls_token"),
                renamed("vit.embeddings.position_embeddings", "pos_embed"),
                renamed("vit.embeddings.patch_embeddings.projection", "patch_embed.proj"),
                renamed("vit.layernorm", "norm"),
                renamed("classifier", "head"),
            ],
        )?;
        for layer in 0..config.num_hidden_layers {
            let (to, from) = (format!("vit.encoder.layer.{layer}"), format!("blocks.{layer}"));
            for (module, timm) in MODULES {
                let shape = self.shape(module);
                taking.module(&format!("{to}.{module}"), &format!("{from}.{timm}"), &shape)?;
            }
            for (end, shape) in [("weight", vec![3 * hidden, hidden]), ("bias", vec![3 * hidden])] {
                let fused = taking.take(&format!("{from}.attn.qkv.{end}"), &shape)?;
                for (row, module) in ["query", "key", "value"].into_iter().enumerate() {
                    let name = format!("{to}.attention.attention.{module}.{end}");
                    taking.insert(name, fused.narrow(0, row * hidden, hidden)?);
                }
            }
        }
        taking.finish("head")
    }

    /// What lies before and behind the layers: class token, positions, patches, norm, head.
    fn take_ends(
        &self,
        taking: &mut Taking<'_>,
        [class, positions, patches, norm, head]: [(String, String); 5],
    ) -> Result<(), EngineError> {
        let (hidden, patch) = (self.candle.hidden_size, self.candle.patch_size);
        taking.tensor(&class.0, &class.1, &[1, 1, hidden])?;
        taking.tensor(&positions.0, &positions.1, &[1, self.patches() + 1, hidden])?;
        taking.module(&patches.0, &patches.1, &[hidden, 3, patch, patch])?;
        taking.module(&norm.0, &norm.1, &[hidden])?;
        let classes = taking.rows(&format!("{}.weight", head.1));
        taking.module(&head.0, &head.1, &[classes, hidden])
    }

    /// The shape of a module's weight.
    fn shape(&self, module: &str) -> Vec<usize> {
        let vit::Config { hidden_size, intermediate_size, .. } = self.candle;
        match module {
            "attention.output.dense" => vec![hidden_size, hidden_size],
            "intermediate.dense" => vec![intermediate_size, hidden_size],
            "output.dense" => vec![hidden_size, intermediate_size],
            _ => vec![hidden_size],
        }
    }

    /// The network over what [`VitConfig::take`] took.
    pub(super) fn build(
        &self,
        taken: Taken,
        variables: impl FnOnce(HashMap<String, Tensor>) -> VarBuilder<'static>,
    ) -> Result<vit::Model, EngineError> {
        Ok(vit::Model::new(&self.candle, taken.classes, variables(taken.tensors))?)
    }
}

/// What a name of timm's says.
struct Named {
    sizes: [usize; 3],
    patch: usize,
    pixels: usize,
}

fn architecture_sizes(architecture: &str) -> Option<Named> {
    // Behind a dot stands what it was trained on.
    let name = architecture.split_once('.').map_or(architecture, |(name, _)| name);
    let mut parts = name.strip_prefix("vit_")?.split('_');
    let (size, patch, pixels) = (parts.next()?, parts.next()?, parts.next()?);
    let (_, sizes) = SIZES.iter().find(|(known, _)| *known == size)?;
    if parts.next().is_some() {
        return None;
    }
    let patch = patch.strip_prefix("patch")?.parse().ok()?;
    Some(Named { sizes: *sizes, patch, pixels: pixels.parse().ok()? })
}
