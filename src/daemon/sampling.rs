//! Samples the metrics that no event reports.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    device::InteractiveCalls,
    jobs::{JobStore, StateName, Store},
    telemetry,
};

/// The sampling interval.
const EVERY: Duration = Duration::from_secs(5);

/// Samples until `closing`.
pub(super) async fn sample(store: Arc<Store>, calls: InteractiveCalls, closing: CancellationToken) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while closing.run_until_cancelled(ticks.tick()).await.is_some() {
        telemetry::direct_calls_waiting(calls.waiting());
        match store.counts().await {
            Ok(counts) => {
                for &state in StateName::ALL {
                    telemetry::jobs(state.name(), counts.get(&state).copied().unwrap_or(0));
                }
            }
            Err(_) => telemetry::store_failed("backend"),
        }
        let status = tokio::fs::read_to_string("/proc/self/status").await.unwrap_or_default();
        for (kind, field) in [("resident", "VmRSS"), ("peak", "VmHWM")] {
            if let Some(bytes) = telemetry::memory_line(&status, field) {
                telemetry::memory("cpu", kind, bytes);
            }
        }
    }
}
