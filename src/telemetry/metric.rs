//! Declares every metric.

use std::fmt::Write;

use Metric::{
    ArtifactBytes, BuildInfo, DeviceMemory, DirectCallsWaiting, IterationDuration, Iterations,
    JobDuration, Jobs, LeaseLost, Loss, OutputWorks, QueueWait, Ready, RpcDuration, RpcRequests,
    StoreErrors,
};

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

/// A metric. Nothing else is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Calls that ended.
    RpcRequests,
    /// How long calls took.
    RpcDuration,
    /// Jobs by state.
    Jobs,
    /// How long phases of jobs took.
    JobDuration,
    /// How long jobs waited.
    QueueWait,
    /// Updates made.
    Iterations,
    /// How long an update took.
    IterationDuration,
    /// The loss now.
    Loss,
    /// Memory in use.
    DeviceMemory,
    /// Calls that wait for the device.
    DirectCallsWaiting,
    /// Leases that were lost.
    LeaseLost,
    /// Bytes published.
    ArtifactBytes,
    /// Failures of the store.
    StoreErrors,
    /// Whether results can be published.
    OutputWorks,
    /// Whether health says serving.
    Ready,
    /// Version and build.
    BuildInfo,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Self; 16] = [
        RpcRequests,
        RpcDuration,
        Jobs,
        JobDuration,
        QueueWait,
        Iterations,
        IterationDuration,
        Loss,
        DeviceMemory,
        DirectCallsWaiting,
        LeaseLost,
        ArtifactBytes,
        StoreErrors,
        OutputWorks,
        Ready,
        BuildInfo,
    ];

    /// Its name in Prometheus.
    pub fn name(self) -> &'static str {
        match self {
            RpcRequests => "keystep_rpc_requests_total",
            RpcDuration => "keystep_rpc_duration_seconds",
            Jobs => "keystep_jobs",
            JobDuration => "keystep_job_duration_seconds",
            QueueWait => "keystep_queue_wait_seconds",
            Iterations => "keystep_iterations_total",
            IterationDuration => "keystep_iteration_duration_seconds",
            Loss => "keystep_loss",
            DeviceMemory => "keystep_device_memory_bytes",
            DirectCallsWaiting => "keystep_direct_calls_waiting",
            LeaseLost => "keystep_lease_lost_total",
            ArtifactBytes => "keystep_artifact_bytes_total",
            StoreErrors => "keystep_store_errors_total",
            OutputWorks => "keystep_output_works",
            Ready => "keystep_ready",
            BuildInfo => "keystep_build_info",
        }
    }

    /// Its kind.
    pub fn kind(self) -> MetricKind {
        match self {
            RpcRequests | Iterations | LeaseLost | ArtifactBytes | StoreErrors => {
                MetricKind::Counter
            }
            Jobs | Loss | DeviceMemory | DirectCallsWaiting | OutputWorks | Ready | BuildInfo => {
                MetricKind::Gauge
            }
            RpcDuration => MetricKind::Histogram(CALLS),
            JobDuration | QueueWait => MetricKind::Histogram(JOBS),
            IterationDuration => MetricKind::Histogram(UPDATES),
        }
    }

    /// The names of its labels, each with a closed set of values.
    pub fn labels(self) -> &'static [&'static str] {
        match self {
            RpcRequests => &["method", "code"],
            RpcDuration => &["method"],
            Jobs => &["state"],
            JobDuration => &["phase", "outcome"],
            DeviceMemory => &["device", "kind"],
            StoreErrors => &["reason"],
            BuildInfo => &["version", "profile", "os", "architecture"],
            QueueWait | Iterations | IterationDuration | Loss | DirectCallsWaiting | LeaseLost
            | ArtifactBytes | OutputWorks | Ready => &[],
        }
    }

    /// Its description.
    pub fn about(self) -> &'static str {
        match self {
            RpcRequests => "Calls that ended, by method and status code.",
            RpcDuration => "Seconds from a call's headers to its last message.",
            Jobs => "Jobs in the store, by state.",
            JobDuration => "Seconds that a phase of a job took, by phase and what came after it.",
            QueueWait => "Seconds from the acceptance of a job to its first claim.",
            Iterations => "Updates that erasures made.",
            IterationDuration => "Seconds an update took, averaged from one report to the next.",
            Loss => "The loss that the erasure under way reported last.",
            DeviceMemory => {
                "Bytes of memory that the process holds (resident) and held at most (peak)."
            }
            DirectCallsWaiting => "Generate and ScoreTimesteps calls that wait for the device.",
            LeaseLost => "Holds on jobs that this worker lost, or found to have expired.",
            ArtifactBytes => "Bytes of results that were published.",
            StoreErrors => "Failures of the job store, by reason.",
            OutputWorks => "1 while results can be published, as far as is known.",
            Ready => "1 while health says serving.",
            BuildInfo => "1, with what runs as labels.",
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
    for metric in Metric::ALL {
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
