//! The library as a program calls it, with real models and no service around it.

mod altered_model;
mod bad_input;
mod faults;
mod golden;
mod image_to_image;
mod input_gradients;
mod judging;
mod odd_sizes;
mod planning;
mod projected_text;
mod resuming;
mod scoring;
mod unlearning;

use keystep::engine::RunContext;

/// Work that nobody watches, and that keeps nothing.
fn unwatched<T>(work: impl FnOnce(&mut RunContext<'_>) -> T) -> T {
    let mut report = |_| {};
    work(&mut RunContext::reporting(&mut report))
}
