//! Every metric is recorded, described and documented; alerts and dashboard name no others.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use super::{BuildInfo, Metric, MetricKind, exporter, record, reference_page};

/// Every function of `record`, once.
fn measure_everything() {
    let second = Duration::from_secs(1);
    record::rpc_finished("/keystep.v1.UnlearningService/Generate", "OK", second);
    record::jobs("queued", 3);
    record::job_phase_finished("running", "publishing", second);
    record::queue_waited(second);
    record::iterations(4, second);
    record::loss(0.5);
    record::memory("cpu", "resident", 1 << 20);
    record::direct_calls_waiting(2);
    record::output_works(true);
    record::lease_lost(1);
    record::artifact_bytes(10);
    record::store_failed("backend");
    record::ready(true);
    record::build_info(BuildInfo::CURRENT);
}

#[test]
fn every_metric_is_measured_described_and_labelled() {
    let recorder = exporter::builder().unwrap().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        record::describe_all();
        measure_everything();
    });
    let text = handle.render();
    for &metric in Metric::ALL {
        let name = metric.name();
        assert!(text.contains(&format!("# HELP {name} {}", metric.about())), "{name}:\n{text}");
        let (kind, sample) = match metric.kind() {
            MetricKind::Counter => ("counter", name.to_owned()),
            MetricKind::Gauge => ("gauge", name.to_owned()),
            MetricKind::Histogram(_) => ("histogram", format!("{name}_bucket")),
        };
        assert!(text.contains(&format!("# TYPE {name} {kind}")), "{name}:\n{text}");
        let line = text.lines().find(|line| {
            line.strip_prefix(&sample).is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        let line = line.unwrap_or_else(|| panic!("{name} has no sample:\n{text}"));
        for label in metric.labels() {
            assert!(line.contains(&format!("{label}=\"")), "{line} lacks {label}");
        }
    }
    assert!(text.contains("keystep_iterations_total 4"), "{text}");
    assert!(text.contains("keystep_iteration_duration_seconds_bucket{le=\"0.25\"} 4"), "{text}");
}

#[test]
fn names_are_unique_and_have_their_units() {
    let names: BTreeSet<_> = Metric::ALL.iter().map(|metric| metric.name()).collect();
    assert_eq!(names.len(), Metric::ALL.len());
    for &metric in Metric::ALL {
        let name = metric.name();
        let is_counter = metric.kind() == MetricKind::Counter;
        assert_eq!(name.ends_with("_total"), is_counter, "{name}");
    }
}

#[test]
fn the_reference_of_metrics_is_up_to_date() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let wanted = reference_page();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        fs::write(&file, &wanted).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(found == wanted, "stale; UPDATE_REFERENCE=1 cargo test --lib telemetry::");
}

/// Words of a text that look like metrics of ours.
fn metrics_named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("keystep_")).map(str::to_owned).collect()
}

#[test]
fn alerts_and_dashboard_name_only_metrics_that_exist() {
    let deploy = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy");
    for file in ["alerts.yaml", "dashboard.json"] {
        let text = fs::read_to_string(deploy.join(file)).unwrap();
        let named = metrics_named(&text);
        assert!(!named.is_empty(), "{file} names no metric");
        for name in named {
            let exists = Metric::ALL.iter().any(|metric| {
                let is_histogram = matches!(metric.kind(), MetricKind::Histogram(_));
                name.strip_prefix(metric.name()).is_some_and(|rest| match rest {
                    "" => !is_histogram,
                    "_bucket" | "_sum" | "_count" => is_histogram,
                    _ => false,
                })
            });
            assert!(exists, "{file} names {name}, which is no metric");
        }
    }
}
