//! Residual blocks and the changes of resolution between them, shared by U-Net and autoencoder.

use super::{
    Weights,
    layers::{Conv2d, Conv2dSize, GroupNormLayer, Linear},
};
use crate::engine::{
    EngineError,
    ops::{self, Addends, GroupNorm},
    tape::TapeTensor,
};

/// A residual block's size.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct ResnetSize {
    pub(in crate::engine) inputs: usize,
    pub(in crate::engine) outputs: usize,
    /// Channels of the time embedding; none in the autoencoder.
    pub(in crate::engine) time: Option<usize>,
    pub(in crate::engine) groups: usize,
    pub(in crate::engine) eps: f64,
}

/// diffusers `ResnetBlock2D` with default time scale and shift.
#[derive(Debug)]
pub(in crate::engine) struct ResnetBlock {
    norm1: GroupNormLayer,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNormLayer,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    pub(in crate::engine) fn new(w: &Weights, size: ResnetSize) -> Result<Self, EngineError> {
        let ResnetSize { inputs, outputs, time, groups, eps } = size;
        let norm = GroupNorm { groups, eps, silu: true };
        Ok(Self {
            norm1: GroupNormLayer::new(&w.at("norm1"), inputs, norm)?,
            conv1: Conv2d::new(&w.at("conv1"), Conv2dSize::same(inputs, outputs))?,
            time_emb_proj: time
                .map(|time| Linear::new(&w.at("time_emb_proj"), time, outputs))
                .transpose()?,
            norm2: GroupNormLayer::new(&w.at("norm2"), outputs, norm)?,
            conv2: Conv2d::new(&w.at("conv2"), Conv2dSize::same(outputs, outputs))?,
            conv_shortcut: (inputs != outputs)
                .then(|| {
                    Conv2d::new(&w.at("conv_shortcut"), Conv2dSize::pointwise(inputs, outputs))
                })
                .transpose()?,
        })
    }

    /// `activated_time` is the time embedding after its SiLU, which is the same for every block.
    ///
    /// # Shapes
    /// `x: [batch, inputs, h, w]`, `activated_time: [batch, time]`, result `[batch, outputs, h, w]`.
    pub(in crate::engine) fn forward(
        &self,
        x: &TapeTensor,
        activated_time: Option<&TapeTensor>,
    ) -> candle_core::Result<TapeTensor> {
        let shift = match (&self.time_emb_proj, activated_time) {
            (Some(projection), Some(time)) => Some(projection.forward(time)?),
            _ => None,
        };
        let shift = Addends { shift: shift.as_ref(), ..Addends::default() };
        let hidden = self.conv1.forward_adding(&self.norm1.forward(x)?, shift)?;
        let shortcut = match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x)?,
            None => x.clone(),
        };
        let residual = Addends { residual: Some(&shortcut), ..Addends::default() };
        self.conv2.forward_adding(&self.norm2.forward(&hidden)?, residual)
    }
}

/// diffusers `Downsample2D`: a strided convolution.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Downsample {
    conv: Conv2d,
    /// The autoencoder pads right and bottom only.
    asymmetric: bool,
}

impl Downsample {
    pub(in crate::engine) fn new(
        w: &Weights,
        channels: usize,
        asymmetric: bool,
    ) -> Result<Self, EngineError> {
        let size = Conv2dSize {
            inputs: channels,
            outputs: channels,
            kernel: 3,
            stride: 2,
            padding: usize::from(!asymmetric),
        };
        Ok(Self { conv: Conv2d::new(&w.at("conv"), size)?, asymmetric })
    }

    pub(in crate::engine) fn forward(&self, x: &TapeTensor) -> candle_core::Result<TapeTensor> {
        if self.asymmetric {
            let padded = ops::pad_right_and_bottom(x)?;
            self.conv.forward(&padded)
        } else {
            self.conv.forward(x)
        }
    }
}

/// diffusers `Upsample2D`: nearest, then a convolution.
#[derive(Debug)]
pub(in crate::engine) struct Upsample {
    conv: Conv2d,
}

impl Upsample {
    pub(in crate::engine) fn new(w: &Weights, channels: usize) -> Result<Self, EngineError> {
        Ok(Self { conv: Conv2d::new(&w.at("conv"), Conv2dSize::same(channels, channels))? })
    }

    /// To a height and width, each twice its own or one less; to twice its own where none is given.
    pub(in crate::engine) fn forward(
        &self,
        x: &TapeTensor,
        size: Option<[usize; 2]>,
    ) -> candle_core::Result<TapeTensor> {
        let (_, _, height, width) = x.tensor().dims4()?;
        let size = size.unwrap_or([2 * height, 2 * width]);
        self.conv.forward(&ops::upsample_nearest(x, size)?)
    }
}
