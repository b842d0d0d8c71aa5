//! What the fast forms on the CPU share: access to `f32` values in host memory, and loops compiled
//! for the widest vectors of this machine.
//!
//! Every split into chunks follows from shapes alone, and every sum has one order, so that results
//! do not depend on the number of threads.

use std::ops::Deref;

use candle_core::{CpuStorage, DType, Device, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

use super::fresh;

/// Values that one task of an elementwise loop takes: enough to hide the cost of a task.
pub(in crate::engine) const CHUNK: usize = 16_384;

/// Whether the fast forms apply: `f32` in host memory.
pub(in crate::engine) fn is_fast(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::F32 && tensor.device().is_cpu())
}

/// Runs `work` compiled for the widest vectors that the machine has.
///
/// The closure and what it calls must be `#[inline(always)]`: code that is not inlined is compiled
/// for the least of machines, where a fused multiply-add is a slow function call.
pub(in crate::engine) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// A contiguous tensor's values, held for reading.
pub(in crate::engine) struct Values<'a, Guard> {
    storage: Guard,
    layout: &'a Layout,
}

/// Holds a tensor's values.
pub(in crate::engine) fn values(tensor: &Tensor) -> Values<'_, impl Deref<Target = Storage> + '_> {
    let (storage, layout) = tensor.storage_and_layout();
    Values { storage, layout }
}

impl<Guard: Deref<Target = Storage>> Values<'_, Guard> {
    /// The values, row-major.
    pub(in crate::engine) fn get(&self) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(storage) => slice(storage, self.layout),
            _ => bail!("a fast form met a tensor that is not in host memory"),
        }
    }
}

/// The values that a contiguous `layout` selects of `storage`, row-major.
pub(in crate::engine) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("a fast form met a tensor that is not contiguous: {layout:?}");
    };
    match storage.as_slice::<f32>()?.get(start..end) {
        Some(values) => Ok(values),
        None => bail!("a layout reaches beyond its storage: {layout:?}"),
    }
}

/// A tensor of `values` in host memory, outside of any graph.
pub(in crate::engine) fn tensor(values: Vec<f32>, shape: &Shape) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// `function` of each value.
pub(in crate::engine) fn map(x: &[f32], function: impl Fn(f32) -> f32 + Sync) -> Result<Vec<f32>> {
    fresh::written(x.len(), CHUNK, |task, y| {
        let x = x[task * CHUNK..].iter();
        let values = x.map(
            #[inline(always)]
            |x| function(*x),
        );
        vectorised(
            #[inline(always)]
            || y.extend(values),
        );
    })
}

/// `function` of each pair of values.
pub(in crate::engine) fn map_pairs(
    a: &[f32],
    b: &[f32],
    function: impl Fn(f32, f32) -> f32 + Sync,
) -> Result<Vec<f32>> {
    fresh::written(a.len().min(b.len()), CHUNK, |task, y| {
        let pairs = a[task * CHUNK..].iter().zip(&b[task * CHUNK..]);
        let values = pairs.map(
            #[inline(always)]
            |(a, b)| function(*a, *b),
        );
        vectorised(
            #[inline(always)]
            || y.extend(values),
        );
    })
}

/// Rows of `length` values that make up a task of about the usual size.
pub(in crate::engine) fn rows_per_task(length: usize) -> usize {
    (CHUNK / length.max(1)).max(1)
}

/// The sums of rows of `length` values.
pub(in crate::engine) fn row_sums(values: &[f32], length: usize) -> Vec<f32> {
    if length == 0 {
        return Vec::new();
    }
    let rows = values.par_chunks(length).with_min_len(rows_per_task(length));
    rows.map(|row| {
        vectorised(
            #[inline(always)]
            || super::exponential::sum(row, |x| x),
        )
    })
    .collect()
}

/// The sums of the columns of `[rows, columns]`.
pub(in crate::engine) fn column_sums(values: &[f32], columns: usize) -> Vec<f32> {
    let partial: Vec<Vec<f32>> = values
        .par_chunks(columns * rows_per_task(columns))
        .map(|rows| {
            let mut sums = vec![0.0; columns];
            rows.chunks_exact(columns).for_each(|row| add(&mut sums, row));
            sums
        })
        .collect();
    add_up(partial, columns)
}

/// The elementwise sum of vectors, in their order.
pub(in crate::engine) fn add_up(vectors: Vec<Vec<f32>>, length: usize) -> Vec<f32> {
    let mut vectors = vectors.into_iter();
    let mut sum = vectors.next().unwrap_or_else(|| vec![0.0; length]);
    vectors.for_each(|vector| add(&mut sum, &vector));
    sum
}

/// Adds `values` to `sums`.
pub(in crate::engine) fn add(sums: &mut [f32], values: &[f32]) {
    vectorised(
        #[inline(always)]
        || {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value;
            }
        },
    );
}
