//! A real S3 server that goes away and comes back empty. The engine is made up, since no training is
//! what is tested; the wire, the server and the program that asks are real.

use std::{fs, path::Path, process::Command, time::Duration};

use keystep::{
    config::{Secret, Settings},
    daemon::{Daemon, DaemonParts},
    proto::{
        google::longrunning::{
            Operation, WaitOperationRequest, operations_client::OperationsClient,
        },
        keystep::v1::{
            ConceptKind, JobState, UnlearnConceptMetadata, UnlearnConceptRequest,
            unlearning_service_client::UnlearningServiceClient,
        },
    },
    worker::testing::{FakeScript, FakeSource},
};
use prost::Message;
use serde_json::Value;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::{BUCKET, Bucket, local, output, processes::Server, tools::python};

const LONG: Duration = Duration::from_mins(2);
const UPDATES: usize = 3;

fn settings(folder: &Path, endpoint: &str) -> Settings {
    let mut settings = Settings::default();
    settings.server.listen = ([127, 0, 0, 1], 0).into();
    settings.server.data_dir = folder.join("data");
    let storage = &mut settings.storage;
    storage.outputs = vec![format!("s3://{BUCKET}/results")];
    storage.endpoint = Some(endpoint.to_owned());
    storage.region = Some("us-east-1".to_owned());
    storage.allow_http = true;
    storage.access_key_id = Some("interop".to_owned());
    storage.secret_access_key = Some(Secret::new("interop"));
    // One try, which takes long enough.
    settings.publishing.retry_for = Duration::ZERO;
    settings
}

async fn asked(channel: &Channel, seed: u64) -> Operation {
    let request = UnlearnConceptRequest {
        base_model: "emoji-canvas".to_owned(),
        concepts: vec!["cat".to_owned()],
        concept_kind: ConceptKind::ObjectClass.into(),
        evaluate: Some(false),
        seed: Some(seed),
        ..UnlearnConceptRequest::default()
    };
    let mut client = UnlearningServiceClient::new(channel.clone());
    client.unlearn_concept(request).await.unwrap().into_inner()
}

async fn ended(channel: &Channel, operation: &Operation) -> UnlearnConceptMetadata {
    let wait = WaitOperationRequest { name: operation.name.clone(), timeout: None };
    let mut client = OperationsClient::new(channel.clone());
    let done = timeout(LONG, client.wait_operation(wait)).await.unwrap().unwrap().into_inner();
    UnlearnConceptMetadata::decode(done.metadata.unwrap().value.as_slice()).unwrap()
}

async fn becomes_ready(daemon: &Daemon, wanted: bool) {
    let mut ready = daemon.ready();
    timeout(LONG, ready.wait_for(|ready| *ready == wanted)).await.unwrap().unwrap();
}

/// What a verb of `keystep jobs` says of a job.
async fn jobs(daemon: &Daemon, verb: &str, operation: &Operation) -> Value {
    let server = format!("http://{}", daemon.address());
    let mut command: Command = local(env!("CARGO_BIN_EXE_keystep"));
    command.args(["jobs", verb, &operation.name, "--json", "--server", &server]);
    let said = tokio::task::spawn_blocking(move || output(&mut command, None)).await.unwrap();
    serde_json::from_str(&said).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_outlive_a_bucket_that_goes_away() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let moto = Server::moto(python, folder.path());
    let bucket = Bucket { python, kind: "s3", endpoint: moto.url() };
    bucket.run(&["make", BUCKET]);
    let script = FakeScript::new(UPDATES, Duration::ZERO);
    let parts = DaemonParts::new(FakeSource(script.clone()));
    let daemon = Daemon::start(&settings(folder.path(), &moto.url()), parts).await.unwrap();
    becomes_ready(&daemon, true).await;
    let address = format!("http://{}", daemon.address());
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();

    let port = moto.port();
    drop(moto);
    let (first, second) = (asked(&channel, 1).await, asked(&channel, 2).await);
    let failed = ended(&channel, &first).await;
    assert_eq!(failed.state(), JobState::Failed);
    assert!(failed.result_expire_time.is_some(), "{failed:?}");
    becomes_ready(&daemon, false).await;
    let waits = jobs(&daemon, "get", &second).await;
    assert_eq!(waits["metadata"]["state"], "JOB_STATE_QUEUED", "{waits:#}");

    // The same address, without the bucket at first: that is an outage too.
    let _moto = Server::moto_at(python, folder.path(), port);
    bucket.run(&["make", BUCKET]);
    becomes_ready(&daemon, true).await;
    let asked = jobs(&daemon, "publish", &first).await;
    assert_eq!(asked["name"], first.name, "{asked:#}");
    for operation in [&first, &second] {
        assert_eq!(ended(&channel, operation).await.state(), JobState::Succeeded);
        let operation = jobs(&daemon, "publish", operation).await;
        bucket.verify(&operation, folder.path());
    }
    let made = script.updates_made.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(made, 2 * UPDATES, "nothing was trained twice");
    let left: Vec<_> = fs::read_dir(folder.path().join("data/jobs")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(timeout(LONG, daemon.stop()).await.unwrap().exit_code(), 0);
}
