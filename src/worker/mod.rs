//! What the device is asked beside the job that holds it: calls, their answers and their queue's
//! limits. The worker that answers them belongs here too.

mod direct;

pub use direct::{DirectCall, DirectQueueFull, DirectStream, DirectUpdate, PlanEstimate};
