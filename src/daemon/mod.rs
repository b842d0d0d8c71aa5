//! The daemon in one piece: starts every part, watches them, and shuts them down in order.
//!
//! `keystep serve` runs it until a signal comes, `keystep demo` runs it within its own process, and
//! tests run it over engines of their own.

mod available_memory;
mod data_folder;
mod error;
mod measured_store;
mod readiness;
mod running;
mod sampling;
mod starting;
mod wiring;

#[cfg(test)]
mod tests;

pub use available_memory::available_memory;
pub use error::StartError;
pub use running::{Daemon, DaemonSignal};
pub use starting::DaemonParts;
pub use wiring::authenticator;
