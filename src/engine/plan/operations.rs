//! The operations of `src/engine/ops`, as far as their memory goes: what each makes, keeps and holds
//! for a moment.

use std::rc::Rc;

use super::dry_run::{Kept, Memory, SizedTensor};

/// Numbers of a layer's weights, those alone that are in scope.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Trained {
    pub(super) weight: u64,
    pub(super) bias: u64,
}

impl Trained {
    fn numbers(self) -> u64 {
        self.weight + self.bias
    }
}

/// A matrix of weights between features.
#[derive(Debug, Clone, Copy)]
pub(super) struct Features {
    pub(super) inputs: u64,
    pub(super) outputs: u64,
    pub(super) trained: Trained,
}

/// Elements of a kernel, and those that it is transformed to for small and large tiles.
const KERNEL: u64 = 9;
const SMALL_TILE: u64 = 16;
const LARGE_TILE: u64 = 36;
/// Pixels of a result from which on its tiles are large.
const LARGE_RESULT: u64 = 16 * 16;
/// Transformed elements of kernels, or of their gradients, that are held at a time.
const KERNELS: u64 = 1 << 23;
/// Rows below which a linear layer's product is held transposed for a moment.
const ROWS: u64 = 512;
/// Queries and keys of a block of attention.
const QUERIES: u64 = 128;
const KEYS: u64 = 512;

fn fresh(like: &SizedTensor, numbers: u64) -> Rc<Memory> {
    Rc::new(Memory::new(like.meter(), numbers))
}

/// `linear`, `linear_from_planes`, `linear_to_planes`, and convolutions with kernels of one pixel: a
/// frozen layer does not keep its input.
pub(super) fn linear(
    x: &SizedTensor,
    addend: Option<&SizedTensor>,
    features: Features,
) -> SizedTensor {
    let Features { inputs, outputs, trained } = features;
    let rows = x.numbers() / inputs.max(1);
    x.meter().worked(rows * inputs * outputs);
    if rows < ROWS {
        x.meter().buffered(rows * outputs);
    }
    let kept = Kept {
        arguments: (trained.weight > 0).then(|| Rc::clone(&x.memory)).into_iter().collect(),
        weights: trained.numbers(),
        passes_on: true,
        ..Kept::default()
    };
    let arguments: Vec<&SizedTensor> = [x].into_iter().chain(addend).collect();
    SizedTensor::result(fresh(x, rows * outputs), &arguments, kept)
}

/// A convolution of 3 × 3, and what is added to it beside the bias.
#[derive(Debug, Clone, Copy)]
pub(super) struct Convolution<'a> {
    pub(super) features: Features,
    /// Of the result, for all images.
    pub(super) pixels: u64,
    pub(super) strided: bool,
    /// A shift or a residual.
    pub(super) addend: Option<&'a SizedTensor>,
}

/// `conv2d`.
pub(super) fn convolution(x: &SizedTensor, convolution: Convolution<'_>) -> SizedTensor {
    let Convolution { features, pixels, strided, addend } = convolution;
    let Features { inputs, outputs, trained } = features;
    x.meter().worked(KERNEL * pixels * inputs * outputs);
    // Kernels are transformed for tiles, some at a time; and so are their gradients.
    let tile = if pixels < LARGE_RESULT { SMALL_TILE } else { LARGE_TILE };
    let tiles = if strided { 0 } else { tile * inputs * outputs };
    let kernels = tiles.min(KERNELS);
    let result = {
        x.meter().buffered(kernels);
        let _kernels = Memory::new(x.meter(), kernels);
        fresh(x, pixels * outputs)
    };
    let weight = trained.weight > 0;
    let kept = Kept {
        arguments: weight.then(|| Rc::clone(&x.memory)).into_iter().collect(),
        weights: trained.numbers(),
        scratch: if weight { 2 * kernels } else { kernels },
        passes_on: true,
        ..Kept::default()
    };
    let arguments: Vec<&SizedTensor> = [x].into_iter().chain(addend).collect();
    SizedTensor::result(result, &arguments, kept)
}

/// A norm of groups or of the last axis, which makes `statistics` means and as many rates.
pub(super) fn norm(x: &SizedTensor, statistics: u64, trained: Trained) -> SizedTensor {
    let kept = Kept {
        arguments: vec![Rc::clone(&x.memory)],
        own: 2 * statistics,
        weights: trained.numbers(),
        ..Kept::default()
    };
    SizedTensor::result(fresh(x, x.numbers()), &[x], kept)
}

/// `silu`.
pub(super) fn activation(x: &SizedTensor) -> SizedTensor {
    let kept = Kept { arguments: vec![Rc::clone(&x.memory)], ..Kept::default() };
    SizedTensor::result(fresh(x, x.numbers()), &[x], kept)
}

/// `geglu`, which halves the last axis.
pub(super) fn gated(x: &SizedTensor) -> SizedTensor {
    let kept = Kept { arguments: vec![Rc::clone(&x.memory)], ..Kept::default() };
    SizedTensor::result(fresh(x, x.numbers() / 2), &[x], kept)
}

/// How much attends to how much.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attention {
    /// Queries of all images, counted for each head.
    pub(super) queries: u64,
    /// Keys of an image.
    pub(super) keys: u64,
    /// Channels of a head.
    pub(super) depth: u64,
}

/// `attention`.
pub(super) fn attention([query, key, value]: [&SizedTensor; 3], sizes: Attention) -> SizedTensor {
    let Attention { queries, keys, depth } = sizes;
    query.meter().worked(2 * queries * keys * depth);
    let arguments = [query, key, value];
    let held = queries.min(QUERIES) * keys.min(KEYS);
    let result = {
        query.meter().buffered(held);
        let _scores = Memory::new(query.meter(), held);
        fresh(query, query.numbers())
    };
    let kept = arguments.map(|argument| Rc::clone(&argument.memory)).into_iter();
    // The result takes the place of all keys' weights, where a block does not see them all.
    let result_too = (keys > KEYS).then(|| Rc::clone(&result));
    // Scores and their gradients, and the heads' gradients before they are joined.
    let heads: u64 = arguments.iter().map(|argument| argument.numbers()).sum();
    let kept = Kept {
        arguments: kept.chain(result_too).collect(),
        // The level of each query.
        own: 2 * queries,
        scratch: 2 * held + heads,
        ..Kept::default()
    };
    SizedTensor::result(result, &arguments, kept)
}

/// `concatenate_channels`.
pub(super) fn concatenate(a: &SizedTensor, b: &SizedTensor) -> SizedTensor {
    SizedTensor::result(fresh(a, a.numbers() + b.numbers()), &[a, b], Kept::default())
}

/// `upsample_nearest`, to so many numbers.
pub(super) fn upsample(x: &SizedTensor, numbers: u64) -> SizedTensor {
    SizedTensor::result(fresh(x, numbers), &[x], Kept::default())
}
