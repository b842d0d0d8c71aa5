//! The differentiable operations that the models are made of, each with a forward, a backward and
//! a finite-difference test.
//!
//! For `f32` in host memory each has a fast form, a candle custom operation whose backward pass
//! computes gradients for the arguments that track and no others; elsewhere it is composed of
//! tensor operations, against which the fast form is tested.
//!
//! Two environment variables matter to speed, and to no result. With `CANDLE_NUM_THREADS=1` candle
//! adds and multiplies large tensors on the calling thread; otherwise it hands them to a pool that
//! spins, and that concurrent callers wait for. With `RAYON_NUM_THREADS` set, a product of matrices
//! does not first ask the system for its cores.

mod activation;
mod adam;
mod attention;
mod columns;
mod convolution;
mod cpu;
mod exponential;
mod layer_norm;
mod linear;
mod norm;
#[cfg(test)]
mod testing;
mod upsample;

pub use activation::{geglu, gelu_erf, quick_gelu, silu};
pub use adam::{Adam, AdamSettings, Moments};
pub use attention::attention;
pub use convolution::{Convolution, conv2d};
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use norm::{GroupNorm, group_norm};
pub use upsample::upsample_nearest_2x;
