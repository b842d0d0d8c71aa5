//! The differentiable operations that the models are made of, each with a forward, a backward and
//! a finite-difference test.
//!
//! Arguments and results are [`TapeTensor`](super::tape::TapeTensor)s: tensors that know which variables had a part in them. For
//! `f32` in host memory, and for `f32`, `f16` and `bf16` on CUDA devices (`cuda`), each operation has
//! a fast form, whose gradients are computed for the arguments that are followed and no others;
//! elsewhere it is composed of tensor operations that candle differentiates, against which the fast
//! forms are tested. In host memory, weights that no gradient is wanted for may lie in half precision.

mod activation;
mod adam;
mod addends;
mod arrangement;
mod attention;
mod cast;
mod convolution;
mod cuda;
mod layer_norm;
mod linear;
mod norm;
mod parameters;
mod planes;
mod squares;
#[cfg(test)]
mod testing;
mod upsample;

pub use activation::{geglu, gelu_erf, quick_gelu, silu};
pub use adam::{Adam, AdamSettings, Moments};
pub use addends::Addends;
pub use arrangement::{
    add_constant, concatenate_channels, pad_right_and_bottom, reshape, transpose,
};
pub use attention::attention;
pub use cast::cast;
pub use convolution::conv2d;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use norm::group_norm;
pub use parameters::{Convolution, GroupNorm};
pub use planes::{linear_from_planes, linear_to_planes};
pub use squares::{sum_of_squares, sums_of_squares};
pub use upsample::upsample_nearest;

pub use super::kernels::{give_freed_memory_back, in_pool, keep_freed_memory, total};
