//! The Prometheus endpoint.

use std::{fmt, net::SocketAddr};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::{runtime::Handle, task::JoinHandle};

use super::{
    BuildInfo, Metric, MetricKind, TelemetryError,
    record::{build_info, describe_all},
};

/// Serves the process's metrics until it is dropped.
pub struct MetricsExporter {
    handle: PrometheusHandle,
    serving: JoinHandle<()>,
}

impl MetricsExporter {
    /// What `/metrics` answers now.
    pub fn render(&self) -> String {
        self.handle.render()
    }
}

impl fmt::Debug for MetricsExporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsExporter").finish_non_exhaustive()
    }
}

impl Drop for MetricsExporter {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Collects metrics from now on, and serves them over HTTP; once a process. Without it nothing is
/// collected. The port is open when this returns.
pub fn export_metrics(
    address: SocketAddr,
    runtime: &Handle,
) -> Result<MetricsExporter, TelemetryError> {
    let refused =
        |error: BuildError| TelemetryError::Listen { address, message: error.to_string() };
    let builder = builder().map_err(refused)?.with_http_listener(address);
    // The exporter looks for a runtime and panics where there is none.
    let _within = runtime.enter();
    let (recorder, exporter) = builder.build().map_err(refused)?;
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)
        .map_err(|_| TelemetryError::SetUpBefore { what: "metrics" })?;
    describe_all();
    build_info(BuildInfo::CURRENT);
    let serving = runtime.spawn(async move {
        if let Err(error) = exporter.await {
            tracing::error!(?error, "metrics are served no more");
        }
    });
    Ok(MetricsExporter { handle, serving })
}

pub(super) fn builder() -> Result<PrometheusBuilder, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for &metric in Metric::ALL {
        if let MetricKind::Histogram(bounds) = metric.kind() {
            builder =
                builder.set_buckets_for_metric(Matcher::Full(metric.name().to_owned()), bounds)?;
        }
    }
    Ok(builder)
}
