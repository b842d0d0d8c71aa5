//! Writes results once, into memory that was not cleared first.

#![allow(
    unsafe_code,
    reason = "values are read only once they have been written, which is counted"
)]
#![allow(
    clippy::inline_always,
    reason = "a call within a loop would keep the loop from being vectorised"
)]

use std::mem::MaybeUninit;

use candle_core::{Result, bail};
use rayon::prelude::*;

/// A part of a result, which is written from its beginning on.
#[derive(Debug)]
pub(in crate::engine) struct Fresh<'a> {
    slots: &'a mut [MaybeUninit<f32>],
    written: usize,
}

impl Fresh<'_> {
    /// Writes the values that come next, as many as there is room for.
    #[inline(always)]
    pub(in crate::engine) fn extend(&mut self, values: impl Iterator<Item = f32>) {
        let mut count = 0;
        for (slot, value) in self.slots[self.written..].iter_mut().zip(values) {
            slot.write(value);
            count += 1;
        }
        self.written += count;
    }

    /// How many values are still to be written.
    pub(in crate::engine) fn room(&self) -> usize {
        self.slots.len() - self.written
    }

    /// What has been written.
    #[inline(always)]
    pub(in crate::engine) fn values(&mut self) -> &mut [f32] {
        let written = &mut self.slots[..self.written];
        // SAFETY: these slots have been written, and a value in a slot is laid out as a value.
        unsafe { &mut *(std::ptr::from_mut(written) as *mut [f32]) }
    }

    /// Writes the values that come next, and gives them back to be changed.
    #[inline(always)]
    pub(in crate::engine) fn next(&mut self, values: impl Iterator<Item = f32>) -> &mut [f32] {
        let before = self.written;
        self.extend(values);
        &mut self.values()[before..]
    }
}

/// A result of `length` values whose chunks are written side by side; `work` gets a chunk's number
/// and must write all of it. What it returns comes back in the order of the chunks.
pub(in crate::engine) fn written_with<R: Send>(
    length: usize,
    chunk: usize,
    work: impl Fn(usize, &mut Fresh<'_>) -> R + Sync,
) -> Result<(Vec<f32>, Vec<R>)> {
    let mut values = Vec::with_capacity(length);
    let chunks = values.spare_capacity_mut()[..length].par_chunks_mut(chunk.max(1)).enumerate();
    let done = chunks.map(|(index, slots)| {
        let mut fresh = Fresh { slots, written: 0 };
        let result = work(index, &mut fresh);
        (fresh.written == fresh.slots.len()).then_some(result)
    });
    let Some(results) = done.collect::<Vec<_>>().into_iter().collect() else {
        bail!("a result of {length} values was not written to its end");
    };
    // SAFETY: every slot of every chunk has been written.
    unsafe { values.set_len(length) };
    Ok((values, results))
}

/// [`written_with`] for work that returns nothing.
pub(in crate::engine) fn written(
    length: usize,
    chunk: usize,
    work: impl Fn(usize, &mut Fresh<'_>) + Sync,
) -> Result<Vec<f32>> {
    Ok(written_with(length, chunk, work)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_written_in_their_places() {
        let (values, firsts) = written_with(10, 4, |index, fresh| {
            let first = index * 4;
            let part = fresh.next((first..first + 2).map(|value| value as f32));
            for value in part {
                *value += 0.5;
            }
            fresh.extend((first..).map(|value| value as f32));
            first
        })
        .unwrap();
        assert_eq!(values, [0.5, 1.5, 0.0, 1.0, 4.5, 5.5, 4.0, 5.0, 8.5, 9.5]);
        assert_eq!(firsts, [0, 4, 8]);
        assert!(written(0, 0, |_, _| ()).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_written_is_never_read() {
        assert!(written(10, 4, |_, fresh| fresh.extend([1.0, 2.0].into_iter())).is_err());
        assert!(written(3, 3, |_, _| ()).is_err());
    }
}
