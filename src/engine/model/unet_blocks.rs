//! The U-Net's levels.

use super::{
    Weights,
    resnet::{Downsample, ResnetBlock, ResnetSize, Upsample},
    transformer::{Transformer, TransformerSize},
};
use crate::engine::{
    EngineError,
    ops::{self, Traced},
};

/// What every level reads beside its input.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conditioning<'a> {
    /// The time embedding after its SiLU, `[batch, time]`.
    pub(super) activated_time: &'a Traced,
    /// Text hidden states, `[batch, tokens, cross_attention_dim]`.
    pub(super) text: &'a Traced,
}

/// diffusers `CrossAttnDownBlock2D` and `DownBlock2D`.
#[derive(Debug)]
pub(super) struct DownBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<Transformer>,
    downsampler: Option<Downsample>,
}

impl DownBlock {
    pub(super) fn new(
        w: &Weights,
        resnets: &[ResnetSize],
        attention: Option<TransformerSize>,
        downsample: bool,
    ) -> Result<Self, EngineError> {
        let channels = resnets.last().map_or(0, |last| last.outputs);
        Ok(Self {
            resnets: resnet_blocks(w, resnets)?,
            attentions: transformers(w, attention, resnets.len())?,
            downsampler: downsample
                .then(|| Downsample::new(&w.at("downsamplers.0"), channels, false))
                .transpose()?,
        })
    }

    /// Pushes every intermediate onto `skips`, for the way up.
    pub(super) fn forward(
        &self,
        x: Traced,
        conditioning: Conditioning<'_>,
        skips: &mut Vec<Traced>,
    ) -> Result<Traced, EngineError> {
        let mut x = x;
        for (index, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(&x, Some(conditioning.activated_time))?;
            if let Some(attention) = self.attentions.get(index) {
                x = attention.forward(&x, conditioning.text)?;
            }
            skips.push(x.clone());
        }
        if let Some(downsampler) = &self.downsampler {
            x = downsampler.forward(&x)?;
            skips.push(x.clone());
        }
        Ok(x)
    }
}

/// diffusers `UNetMidBlock2DCrossAttn`.
#[derive(Debug)]
pub(super) struct MidBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<Transformer>,
}

impl MidBlock {
    pub(super) fn new(
        w: &Weights,
        resnet: ResnetSize,
        attention: TransformerSize,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            resnets: resnet_blocks(w, &[resnet; 2])?,
            attentions: transformers(w, Some(attention), 1)?,
        })
    }

    pub(super) fn forward(
        &self,
        x: &Traced,
        conditioning: Conditioning<'_>,
    ) -> Result<Traced, EngineError> {
        let mut x = x.clone();
        for (index, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(&x, Some(conditioning.activated_time))?;
            if let Some(attention) = self.attentions.get(index) {
                x = attention.forward(&x, conditioning.text)?;
            }
        }
        Ok(x)
    }
}

/// diffusers `CrossAttnUpBlock2D` and `UpBlock2D`.
#[derive(Debug)]
pub(super) struct UpBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<Transformer>,
    upsampler: Option<Upsample>,
}

impl UpBlock {
    pub(super) fn new(
        w: &Weights,
        resnets: &[ResnetSize],
        attention: Option<TransformerSize>,
        upsample: bool,
    ) -> Result<Self, EngineError> {
        let channels = resnets.last().map_or(0, |last| last.outputs);
        Ok(Self {
            resnets: resnet_blocks(w, resnets)?,
            attentions: transformers(w, attention, resnets.len())?,
            upsampler: upsample
                .then(|| Upsample::new(&w.at("upsamplers.0"), channels))
                .transpose()?,
        })
    }

    /// Pops what [`DownBlock::forward`] pushed.
    pub(super) fn forward(
        &self,
        x: Traced,
        conditioning: Conditioning<'_>,
        skips: &mut Vec<Traced>,
    ) -> Result<Traced, EngineError> {
        let mut x = x;
        for (index, resnet) in self.resnets.iter().enumerate() {
            if let Some(skip) = skips.pop() {
                x = ops::concatenate_channels(&x, &skip)?;
            }
            x = resnet.forward(&x, Some(conditioning.activated_time))?;
            if let Some(attention) = self.attentions.get(index) {
                x = attention.forward(&x, conditioning.text)?;
            }
        }
        match &self.upsampler {
            Some(upsampler) => upsampler.forward(&x),
            None => Ok(x),
        }
    }
}

fn resnet_blocks(w: &Weights, sizes: &[ResnetSize]) -> Result<Vec<ResnetBlock>, EngineError> {
    let each = sizes.iter().enumerate();
    each.map(|(index, size)| ResnetBlock::new(&w.at("resnets").at(index), *size)).collect()
}

fn transformers(
    w: &Weights,
    size: Option<TransformerSize>,
    count: usize,
) -> Result<Vec<Transformer>, EngineError> {
    match size {
        None => Ok(Vec::new()),
        Some(size) => {
            (0..count).map(|index| Transformer::new(&w.at("attentions").at(index), size)).collect()
        }
    }
}
