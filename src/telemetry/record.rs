//! A function for each metric or group of metrics: the only place where they are recorded.
#![expect(clippy::disallowed_macros, reason = "this is the seam")]

use std::time::Duration;

use super::{BuildInfo, Metric, MetricKind};

/// Describes every metric to the recorder of this process.
pub(super) fn describe_all() {
    for &metric in Metric::ALL {
        let (name, about) = (metric.name(), metric.about());
        match metric.kind() {
            MetricKind::Counter => metrics::describe_counter!(name, about),
            MetricKind::Gauge => metrics::describe_gauge!(name, about),
            MetricKind::Histogram(_) => metrics::describe_histogram!(name, about),
        }
    }
}

/// Records a call that ended. `method` must come from the list of methods, never from a client's text.
pub fn rpc_finished(method: &str, code: &'static str, lasted: Duration) {
    let method = method.to_owned();
    metrics::counter!(Metric::RpcRequests.name(), "method" => method.clone(), "code" => code)
        .increment(1);
    metrics::histogram!(Metric::RpcDuration.name(), "method" => method).record(lasted);
}

/// Records the number of jobs in a state.
pub fn jobs(state: &'static str, count: u64) {
    metrics::gauge!(Metric::Jobs.name(), "state" => state).set(count as f64);
}

/// Records the time of a job in a phase; `outcome` is the phase or end that came after it.
pub fn job_phase_finished(phase: &'static str, outcome: &'static str, lasted: Duration) {
    metrics::histogram!(Metric::JobDuration.name(), "phase" => phase, "outcome" => outcome)
        .record(lasted);
}

/// Records how long a job waited before its first claim.
pub fn queue_waited(waited: Duration) {
    metrics::histogram!(Metric::QueueWait.name()).record(waited);
}

/// Records updates, and the time that they took.
pub fn iterations(count: u64, lasted: Duration) {
    metrics::counter!(Metric::Iterations.name()).increment(count);
    let Ok(updates) = u32::try_from(count) else { return };
    if let Some(each) = lasted.checked_div(updates) {
        let times = usize::try_from(count).unwrap_or(usize::MAX);
        metrics::histogram!(Metric::IterationDuration.name()).record_many(each, times);
    }
}

/// Records the loss that an erasure reported.
pub fn loss(loss: f64) {
    metrics::gauge!(Metric::Loss.name()).set(loss);
}

/// Records the memory of a device; `kind` is `resident` or `peak`.
pub fn memory(device: &'static str, kind: &'static str, bytes: u64) {
    metrics::gauge!(Metric::DeviceMemory.name(), "device" => device, "kind" => kind)
        .set(bytes as f64);
}

/// Records the number of calls that wait for the device.
pub fn direct_calls_waiting(count: usize) {
    metrics::gauge!(Metric::DirectCallsWaiting.name()).set(count as f64);
}

/// Records leases that were lost.
pub fn lease_lost(count: u64) {
    metrics::counter!(Metric::LeaseLost.name()).increment(count);
}

/// Records the bytes of a published result.
pub fn artifact_bytes(bytes: u64) {
    metrics::counter!(Metric::ArtifactBytes.name()).increment(bytes);
}

/// Records a failure of the store.
pub fn store_failed(reason: &'static str) {
    metrics::counter!(Metric::StoreErrors.name(), "reason" => reason).increment(1);
}

/// Records whether results can be published.
pub fn output_works(works: bool) {
    metrics::gauge!(Metric::OutputWorks.name()).set(f64::from(u8::from(works)));
}

/// Records whether health checks answer "serving".
pub fn ready(is_ready: bool) {
    metrics::gauge!(Metric::Ready.name()).set(f64::from(u8::from(is_ready)));
}

/// Records version and build.
pub fn build_info(build: BuildInfo) {
    let BuildInfo { version, profile, os, architecture } = build;
    metrics::gauge!(
        Metric::BuildInfo.name(),
        "version" => version, "profile" => profile, "os" => os, "architecture" => architecture
    )
    .set(1.0);
}
