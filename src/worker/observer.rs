//! Told what a worker does, for metrics.

use std::{fmt::Debug, time::Duration};

use crate::jobs::{JobProgress, StateName};

/// Watches a worker. Called often and from its tasks: must return at once.
pub trait Observer: Debug + Send + Sync {
    /// A job was claimed after waiting so long for it.
    fn claimed(&self, waited: Duration);
    /// A job advanced.
    fn advanced(&self, progress: &JobProgress);
    /// A job left the worker's hands so long after its claim: done, or queued again.
    fn ended(&self, state: StateName, lasted: Duration);
    /// Another claim came after.
    fn lease_lost(&self);
    /// The store did not answer.
    fn store_failed(&self);
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn claimed(&self, _: Duration) {}
    fn advanced(&self, _: &JobProgress) {}
    fn ended(&self, _: StateName, _: Duration) {}
    fn lease_lost(&self) {}
    fn store_failed(&self) {}
}
