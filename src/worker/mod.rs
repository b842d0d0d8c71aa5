//! The worker: claims jobs, owns the device thread, saves and resumes training, publishes results,
//! and serves the calls that are bound to their caller in between.

mod direct;

pub use direct::{DirectCall, DirectQueueFull, DirectStream, DirectUpdate, PlanEstimate};
