//! Sets how long the program's allocator keeps freed memory.
//!
//! The system clears every page that it hands out: for the activations of a training step, which are
//! asked for and given back layer by layer, that took a seventh of the processors' time.

#![allow(unsafe_code, reason = "the allocator is told by a call to C")]

use std::ffi::{c_int, c_long};

/// `mi_option_purge_delay` of mimalloc's `mimalloc.h`.
const PURGE_DELAY: c_int = 15;

/// Has the allocator keep freed memory for a second. For runs whose memory is not limited: what is
/// kept for one phase lies beside what the next takes.
pub fn keep_freed_memory() {
    purge_after(1_000);
}

/// Has it give back soon what is freed, after the ten milliseconds that it takes for itself.
pub fn give_freed_memory_back() {
    purge_after(10);
}

/// Does nothing where the program has another allocator.
fn purge_after(milliseconds: c_long) {
    // SAFETY: the function takes numbers alone, and sets an atomic one.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, milliseconds) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Options have numbers and no names: another one's default is none of these.
    #[test]
    fn the_option_is_the_one_that_is_meant() {
        // SAFETY: the function takes a number alone, and reads an atomic one.
        let milliseconds = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert!([10, 1_000].contains(&milliseconds), "{milliseconds}");
    }
}
