//! How the device is used.

use std::time::Duration;

use super::{CallLimits, ServingMark};
use crate::jobs::Clock;

/// How the device is used.
#[derive(Debug, Clone)]
pub struct DeviceSettings {
    /// Jobs that are worked on side by side, 1 or more.
    pub slots: usize,
    /// Models that stay loaded in each memory, 1 or more.
    pub loaded_models: usize,
    /// Interactive calls that may wait.
    pub interactive_calls: usize,
    /// Of them, those of one principal.
    pub interactive_calls_of_principal: usize,
    /// What one interactive call may ask for.
    pub call_limits: CallLimits,
    /// Marks that a call is being served.
    pub serving_mark: Option<ServingMark>,
    /// Pause after a first fault of the engine; doubles with each further one.
    pub first_backoff: Duration,
    /// Longest pause after a fault.
    pub max_backoff: Duration,
    /// Where the time comes from, for measured rates.
    pub clock: Clock,
}

impl Default for DeviceSettings {
    fn default() -> Self {
        Self {
            slots: 1,
            loaded_models: 2,
            interactive_calls: 16,
            interactive_calls_of_principal: 8,
            call_limits: CallLimits::default(),
            serving_mark: None,
            first_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(30),
            clock: Clock::System,
        }
    }
}
