//! What the system's allocator does with memory that is free for a moment.
//!
//! glibc gives the end of its heap back as soon as it is free, and has it cleared page by page when
//! the next layer asks for it again: a twelfth of a training step of the built-in model.

#![allow(unsafe_code, reason = "the allocator is told of its thresholds by a call to C")]

/// Has the process keep freed memory for what is allocated next, up to 64 MiB of it; more goes back
/// as before. For runs whose memory is not limited: what is kept for one phase lies beside what the
/// next takes.
///
/// Blocks of 5 MiB and more, which are the activations of large networks, do not come from the heap:
/// among smaller ones they would leave gaps that add up, and clearing them takes little beside what
/// is computed into them.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        // Setting either threshold stops glibc from adapting both, so both are set.
        ONCE.call_once(|| {
            for (parameter, bytes) in
                [(libc::M_TRIM_THRESHOLD, 64 << 20), (libc::M_MMAP_THRESHOLD, 5 << 20)]
            {
                // SAFETY: `mallopt` takes numbers alone, under the allocator's own lock.
                unsafe { libc::mallopt(parameter, bytes) };
            }
        });
    }
}
