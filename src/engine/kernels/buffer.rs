//! Reuses memory for what operations hold while they run.
//!
//! Fresh memory has to be cleared, by the system or by us, before it is written: for a small network
//! that takes as long as some of its products.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
};

/// Buffers that a thread keeps.
const KEPT: usize = 8;
/// Values of the largest buffer that is kept.
const LARGEST: usize = 1 << 23;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Some values that are whatever they were, to be written before they are read.
#[derive(Debug)]
pub(in crate::engine) struct Buffer {
    values: Vec<f32>,
    length: usize,
}

impl Buffer {
    pub(in crate::engine) fn new(length: usize) -> Self {
        // The smallest that is large enough.
        let kept = FREE.with_borrow_mut(|free| {
            let fitting = free.iter().enumerate().filter(|(_, kept)| kept.len() >= length);
            let best = fitting.min_by_key(|(_, kept)| kept.len()).map(|(index, _)| index);
            best.map(|index| free.swap_remove(index))
        });
        Self { values: kept.unwrap_or_else(|| vec![0.0; length]), length }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        if values.len() > LARGEST {
            return;
        }
        // Fails where the thread is about to end.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            free.push(values);
            if free.len() > KEPT {
                let smallest = free.iter().enumerate().min_by_key(|(_, kept)| kept.len());
                if let Some((index, _)) = smallest {
                    free.swap_remove(index);
                }
            }
        });
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_of_the_length_asked_for_and_used_again() {
        std::thread::spawn(|| {
            let mut first = Buffer::new(10);
            first.fill(3.0);
            let place = first.as_ptr();
            drop(first);
            let second = Buffer::new(7);
            assert_eq!((second.len(), second.as_ptr()), (7, place));
            assert_eq!(Buffer::new(8).len(), 8);
            let held: Vec<Buffer> = (1..40).map(Buffer::new).collect();
            assert!(held.iter().zip(1..).all(|(buffer, length)| buffer.len() == length));
            drop(held);
            FREE.with_borrow(|free| assert_eq!(free.len(), KEPT));
        })
        .join()
        .unwrap();
    }
}
