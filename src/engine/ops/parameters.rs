//! The parameters that operations take beside their tensors.

/// A convolution's geometry; dilation and groups are 1 throughout Stable Diffusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution {
    /// Pixels from one output to the next.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: usize,
}

/// A group norm's settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNorm {
    /// Groups that the channels are split into.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
    /// Whether a `SiLU` follows, as in every `ResNet` block.
    pub silu: bool,
}

/// An activation of each value on its own; the numbers are those of CUDA's kernel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Activation {
    Silu = 0,
    GeluErf = 1,
    QuickGelu = 2,
}
