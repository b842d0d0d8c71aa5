//! Weights in memory: `f32`, or half precision that is widened part by part where it is needed.

use std::ops::Range;

use candle_core::{CpuStorage, DType, Result, Storage, Tensor, bail};
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::buffer::Buffer;
use super::cpu;

/// Values that are widened at a time: what they are multiplied by is arranged anew for each part, so
/// that few large parts take less than many that stay in a second-level cache.
const PART: usize = 1 << 22;
/// Values that a task widens.
const TASK: usize = 1 << 14;

/// A layer's weight, a row for each of its outputs.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Weight(Tensor);

impl Weight {
    /// Whether the fast forms can read it.
    pub(in crate::engine) fn is_fast(tensor: &Tensor) -> bool {
        matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16) && tensor.device().is_cpu()
    }

    /// Fails only where memory does.
    pub(in crate::engine) fn new(tensor: &Tensor) -> Result<Self> {
        Ok(Self(tensor.contiguous()?))
    }

    pub(in crate::engine) fn tensor(&self) -> &Tensor {
        &self.0
    }

    /// Whether it is `f32` as it lies.
    pub(in crate::engine) fn is_wide(&self) -> bool {
        self.0.dtype() == DType::F32
    }

    /// Calls `work` with parts of the rows, in their order, that together are all of them, and with
    /// the values of each part.
    pub(in crate::engine) fn for_each_part(
        &self,
        most_rows: Option<usize>,
        mut work: impl FnMut(Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let rows = self.0.dim(0)?;
        let length = self.0.elem_count() / rows.max(1);
        let most = if self.is_wide() { rows } else { PART / length.max(1) };
        let most = most_rows.map_or(most, |limit| most.min(limit)).max(1);
        // Of equal size, or the last product might be too small to be fast.
        let most = rows.div_ceil(rows.div_ceil(most).max(1)).max(1);
        if self.is_wide() {
            let values = cpu::values(&self.0);
            let values = values.get()?;
            for first in (0..rows).step_by(most) {
                let part = first..(first + most).min(rows);
                work(part.clone(), &values[part.start * length..part.end * length])?;
            }
            return Ok(());
        }
        let mut buffer = Buffer::new(most * length);
        for first in (0..rows).step_by(most) {
            let part = first..(first + most).min(rows);
            let values = &mut buffer[..part.len() * length];
            self.widen(part.start * length, values)?;
            work(part, values)?;
        }
        Ok(())
    }

    /// All values at once; for weights that are small.
    pub(in crate::engine) fn with_all<R>(
        &self,
        work: impl FnOnce(&[f32]) -> Result<R>,
    ) -> Result<R> {
        if self.is_wide() {
            return work(cpu::values(&self.0).get()?);
        }
        let mut values = Buffer::new(self.0.elem_count());
        self.widen(0, &mut values)?;
        work(&values)
    }

    /// Writes the values from `start` on, of a tensor of half precision.
    fn widen(&self, start: usize, values: &mut [f32]) -> Result<()> {
        let (storage, layout) = self.0.storage_and_layout();
        let first = layout.start_offset() + start;
        let range = first..first + values.len();
        match &*storage {
            Storage::Cpu(CpuStorage::F16(halves)) => widened(halves.get(range), values),
            Storage::Cpu(CpuStorage::BF16(halves)) => widened(halves.get(range), values),
            _ => bail!("a weight of {:?} was to be widened in host memory", self.0.dtype()),
        }
    }
}

fn widened<H: Sync>(halves: Option<&[H]>, values: &mut [f32]) -> Result<()>
where
    [H]: HalfFloatSliceExt,
{
    let Some(halves) = halves else {
        bail!("a weight's layout reaches beyond its storage");
    };
    let parts = values.par_chunks_mut(TASK).zip(halves.par_chunks(TASK));
    parts.for_each(|(values, halves)| halves.convert_to_f32_slice(values));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::values;
    use super::*;

    #[test]
    fn parts_are_all_rows_in_their_order() {
        let wide = values(&[700, 1_501], 1);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let stored = wide.to_dtype(dtype).unwrap();
            let expected = stored.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
            let expected = expected.to_vec1::<f32>().unwrap();
            let weight = Weight::new(&stored).unwrap();
            assert!(Weight::is_fast(weight.tensor()));
            assert!(weight.with_all(|all| Ok(all == expected)).unwrap());
            for most in [None, Some(1_000), Some(99), Some(1)] {
                let (mut seen, mut end) = (Vec::new(), 0);
                let collect = |part: Range<usize>, values: &[f32]| {
                    assert_eq!(part.start, end);
                    assert!(most.is_none_or(|most| part.len() <= most));
                    end = part.end;
                    seen.extend_from_slice(values);
                    Ok(())
                };
                weight.for_each_part(most, collect).unwrap();
                assert!(seen == expected);
            }
        }
        assert!(!Weight::is_fast(&wide.to_dtype(DType::F64).unwrap()));
    }
}
