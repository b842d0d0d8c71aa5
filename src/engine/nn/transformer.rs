//! The U-Net's transformers: self-attention, cross-attention, feed-forward.

use super::{
    Weights,
    layers::{GroupNormLayer, LayerNorm, Linear},
    text::{Context, KeyValue, Text},
};
use crate::engine::{
    EngineError,
    ops::{self, Addends, GroupNorm},
    tape::TapeTensor,
};

/// A transformer's size.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct TransformerSize {
    pub(in crate::engine) channels: usize,
    pub(in crate::engine) heads: usize,
    pub(in crate::engine) layers: usize,
    pub(in crate::engine) cross_attention_dim: usize,
    pub(in crate::engine) groups: usize,
    pub(in crate::engine) use_linear_projection: bool,
}

/// diffusers `Attention`: queries from the picture, keys and values from it or from the text.
#[derive(Debug)]
struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
}

impl Attention {
    fn new(
        w: &Weights,
        channels: usize,
        context: usize,
        heads: usize,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            to_q: Linear::without_bias(&w.at("to_q"), channels, channels)?,
            to_k: Linear::without_bias(&w.at("to_k"), context, channels)?,
            to_v: Linear::without_bias(&w.at("to_v"), context, channels)?,
            to_out: Linear::new(&w.at("to_out.0"), channels, channels)?,
            heads,
        })
    }

    /// Keys and values.
    fn project(&self, states: &TapeTensor) -> candle_core::Result<(TapeTensor, TapeTensor)> {
        Ok((self.to_k.forward(states)?, self.to_v.forward(states)?))
    }

    /// The sum of `residual` and the result.
    fn forward_onto(
        &self,
        residual: &TapeTensor,
        x: &TapeTensor,
        context: Context<'_>,
    ) -> candle_core::Result<TapeTensor> {
        // Queries come first: the order of operations is that in which gradients are summed.
        let query = self.to_q.forward(x)?;
        let (key, value) = match context {
            Context::States(states) => self.project(states)?,
            Context::Projected { key, value } => (key, value),
        };
        let attended = ops::attention(&query, &key, &value, self.heads, None)?;
        self.to_out.forward_onto(residual, &attended)
    }
}

/// diffusers `BasicTransformerBlock` with GEGLU.
#[derive(Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
}

impl TransformerBlock {
    fn new(w: &Weights, size: TransformerSize) -> Result<Self, EngineError> {
        const EPS: f64 = 1e-5;
        const EXPANSION: usize = 4;
        let TransformerSize { channels, heads, cross_attention_dim, .. } = size;
        let inner = channels * EXPANSION;
        Ok(Self {
            norm1: LayerNorm::new(&w.at("norm1"), channels, EPS)?,
            attn1: Attention::new(&w.at("attn1"), channels, channels, heads)?,
            norm2: LayerNorm::new(&w.at("norm2"), channels, EPS)?,
            attn2: Attention::new(&w.at("attn2"), channels, cross_attention_dim, heads)?,
            norm3: LayerNorm::new(&w.at("norm3"), channels, EPS)?,
            ff_in: Linear::new(&w.at("ff.net.0.proj"), channels, inner * 2)?,
            ff_out: Linear::new(&w.at("ff.net.2"), inner, channels)?,
        })
    }

    fn forward(&self, x: &TapeTensor, text: &mut Text<'_>) -> candle_core::Result<TapeTensor> {
        let normed = self.norm1.forward(x)?;
        let x = self.attn1.forward_onto(x, &normed, Context::States(&normed))?;
        let x = self.attn2.forward_onto(&x, &self.norm2.forward(&x)?, text.context()?)?;
        let hidden = ops::geglu(&self.ff_in.forward(&self.norm3.forward(&x)?)?)?;
        self.ff_out.forward_onto(&x, &hidden)
    }
}

/// Into and out of the transformer: a 1 × 1 convolution in SD 1.x, a linear map in SD 2.x, which are
/// the same but for the shape of the weight.
#[derive(Debug)]
struct Projection {
    weight: TapeTensor,
    bias: TapeTensor,
}

impl Projection {
    fn new(w: &Weights, channels: usize, linear: bool) -> Result<Self, EngineError> {
        let shape = [channels, channels, 1, 1];
        let weight = w.traced("weight", if linear { &shape[..2] } else { &shape })?;
        Ok(Self { weight, bias: w.traced("bias", &[channels])? })
    }
}

/// diffusers `Transformer2DModel`.
#[derive(Debug)]
pub(in crate::engine) struct Transformer {
    norm: GroupNormLayer,
    proj_in: Projection,
    blocks: Vec<TransformerBlock>,
    proj_out: Projection,
}

impl Transformer {
    pub(in crate::engine) fn new(w: &Weights, size: TransformerSize) -> Result<Self, EngineError> {
        let channels = size.channels;
        let projection =
            |name: &str| Projection::new(&w.at(name), channels, size.use_linear_projection);
        // Unlike the U-Net's own norms, this one's epsilon is fixed in diffusers.
        let norm = GroupNorm { groups: size.groups, eps: 1e-6, silu: false };
        Ok(Self {
            norm: GroupNormLayer::new(&w.at("norm"), channels, norm)?,
            proj_in: projection("proj_in")?,
            blocks: (0..size.layers)
                .map(|layer| TransformerBlock::new(&w.at("transformer_blocks").at(layer), size))
                .collect::<Result<_, _>>()?,
            proj_out: projection("proj_out")?,
        })
    }

    /// Channels of the keys and values that [`Transformer::project_text`] makes of a token.
    pub(in crate::engine) fn projected_channels(&self) -> usize {
        self.blocks
            .iter()
            .map(|block| block.attn2.to_k.outputs() + block.attn2.to_v.outputs())
            .sum()
    }

    /// What each block makes of text hidden states, `[batch, tokens, cross_attention_dim]`.
    pub(in crate::engine) fn project_text(
        &self,
        text: &TapeTensor,
    ) -> impl Iterator<Item = candle_core::Result<KeyValue>> {
        self.blocks.iter().map(move |block| {
            let (key, value) = block.attn2.project(text)?;
            Ok(KeyValue { key: key.into_tensor(), value: value.into_tensor() })
        })
    }

    /// # Shapes
    /// `x: [batch, channels, h, w]`.
    pub(in crate::engine) fn forward(
        &self,
        x: &TapeTensor,
        text: &mut Text<'_>,
    ) -> candle_core::Result<TapeTensor> {
        let (batch, channels, height, width) = x.tensor().dims4()?;
        let planes = |x: &TapeTensor| ops::reshape(x, (batch, channels, height * width));
        let Projection { weight, bias } = &self.proj_in;
        let normed = planes(&self.norm.forward(x)?)?;
        let mut hidden = ops::linear_from_planes(&normed, weight, Addends::bias(bias))?;
        for block in &self.blocks {
            hidden = block.forward(&hidden, text)?;
        }
        let Projection { weight, bias } = &self.proj_out;
        let residual = planes(x)?;
        let addends = Addends { residual: Some(&residual), ..Addends::bias(bias) };
        let sum = ops::linear_to_planes(&hidden, weight, addends)?;
        ops::reshape(&sum, (batch, channels, height, width))
    }
}
