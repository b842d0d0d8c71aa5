//! Declares every metric.

use std::fmt::Write;

use strum::{EnumMessage, VariantArray};

/// Durations of calls, in seconds.
const CALLS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0];
/// Durations of jobs and of their waiting, in seconds: up to a day.
const JOBS: &[f64] =
    &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0, 43_200.0, 86_400.0];
/// Durations of updates, in seconds.
const UPDATES: &[f64] = &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution, with the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

/// A metric. Nothing else is measured. What documents one here describes it to Prometheus.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, strum::EnumMessage, strum::IntoStaticStr, strum::VariantArray,
)]
pub enum Metric {
    /// Calls that ended, by method and status code.
    #[strum(serialize = "keystep_rpc_requests_total")]
    RpcRequests,
    /// Seconds from a call's headers to its last message.
    #[strum(serialize = "keystep_rpc_duration_seconds")]
    RpcDuration,
    /// Jobs in the store, by state.
    #[strum(serialize = "keystep_jobs")]
    Jobs,
    /// Seconds that a phase of a job took, by phase and what came after it.
    #[strum(serialize = "keystep_job_duration_seconds")]
    JobDuration,
    /// Seconds from the acceptance of a job to its first claim.
    #[strum(serialize = "keystep_queue_wait_seconds")]
    QueueWait,
    /// Updates that erasures made.
    #[strum(serialize = "keystep_iterations_total")]
    Iterations,
    /// Seconds an update took, averaged from one report to the next.
    #[strum(serialize = "keystep_iteration_duration_seconds")]
    IterationDuration,
    /// The loss that the erasure under way reported last.
    #[strum(serialize = "keystep_loss")]
    Loss,
    /// Bytes of memory that the process holds (resident) and held at most (peak).
    #[strum(serialize = "keystep_device_memory_bytes")]
    DeviceMemory,
    /// Generate and ScoreTimesteps calls that wait for the device.
    #[strum(serialize = "keystep_direct_calls_waiting")]
    DirectCallsWaiting,
    /// Holds on jobs that this worker lost, or found to have expired.
    #[strum(serialize = "keystep_lease_lost_total")]
    LeaseLost,
    /// Bytes of results that were published.
    #[strum(serialize = "keystep_artifact_bytes_total")]
    ArtifactBytes,
    /// Failures of the job store, by reason.
    #[strum(serialize = "keystep_store_errors_total")]
    StoreErrors,
    /// 1 while results can be published, as far as is known.
    #[strum(serialize = "keystep_output_works")]
    OutputWorks,
    /// 1 while health says serving.
    #[strum(serialize = "keystep_ready")]
    Ready,
    /// 1, with what runs as labels.
    #[strum(serialize = "keystep_build_info")]
    BuildInfo,
}

impl Metric {
    /// Every metric.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// Its name in Prometheus.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Its description.
    pub fn about(self) -> &'static str {
        self.get_documentation().unwrap_or_default()
    }

    /// Its kind.
    pub fn kind(self) -> MetricKind {
        match self {
            Self::RpcRequests
            | Self::Iterations
            | Self::LeaseLost
            | Self::ArtifactBytes
            | Self::StoreErrors => MetricKind::Counter,
            Self::Jobs
            | Self::Loss
            | Self::DeviceMemory
            | Self::DirectCallsWaiting
            | Self::OutputWorks
            | Self::Ready
            | Self::BuildInfo => MetricKind::Gauge,
            Self::RpcDuration => MetricKind::Histogram(CALLS),
            Self::JobDuration | Self::QueueWait => MetricKind::Histogram(JOBS),
            Self::IterationDuration => MetricKind::Histogram(UPDATES),
        }
    }

    /// The names of its labels, each with a closed set of values.
    pub fn labels(self) -> &'static [&'static str] {
        match self {
            Self::RpcRequests => &["method", "code"],
            Self::RpcDuration => &["method"],
            Self::Jobs => &["state"],
            Self::JobDuration => &["phase", "outcome"],
            Self::DeviceMemory => &["device", "kind"],
            Self::StoreErrors => &["reason"],
            Self::BuildInfo => &["version", "profile", "os", "architecture"],
            _ => &[],
        }
    }
}

/// `docs/metrics.md`.
pub fn reference_page() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         <!-- Made from src/telemetry/metric.rs; change it there, and run\n     \
         UPDATE_REFERENCE=1 cargo test --lib telemetry:: to write this page again. -->\n\n\
         Served for Prometheus at `http://ADDR/metrics` where `metrics.listen` names an address.\n\
         Alert rules and a dashboard that use them lie in `deploy/`.\n\n\
         | Metric | Kind | Labels | Says |\n| --- | --- | --- | --- |\n",
    );
    for &metric in Metric::ALL {
        let kind = match metric.kind() {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram(_) => "histogram",
        };
        let labels: Vec<_> = metric.labels().iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
        // Writing to a text cannot fail.
        let _ = writeln!(page, "| `{}` | {kind} | {labels} | {} |", metric.name(), metric.about());
    }
    page
}
