//! The layers with weights, as PyTorch names them.

use super::Weights;
use crate::engine::{
    EngineError,
    ops::{self, Addends, Convolution, GroupNorm},
    tape::TapeTensor,
};

/// `torch.nn.Linear`.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Linear {
    weight: TapeTensor,
    bias: Option<TapeTensor>,
}

impl Linear {
    pub(in crate::engine) fn new(
        w: &Weights,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self, EngineError> {
        let weight = w.traced("weight", &[outputs, inputs])?;
        Ok(Self { weight, bias: Some(w.traced("bias", &[outputs])?) })
    }

    pub(in crate::engine) fn without_bias(
        w: &Weights,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self, EngineError> {
        Ok(Self { weight: w.traced("weight", &[outputs, inputs])?, bias: None })
    }

    /// Features of a result.
    pub(in crate::engine) fn outputs(&self) -> usize {
        self.weight.tensor().dims().first().copied().unwrap_or(0)
    }

    pub(in crate::engine) fn forward(&self, x: &TapeTensor) -> candle_core::Result<TapeTensor> {
        ops::linear(x, &self.weight, self.addends(None))
    }

    /// The sum of `residual` and the result.
    pub(in crate::engine) fn forward_onto(
        &self,
        residual: &TapeTensor,
        x: &TapeTensor,
    ) -> candle_core::Result<TapeTensor> {
        ops::linear(x, &self.weight, self.addends(Some(residual)))
    }

    /// The same, from rows of channels, `[batch, pixels, in]`, to planes of pixels, `[batch, out,
    /// pixels]`.
    pub(in crate::engine) fn forward_onto_planes(
        &self,
        residual: &TapeTensor,
        x: &TapeTensor,
    ) -> candle_core::Result<TapeTensor> {
        ops::linear_to_planes(x, &self.weight, self.addends(Some(residual)))
    }

    fn addends<'a>(&'a self, residual: Option<&'a TapeTensor>) -> Addends<'a> {
        Addends { bias: self.bias.as_ref(), residual, ..Addends::default() }
    }
}

/// A convolution's size.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Conv2dSize {
    pub(in crate::engine) inputs: usize,
    pub(in crate::engine) outputs: usize,
    pub(in crate::engine) kernel: usize,
    pub(in crate::engine) stride: usize,
    pub(in crate::engine) padding: usize,
}

impl Conv2dSize {
    /// A 3 × 3 kernel that keeps height and width.
    pub(in crate::engine) fn same(inputs: usize, outputs: usize) -> Self {
        Self { inputs, outputs, kernel: 3, stride: 1, padding: 1 }
    }

    /// A 1 × 1 kernel.
    pub(in crate::engine) fn pointwise(inputs: usize, outputs: usize) -> Self {
        Self { inputs, outputs, kernel: 1, stride: 1, padding: 0 }
    }
}

/// `torch.nn.Conv2d`.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Conv2d {
    weight: TapeTensor,
    bias: Option<TapeTensor>,
    geometry: Convolution,
}

impl Conv2d {
    pub(in crate::engine) fn new(w: &Weights, size: Conv2dSize) -> Result<Self, EngineError> {
        let bias = w.traced("bias", &[size.outputs])?;
        Ok(Self { bias: Some(bias), ..Self::without_bias(w, size)? })
    }

    pub(in crate::engine) fn without_bias(
        w: &Weights,
        size: Conv2dSize,
    ) -> Result<Self, EngineError> {
        let shape = [size.outputs, size.inputs, size.kernel, size.kernel];
        Ok(Self {
            weight: w.traced("weight", &shape)?,
            bias: None,
            geometry: Convolution { stride: size.stride, padding: size.padding },
        })
    }

    pub(in crate::engine) fn forward(&self, x: &TapeTensor) -> candle_core::Result<TapeTensor> {
        self.forward_adding(x, Addends::default())
    }

    /// The sum of the result and of what is added to it, beside the layer's own bias.
    pub(in crate::engine) fn forward_adding(
        &self,
        x: &TapeTensor,
        addends: Addends<'_>,
    ) -> candle_core::Result<TapeTensor> {
        let addends = Addends { bias: self.bias.as_ref(), ..addends };
        ops::conv2d(x, &self.weight, addends, self.geometry)
    }
}

/// `torch.nn.GroupNorm`, with the SiLU that follows it everywhere but in attention.
#[derive(Debug, Clone)]
pub(in crate::engine) struct GroupNormLayer {
    weight: TapeTensor,
    bias: TapeTensor,
    settings: GroupNorm,
}

impl GroupNormLayer {
    pub(in crate::engine) fn new(
        w: &Weights,
        channels: usize,
        settings: GroupNorm,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            weight: w.traced("weight", &[channels])?,
            bias: w.traced("bias", &[channels])?,
            settings,
        })
    }

    pub(in crate::engine) fn forward(&self, x: &TapeTensor) -> candle_core::Result<TapeTensor> {
        ops::group_norm(x, &self.weight, &self.bias, self.settings)
    }
}

/// `torch.nn.LayerNorm` over the last axis.
#[derive(Debug, Clone)]
pub(in crate::engine) struct LayerNorm {
    weight: TapeTensor,
    bias: TapeTensor,
    eps: f64,
}

impl LayerNorm {
    pub(in crate::engine) fn new(
        w: &Weights,
        channels: usize,
        eps: f64,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            weight: w.traced("weight", &[channels])?,
            bias: w.traced("bias", &[channels])?,
            eps,
        })
    }

    pub(in crate::engine) fn forward(&self, x: &TapeTensor) -> candle_core::Result<TapeTensor> {
        ops::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}
