//! Logs and metrics.
//!
//! Knows neither jobs nor calls: its functions take plain values. Metrics are recorded through these
//! functions alone, so that [`Metric`] is the whole list.

mod build;
mod error;
mod exporter;
mod log;
mod memory_line;
mod metric;
mod record;

#[cfg(test)]
mod tests;

pub use build::BuildInfo;
pub use error::TelemetryError;
pub use exporter::{MetricsExporter, export_metrics};
pub use log::{LogStyle, log_panics, log_to_stderr};
pub use memory_line::memory_line;
pub use metric::{Metric, MetricKind, reference_page};
pub use record::{
    artifact_bytes, build_info, direct_calls_waiting, iterations, job_phase_finished, jobs,
    lease_lost, loss, memory, output_works, queue_waited, ready, rpc_finished, store_failed,
};
