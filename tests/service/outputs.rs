//! Whole daemons and where their results go: health while the output fails, and destinations that can
//! never be written.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panics")]

use std::{fs, path::Path, sync::Arc, time::Duration};

use keystep::{
    config::Settings,
    daemon::{Daemon, DaemonParts},
    jobs::{JobStore, ListQuery, StateName},
    proto::{
        google::longrunning::{
            Operation, WaitOperationRequest, operation, operations_client::OperationsClient,
        },
        keystep::v1::{
            ConceptKind, EvaluateErasureRequest, UnlearnConceptRequest,
            unlearning_service_client::UnlearningServiceClient,
        },
    },
    worker::testing::{FakeScript, FakeSource},
};
use tokio::time::timeout;
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt;
use uuid::Uuid;

const LONG: Duration = Duration::from_mins(2);

async fn started(folder: &Path, script: &Arc<FakeScript>) -> (Daemon, Channel) {
    let mut settings = Settings::default();
    settings.server.listen = ([127, 0, 0, 1], 0).into();
    settings.server.data_dir = folder.join("data");
    settings.storage.outputs = vec![format!("file://{}/out", folder.display())];
    let parts = DaemonParts::new(FakeSource(script.clone()));
    let daemon = Daemon::start(&settings, parts).await.unwrap();
    becomes_ready(&daemon, true).await;
    let address = format!("http://{}", daemon.address());
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
    (daemon, channel)
}

async fn becomes_ready(daemon: &Daemon, wanted: bool) {
    let mut ready = daemon.ready();
    timeout(LONG, ready.wait_for(|ready| *ready == wanted)).await.unwrap().unwrap();
}

fn request(destination: &str) -> UnlearnConceptRequest {
    UnlearnConceptRequest {
        request_id: Uuid::new_v4().to_string(),
        base_model: "emoji-canvas".to_owned(),
        concepts: vec!["cat".to_owned()],
        concept_kind: ConceptKind::ObjectClass.into(),
        evaluate: Some(false),
        force: true,
        destination: destination.to_owned(),
        ..UnlearnConceptRequest::default()
    }
}

async fn asked(channel: &Channel) -> Operation {
    let mut client = UnlearningServiceClient::new(channel.clone());
    client.unlearn_concept(request("")).await.unwrap().into_inner()
}

async fn succeeds(channel: &Channel, operation: &Operation) {
    let wait = WaitOperationRequest { name: operation.name.clone(), timeout: None };
    let mut client = OperationsClient::new(channel.clone());
    let done = timeout(LONG, client.wait_operation(wait)).await.unwrap().unwrap().into_inner();
    assert!(matches!(done.result, Some(operation::Result::Response(_))), "{done:?}");
}

/// States of all jobs, the oldest first.
async fn states(daemon: &Daemon) -> Vec<StateName> {
    let query = ListQuery { limit: 10, ..ListQuery::default() };
    let jobs = daemon.store().list(&query).await.unwrap().jobs;
    jobs.iter().rev().map(|job| job.state.name()).collect()
}

async fn until(daemon: &Daemon, wanted: &[StateName]) {
    let mut changes = daemon.store().subscribe();
    let comes = async {
        while states(daemon).await != wanted {
            changes.changed().await.unwrap();
        }
    };
    timeout(LONG, comes).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_follows_an_output_that_goes_and_comes_back() {
    use StateName::{Publishing, Queued, Running};
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let script = FakeScript::new(100, Duration::from_millis(5));
    let (daemon, channel) = started(folder.path(), &script).await;
    let (first, second) = (asked(&channel).await, asked(&channel).await);
    until(&daemon, &[Running, Queued]).await;
    // A file takes no files, even from root.
    fs::remove_dir_all(&out).unwrap();
    fs::write(&out, "in the way").unwrap();
    becomes_ready(&daemon, false).await;
    assert_eq!(states(&daemon).await, [Publishing, Queued]);
    let mut health = HealthClient::new(channel.clone());
    let answer = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);

    fs::remove_file(&out).unwrap();
    becomes_ready(&daemon, true).await;
    for operation in [&first, &second] {
        succeeds(&channel, operation).await;
    }
    let made = script.updates_made.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(made, 200, "nothing was trained twice");
    timeout(LONG, daemon.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_can_never_be_written_is_refused_with_its_field() {
    let folder = tempfile::tempdir().unwrap();
    let script = FakeScript::new(1, Duration::ZERO);
    let (daemon, channel) = started(folder.path(), &script).await;
    let mut client = UnlearningServiceClient::new(channel);
    let root = format!("file://{}/out", folder.path().display());
    let refusal = |status: Status| {
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let bad = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(bad.len(), 1, "{bad:?}");
        assert_eq!(bad[0].field, "destination");
        bad[0].description.clone()
    };
    for (below, said) in [
        ("%00".to_owned(), "control character"),
        ("%0a".to_owned(), "control character"),
        ("%7f".to_owned(), "control character"),
        ("%c0%ae%c0%ae/x".to_owned(), "UTF-8"),
        ("%ff%fe".to_owned(), "UTF-8"),
        ("a".repeat(300), "300 bytes, the limit is 255"),
        ("%C3%BC".repeat(128), "256 bytes, the limit is 255"),
        ("abcdefgh/".repeat(1_100), "the limit is 4095"),
    ] {
        let destination = format!("{root}/{below}");
        for validate_only in [true, false] {
            let asked = UnlearnConceptRequest { validate_only, ..request(&destination) };
            let text = refusal(client.unlearn_concept(asked).await.unwrap_err());
            assert!(text.contains(said), "{below}: {text}");
            assert!(!text.contains("file://tmp"), "{text}");
        }
        let evaluated = EvaluateErasureRequest {
            base_model: "emoji-canvas".to_owned(),
            edited_model: "checkpoints/1".to_owned(),
            concept: "cat".to_owned(),
            concept_kind: ConceptKind::ObjectClass.into(),
            destination,
            ..EvaluateErasureRequest::default()
        };
        let text = refusal(client.evaluate_erasure(evaluated).await.unwrap_err());
        assert!(text.contains(said), "{below}: {text}");
    }
    assert!(states(&daemon).await.is_empty());
    let fine = request(&format!("{root}/{}", "a".repeat(255)));
    client.unlearn_concept(fine).await.unwrap();
    timeout(LONG, daemon.stop()).await.unwrap();
}
