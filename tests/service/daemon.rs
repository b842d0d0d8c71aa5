//! Whole daemons over real gRPC, with a scripted engine.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests fail by panics")]

use std::{
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::stream;
use prost::Message;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, codec::CompressionEncoding, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use url::Url;
use uuid::Uuid;

use keystep::{
    config::Settings,
    daemon::{Daemon, DaemonParts, DaemonSignal, StartError},
    jobs::{JobStore, ListQuery, StateName},
    outcome::{DeviceKind, Picture},
    proto::{
        google::longrunning::{
            GetOperationRequest, Operation, WaitOperationRequest, operation,
            operations_client::OperationsClient,
        },
        keystep::v1::{
            ConceptKind, GenerateRequest, ListModelsRequest, Sampler, UnlearnConceptRequest,
            UnlearnConceptResponse, unlearning_service_client::UnlearningServiceClient,
        },
    },
    report::{PictureNotes, encode_png},
    shutdown::Departure,
    worker::testing::{FakeScript, FakeSource},
};

const LONG: Duration = Duration::from_mins(1);

fn settings(folder: &Path) -> Settings {
    let mut settings = Settings::default();
    settings.server.listen = ([127, 0, 0, 1], 0).into();
    settings.server.data_dir = folder.join("data");
    settings
}

async fn started(settings: &Settings, script: &Arc<FakeScript>) -> Daemon {
    let daemon = Daemon::start(settings, DaemonParts::new(FakeSource(script.clone()))).await;
    let daemon = daemon.unwrap();
    let mut ready = daemon.ready();
    timeout(LONG, ready.wait_for(|ready| *ready)).await.unwrap().unwrap();
    daemon
}

async fn connected(daemon: &Daemon) -> Channel {
    let address = format!("http://{}", daemon.address());
    Channel::from_shared(address).unwrap().connect().await.unwrap()
}

fn request() -> UnlearnConceptRequest {
    UnlearnConceptRequest {
        request_id: Uuid::new_v4().to_string(),
        base_model: "emoji-canvas".to_owned(),
        concepts: vec!["cat".to_owned()],
        concept_kind: ConceptKind::ObjectClass.into(),
        evaluate: Some(false),
        ..UnlearnConceptRequest::default()
    }
}

async fn asked(channel: &Channel) -> Operation {
    let mut client = UnlearningServiceClient::new(channel.clone());
    client.unlearn_concept(request()).await.unwrap().into_inner()
}

async fn waited(channel: &Channel, operation: &Operation) -> Operation {
    let wait = WaitOperationRequest {
        name: operation.name.clone(),
        timeout: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
    };
    OperationsClient::new(channel.clone()).wait_operation(wait).await.unwrap().into_inner()
}

fn fine(job_given_back: bool) -> Departure {
    Departure::Orderly { limits_hit: Vec::new(), job_given_back }
}

#[tokio::test]
async fn a_daemon_needs_no_more_than_an_address_and_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let script = FakeScript::new(5, Duration::ZERO);
    let daemon = started(&settings(folder.path()), &script).await;
    let channel = connected(&daemon).await;

    let mut health = HealthClient::new(channel.clone());
    let health = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
    let mut client = UnlearningServiceClient::new(channel.clone());
    let models = client.list_models(ListModelsRequest::default()).await.unwrap().into_inner();
    assert_eq!(models.models[0].name, "emoji-canvas");

    let done = waited(&channel, &asked(&channel).await).await;
    assert!(matches!(done.result, Some(operation::Result::Response(_))), "{done:?}");
    let checkpoints = folder.path().join("data/published/checkpoints");
    let published: Vec<_> = fs::read_dir(checkpoints).unwrap().flatten().collect();
    assert_eq!(published.len(), 1);
    assert!(published[0].path().join("manifest.json").is_file());
    let contents: Vec<_> = fs::read_dir(published[0].path()).unwrap().flatten().collect();
    let card = contents.iter().map(|entry| entry.path().join("README.md")).find(|it| it.is_file());
    let card = fs::read_to_string(card.unwrap()).unwrap();
    assert!(card.contains("license: \"apache-2.0\""), "{card}");

    let address = daemon.address();
    assert_eq!(timeout(LONG, daemon.stop()).await.unwrap(), fine(false));
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn a_manifest_names_the_device_and_the_seeds_that_computed() {
    let place = tempfile::tempdir().unwrap();
    let script = Arc::new(FakeScript {
        updates: 2,
        can_judge: true,
        device: DeviceKind::Cuda,
        ..FakeScript::default()
    });
    let daemon = started(&settings(place.path()), &script).await;
    let channel = connected(&daemon).await;
    let request = UnlearnConceptRequest { evaluate: Some(true), seed: Some(5), ..request() };
    let mut client = UnlearningServiceClient::new(channel.clone());
    let operation = client.unlearn_concept(request).await.unwrap().into_inner();
    let operation = waited(&channel, &operation).await;
    let Some(operation::Result::Response(response)) = operation.result else {
        panic!("{operation:?}");
    };
    let response = UnlearnConceptResponse::decode(response.value.as_slice()).unwrap();
    let manifest = Url::parse(&response.manifest_uri).unwrap().to_file_path().unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
    assert_eq!(manifest["device"], "cuda");
    assert_eq!(manifest["seeds"], serde_json::json!({ "judge": 500_000, "unlearn": 5 }));
}

/// The manifest and `report.json` of an erasure that was judged.
async fn judged(channel: &Channel, seed: u64) -> (serde_json::Value, Vec<u8>) {
    let request = UnlearnConceptRequest {
        evaluate: Some(true),
        evaluate_sampler: Sampler::Euler.into(),
        seed: Some(seed),
        force: true,
        ..request()
    };
    let mut client = UnlearningServiceClient::new(channel.clone());
    let operation = client.unlearn_concept(request).await.unwrap().into_inner();
    let operation = waited(channel, &operation).await;
    let Some(operation::Result::Response(response)) = operation.result else {
        panic!("{operation:?}");
    };
    let response = UnlearnConceptResponse::decode(response.value.as_slice()).unwrap();
    assert_eq!(response.verdicts[0].sampler(), Sampler::Euler);
    let local = |uri: &str| fs::read(Url::parse(uri).unwrap().to_file_path().unwrap()).unwrap();
    let report = response.files.iter().find(|file| file.uri.ends_with("/report.json")).unwrap();
    let manifest = serde_json::from_slice(&local(&response.manifest_uri)).unwrap();
    (manifest, local(&report.uri))
}

#[tokio::test]
async fn the_base_model_draws_a_judged_grid_once() {
    let place = tempfile::tempdir().unwrap();
    let script = Arc::new(FakeScript { updates: 2, can_judge: true, ..FakeScript::default() });
    let grids = || script.base_grids.load(Ordering::SeqCst);
    let daemon = started(&settings(place.path()), &script).await;
    let channel = connected(&daemon).await;
    let (manifest, report) = judged(&channel, 5).await;
    assert_eq!(manifest["verdicts"][0]["sampler"], "euler");
    judged(&channel, 6).await;
    assert_eq!(grids(), 1);

    // Equal work is reported alike, whatever was kept of it.
    let (again, same) = judged(&channel, 5).await;
    assert_eq!(
        (again["unet_evaluations"].clone(), same),
        (manifest["unet_evaluations"].clone(), report)
    );
    assert_eq!(grids(), 1);
    assert_eq!(timeout(LONG, daemon.stop()).await.unwrap(), fine(false));

    // Also after a restart; what is damaged is drawn anew.
    let daemon = started(&settings(place.path()), &script).await;
    let channel = connected(&daemon).await;
    judged(&channel, 7).await;
    assert_eq!(grids(), 1);
    let kept = fs::read_dir(place.path().join("data/models/pictures")).unwrap();
    for entry in kept.flatten() {
        fs::write(entry.path().join("files/pictures"), "damaged").unwrap();
    }
    judged(&channel, 8).await;
    assert_eq!(grids(), 2);
    judged(&channel, 9).await;
    assert_eq!(grids(), 2);
}

#[tokio::test]
async fn compressed_requests_are_answered_and_bounded_once_unpacked() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path());
    let daemon = started(&settings, &FakeScript::new(1, Duration::ZERO)).await;
    let channel = connected(&daemon).await;
    let gzip = CompressionEncoding::Gzip;
    let mut client =
        UnlearningServiceClient::new(channel.clone()).send_compressed(gzip).accept_compressed(gzip);
    let listed = client.list_models(ListModelsRequest::default()).await.unwrap();
    assert_eq!(listed.metadata().get("grpc-encoding").unwrap(), "gzip");
    assert!(!listed.into_inner().models.is_empty());
    let mut health = HealthClient::new(channel.clone()).send_compressed(gzip);
    health.check(HealthCheckRequest::default()).await.unwrap();
    let mut operations = OperationsClient::new(channel).send_compressed(gzip);
    let unknown = operations.get_operation(GetOperationRequest { name: "operations/1".into() });
    assert_ne!(unknown.await.unwrap_err().code(), Code::Unimplemented);

    // A few kilobytes on the wire, and far more than a message may have once they are unpacked.
    let most = settings.server.max_message_bytes;
    let request = UnlearnConceptRequest { concepts: vec!["a".repeat(4 * most)], ..request() };
    let refused = client.unlearn_concept(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    client.list_models(ListModelsRequest::default()).await.unwrap();
}

#[tokio::test]
async fn a_picture_of_512_by_512_pixels_fits_in_a_message() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let daemon = started(&settings, &FakeScript::new(1, Duration::ZERO)).await;
    let mut client = UnlearningServiceClient::new(connected(&daemon).await);
    // Noise, which no PNG makes smaller.
    let noise = |side: usize| {
        let mut state = 1_u32;
        let mut byte = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let rgb = (0..side * side * 3).map(|_| byte()).collect();
        let picture = Picture { width: side, height: side, rgb };
        encode_png(&picture, &PictureNotes::default()).unwrap()
    };
    let request = |init_image| GenerateRequest {
        model: "emoji-canvas".to_owned(),
        steps: Some(2),
        init_image,
        ..GenerateRequest::default()
    };
    let png = noise(512);
    assert!(png.len() > 512 * 512 * 3, "{}", png.len());
    let mut stream = client.generate(request(png)).await.unwrap().into_inner();
    while stream.message().await.unwrap().is_some() {}
    let refused = client.generate(request(noise(640))).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains(&settings.server.max_message_bytes.to_string()));
    timeout(LONG, daemon.stop()).await.unwrap();
}

#[tokio::test]
async fn two_daemons_never_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let script = FakeScript::new(1, Duration::ZERO);
    let first = started(&settings(folder.path()), &script).await;
    let parts = DaemonParts::new(FakeSource(script.clone()));
    let second = Daemon::start(&settings(folder.path()), parts).await;
    assert!(matches!(second, Err(StartError::DataFolderTaken { .. })), "{second:?}");
    timeout(LONG, first.stop()).await.unwrap();
    timeout(LONG, started(&settings(folder.path()), &script).await.stop()).await.unwrap();
}

#[tokio::test]
async fn a_job_under_way_is_given_back_and_goes_on_where_it_was() {
    const UPDATES: usize = 200;
    let folder = tempfile::tempdir().unwrap();
    let script = FakeScript::new(UPDATES, Duration::from_millis(10));
    let mut settings = settings(folder.path());
    settings.shutdown.grace = Duration::from_millis(50);
    let daemon = started(&settings, &script).await;
    let channel = connected(&daemon).await;
    let operation = asked(&channel).await;
    let store = daemon.store();
    timeout(LONG, async {
        while script.updates_made.load(Ordering::SeqCst) < 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(timeout(LONG, daemon.stop()).await.unwrap(), fine(true));
    assert!(store.probe().await.is_err(), "the store is closed");
    let made = script.updates_made.load(Ordering::SeqCst);
    assert!(made < UPDATES, "the job was done before it could be given back");

    let daemon = started(&settings, &script).await;
    let channel = connected(&daemon).await;
    let done = waited(&channel, &operation).await;
    assert!(matches!(done.result, Some(operation::Result::Response(_))), "{done:?}");
    let made = script.updates_made.load(Ordering::SeqCst);
    assert_eq!(made, UPDATES, "an update was made twice");
    let jobs = daemon.store().list(&ListQuery { limit: 10, ..ListQuery::default() }).await;
    let jobs = jobs.unwrap().jobs;
    assert_eq!((jobs.len(), jobs[0].attempt), (1, 1), "a drain is no attempt");
    assert_eq!(jobs[0].state.name(), StateName::Succeeded);
    timeout(LONG, daemon.stop()).await.unwrap();
}

#[tokio::test]
async fn a_second_signal_leaves_a_stuck_job_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let script = FakeScript::new(10_000, Duration::from_millis(10));
    let daemon = started(&settings(folder.path()), &script).await;
    let channel = connected(&daemon).await;
    asked(&channel).await;
    let mut health = HealthClient::new(channel);
    let draining = daemon.draining();
    let (signals, heard) = mpsc::channel(4);
    let running = tokio::spawn(daemon.run(ReceiverStream::new(heard)));
    signals.send(DaemonSignal::Reload).await.unwrap();
    signals.send(DaemonSignal::Terminate).await.unwrap();
    timeout(LONG, draining.cancelled()).await.unwrap();
    signals.send(DaemonSignal::Terminate).await.unwrap();
    let departure = timeout(LONG, running).await.unwrap().unwrap();
    assert_eq!((departure.exit_code(), departure), (130, Departure::AtOnce));
    let _ = health.check(HealthCheckRequest::default()).await;
}

#[tokio::test]
async fn calls_are_served_until_the_drain_delay_is_over_and_health_says_not_serving_before() {
    let folder = tempfile::tempdir().unwrap();
    let script = FakeScript::new(1, Duration::ZERO);
    let mut settings = settings(folder.path());
    settings.shutdown.drain_delay = Duration::from_secs(3);
    let daemon = started(&settings, &script).await;
    let channel = connected(&daemon).await;
    let (draining, mut ready) = (daemon.draining(), daemon.ready());
    let running = tokio::spawn(daemon.run(stream::iter([DaemonSignal::Terminate])));
    timeout(LONG, draining.cancelled()).await.unwrap();
    timeout(LONG, ready.wait_for(|ready| !*ready)).await.unwrap().unwrap();
    let mut health = HealthClient::new(channel.clone());
    let mut status = ServingStatus::Serving;
    while status == ServingStatus::Serving {
        let answer = health.check(HealthCheckRequest::default()).await.unwrap();
        status = answer.into_inner().status();
    }
    let mut client = UnlearningServiceClient::new(channel.clone());
    client.list_models(ListModelsRequest::default()).await.unwrap();
    assert_eq!(timeout(LONG, running).await.unwrap().unwrap(), fine(false));
    let refused = client.list_models(Request::new(ListModelsRequest::default())).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_place_that_takes_no_results_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("results");
    fs::write(&output, "a file, no folder").unwrap();
    let mut settings = settings(folder.path());
    settings.storage.outputs = vec![format!("file://{}", output.display())];
    let parts = DaemonParts::new(FakeSource(FakeScript::new(1, Duration::ZERO)));
    match Daemon::start(&settings, parts).await {
        Err(error) => assert!(error.to_string().contains("results"), "{error}"),
        Ok(daemon) => {
            let mut ready = daemon.ready();
            let waited = timeout(Duration::from_secs(1), ready.wait_for(|ready| *ready)).await;
            assert!(waited.is_err(), "ready without a place for results");
            daemon.stop().await;
        }
    }
}
