//! What the fast forms share: `f32` values in host memory, products of matrices on them, and
//! loops that the compiler vectorises for the machine at hand.
//!
//! Every split into chunks follows from shapes alone, and every sum has one order, so that results
//! do not depend on the number of threads.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, Device, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

/// Values that one task of an elementwise loop takes: enough to hide the cost of a task.
const CHUNK: usize = 16_384;

/// Whether the fast forms apply: `f32` in host memory.
pub(super) fn applies(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::F32 && tensor.device().is_cpu())
}

/// Runs `work` compiled for the widest vectors that the machine has.
///
/// The closure and what it calls must be `#[inline(always)]`: code that is not inlined is compiled
/// for the least of machines, where a fused multiply-add is a slow function call.
pub(super) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// A contiguous tensor's values, and the storage that a product of matrices wants to see.
#[derive(Clone, Copy)]
pub(super) struct Dense<'a> {
    storage: &'a CpuStorage,
    offset: usize,
    /// The values, row-major.
    pub(super) values: &'a [f32],
}

impl<'a> Dense<'a> {
    /// The values that `layout` selects of `storage`.
    pub(super) fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let values = storage.as_slice::<f32>()?;
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("a fast form met a tensor that is not contiguous: {layout:?}");
        };
        match values.get(start..end) {
            Some(values) => Ok(Self { storage, offset: start, values }),
            None => bail!("a layout reaches beyond its storage: {layout:?}"),
        }
    }

    /// The values of a tensor whose storage is locked for reading.
    pub(super) fn locked(storage: &'a Storage, layout: &Layout) -> Result<Self> {
        match storage {
            Storage::Cpu(storage) => Self::new(storage, layout),
            _ => bail!("a fast form met a tensor that is not in host memory"),
        }
    }

    /// All of `storage`.
    pub(super) fn whole(storage: &'a CpuStorage) -> Result<Self> {
        Ok(Self { storage, offset: 0, values: storage.as_slice::<f32>()? })
    }

    /// Sees the values as matrices: `start` values in, with the given strides from matrix to
    /// matrix, row to row and column to column.
    pub(super) fn matrices(self, start: usize, strides: [usize; 3]) -> Matrices<'a> {
        Matrices { dense: self, start, strides }
    }
}

/// A batch of matrices within a [`Dense`].
#[derive(Clone, Copy)]
pub(super) struct Matrices<'a> {
    dense: Dense<'a>,
    start: usize,
    strides: [usize; 3],
}

impl Matrices<'_> {
    /// The layout of `count` matrices of `rows` and `columns`, checked to lie within the values:
    /// the product itself does not check.
    fn layout(&self, count: usize, rows: usize, columns: usize) -> Result<Layout> {
        let extents = [count, rows, columns];
        let last: usize =
            extents.iter().zip(self.strides).map(|(&n, stride)| n.saturating_sub(1) * stride).sum();
        if self.start + last >= self.dense.values.len() {
            bail!("matrices {extents:?} of strides {:?} exceed their values", self.strides);
        }
        let start = self.dense.offset + self.start;
        Ok(Layout::new(Shape::from(extents.to_vec()), self.strides.to_vec(), start))
    }
}

/// The products of `count` pairs of matrices, `[m, k] · [k, n]`, as `[count, m, n]`.
pub(super) fn multiply(
    count: usize,
    (m, n, k): (usize, usize, usize),
    left: Matrices,
    right: Matrices,
) -> Result<Vec<f32>> {
    if count * m * n * k == 0 {
        return Ok(vec![0.0; count * m * n]);
    }
    let (left_layout, right_layout) = (left.layout(count, m, k)?, right.layout(count, k, n)?);
    let (left, right) = (left.dense.storage, right.dense.storage);
    match left.matmul(right, (count, m, n, k), &left_layout, &right_layout)? {
        CpuStorage::F32(values) => Ok(values),
        _ => bail!("the product of f32 matrices is not f32"),
    }
}

/// A tensor of `values` in host memory, outside of any graph.
pub(super) fn tensor(values: Vec<f32>, shape: &Shape) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// `function` of each value.
pub(super) fn map(x: &[f32], function: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
        vectorised(
            #[inline(always)]
            || {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = function(x);
                }
            },
        );
    });
    y
}

/// `function` of each pair of values.
pub(super) fn map_pairs(
    a: &[f32],
    b: &[f32],
    function: impl Fn(f32, f32) -> f32 + Sync,
) -> Vec<f32> {
    let mut y = vec![0.0; a.len()];
    let inputs = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK));
    y.par_chunks_mut(CHUNK).zip(inputs).for_each(|(y, (a, b))| {
        vectorised(
            #[inline(always)]
            || {
                for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                    *y = function(a, b);
                }
            },
        );
    });
    y
}

/// Rows of `length` values that make up a task of about the usual size.
pub(super) fn rows_per_task(length: usize) -> usize {
    (CHUNK / length.max(1)).max(1)
}

/// The sums of the columns of `[rows, columns]`.
pub(super) fn column_sums(values: &[f32], columns: usize) -> Vec<f32> {
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
pub(super) fn add_up(vectors: Vec<Vec<f32>>, length: usize) -> Vec<f32> {
    let mut vectors = vectors.into_iter();
    let mut sum = vectors.next().unwrap_or_else(|| vec![0.0; length]);
    vectors.for_each(|vector| add(&mut sum, &vector));
    sum
}

/// Adds `values` to `sums`.
pub(super) fn add(sums: &mut [f32], values: &[f32]) {
    vectorised(
        #[inline(always)]
        || {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value;
            }
        },
    );
}
