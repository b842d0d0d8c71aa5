//! The differentiable operations that the models are made of, each with a forward, a backward and
//! a finite-difference test. They stand behind these functions so that their fast forms can come
//! without touching a model.

mod activation;
mod attention;
mod convolution;
mod linear;
mod norm;

pub use activation::{geglu, gelu_erf, quick_gelu, silu};
pub use attention::attention;
pub use convolution::{Convolution, conv2d, upsample_nearest_2x};
pub use linear::linear;
pub use norm::{GroupNorm, group_norm, layer_norm};
