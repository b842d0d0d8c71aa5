//! The program `keystep`; everything is in [`keystep::cli`].

/// Layers ask for their activations and give them back by the hundred: a system's allocator has most
/// of that cleared anew each time. How long this one waits is `src/engine/kernels/heap.rs`'s business.
#[cfg(feature = "server")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    keystep::cli::run()
}
