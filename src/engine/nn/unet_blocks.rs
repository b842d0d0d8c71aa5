//! The U-Net's down, middle and up blocks.

use super::{
    Weights,
    resnet::{Downsample, ResnetBlock, ResnetSize, Upsample},
    segments::{BlockInputs, Segment},
    transformer::{Transformer, TransformerSize},
};
use crate::engine::{EngineError, tape::TapeTensor};

/// diffusers `CrossAttnDownBlock2D` and `DownBlock2D`.
#[derive(Debug, Clone)]
pub(in crate::engine) struct DownBlock {
    pub(in crate::engine) residuals: Vec<Segment>,
    downsampler: Option<Downsample>,
}

impl DownBlock {
    pub(in crate::engine) fn new(
        w: &Weights,
        resnets: &[ResnetSize],
        attention: Option<TransformerSize>,
        downsample: bool,
    ) -> Result<Self, EngineError> {
        let channels = resnets.last().map_or(0, |last| last.outputs);
        Ok(Self {
            residuals: residuals(w, resnets, attention, resnets.len())?,
            downsampler: downsample
                .then(|| Downsample::new(&w.at("downsamplers.0"), channels, false))
                .transpose()?,
        })
    }

    /// Pushes every intermediate onto `skips`, for the way up.
    pub(in crate::engine) fn forward(
        &self,
        x: TapeTensor,
        inputs: &mut BlockInputs<'_>,
        skips: &mut Vec<TapeTensor>,
    ) -> candle_core::Result<TapeTensor> {
        let mut x = x;
        for residual in &self.residuals {
            x = residual.forward(&x, None, inputs)?;
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
#[derive(Debug, Clone)]
pub(in crate::engine) struct MidBlock {
    pub(in crate::engine) residuals: Vec<Segment>,
}

impl MidBlock {
    pub(in crate::engine) fn new(
        w: &Weights,
        resnet: ResnetSize,
        attention: TransformerSize,
    ) -> Result<Self, EngineError> {
        Ok(Self { residuals: residuals(w, &[resnet; 2], Some(attention), 1)? })
    }

    pub(in crate::engine) fn forward(
        &self,
        x: TapeTensor,
        inputs: &mut BlockInputs<'_>,
    ) -> candle_core::Result<TapeTensor> {
        self.residuals.iter().try_fold(x, |x, residual| residual.forward(&x, None, inputs))
    }
}

/// diffusers `CrossAttnUpBlock2D` and `UpBlock2D`.
#[derive(Debug, Clone)]
pub(in crate::engine) struct UpBlock {
    pub(in crate::engine) residuals: Vec<Segment>,
    upsampler: Option<Segment>,
}

impl UpBlock {
    pub(in crate::engine) fn new(
        w: &Weights,
        resnets: &[ResnetSize],
        attention: Option<TransformerSize>,
        upsample: bool,
    ) -> Result<Self, EngineError> {
        let channels = resnets.last().map_or(0, |last| last.outputs);
        Ok(Self {
            residuals: residuals(w, resnets, attention, resnets.len())?,
            upsampler: upsample
                .then(|| Upsample::new(&w.at("upsamplers.0"), channels))
                .transpose()?
                .map(Segment::upsample),
        })
    }

    /// Pops what [`DownBlock::forward`] pushed.
    pub(in crate::engine) fn forward(
        &self,
        x: TapeTensor,
        inputs: &mut BlockInputs<'_>,
        skips: &mut Vec<TapeTensor>,
    ) -> candle_core::Result<TapeTensor> {
        let mut x = x;
        for residual in &self.residuals {
            x = residual.forward(&x, skips.pop().as_ref(), inputs)?;
        }
        match &self.upsampler {
            // Up to what the level above left, since the way down halves upwards (diffusers:
            // `upsample_size`).
            Some(upsampler) => {
                let above = skips.last().map(|skip| skip.tensor().dims4()).transpose()?;
                let size = above.map(|(_, _, height, width)| [height, width]);
                upsampler.enlarge(&x, size, inputs)
            }
            None => Ok(x),
        }
    }

    pub(in crate::engine) fn segments(&mut self) -> impl Iterator<Item = &mut Segment> {
        self.residuals.iter_mut().chain(&mut self.upsampler)
    }
}

/// A residual block each, the first `attentions` of them with a transformer where there are any.
fn residuals(
    w: &Weights,
    sizes: &[ResnetSize],
    attention: Option<TransformerSize>,
    attentions: usize,
) -> Result<Vec<Segment>, EngineError> {
    let each = sizes.iter().enumerate().map(|(index, size)| {
        let resnet = ResnetBlock::new(&w.at("resnets").at(index), *size)?;
        let attention = attention.filter(|_| index < attentions);
        let transformer =
            attention.map(|size| Transformer::new(&w.at("attentions").at(index), size));
        Ok(Segment::residual(resnet, transformer.transpose()?))
    });
    each.collect()
}
