//! The operations on CUDA devices, each with its gradients: our own kernels (`kernels.cu`) around
//! products of matrices by cuBLAS, which candle calls.
//!
//! Activations and frozen matrices are f32, f16 or bf16; vectors (norms, biases) and trained weights
//! are f32, and every kernel computes in f32. A trained matrix is brought into the activations' type
//! where it is used, and its gradient back into f32 ([`cast`]).
//!
//! Nothing here asks where tensors lie: a [`Launch`] on host memory fails, but for tests, which run
//! the same kernels compiled as C++ (`emulator.rs`). So all but the launch itself is tested without
//! a GPU.

mod activation;
mod adam;
mod attention;
mod convolution;
#[cfg(test)]
mod emulator;
mod launch;
mod linear;
mod norm;
mod sums;
#[cfg(test)]
mod tests;

use candle_core::{DType, Tensor};

pub(super) use activation::{activation, geglu, upsample_nearest_2x};
pub(super) use adam::{AdamStep, adam};
pub(super) use attention::attention;
pub(super) use convolution::conv2d;
use launch::{Argument, Launch, count};
pub(super) use linear::{linear, linear_from_planes, linear_to_planes};
pub(super) use norm::{group_norm, layer_norm};
pub(super) use sums::{add_to_channels, squares};

use super::cast::cast;

/// Whether these forms apply: values of a kernel's type on a CUDA device.
pub(super) fn is_fast(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|tensor| {
        matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16) && tensor.device().is_cuda()
    })
}
