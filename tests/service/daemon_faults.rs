//! Whole daemons whose engine fails: the process serves on, and its jobs end as they should.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use keystep::{
    config::Settings,
    daemon::{Daemon, DaemonParts},
    jobs::{JobStore, ListQuery},
    proto::{
        google::longrunning::{
            Operation, WaitOperationRequest, operation, operations_client::OperationsClient,
        },
        keystep::v1::{
            ConceptKind, GenerateRequest, UnlearnConceptMetadata, UnlearnConceptRequest,
            UnlearnConceptResponse, generate_response,
            unlearning_service_client::UnlearningServiceClient,
        },
    },
    worker::testing::{FakeScript, FakeSource, Fault, FaultKind},
};
use prost::Message;
use tokio::time::timeout;
use tonic::{Code, transport::Channel};
use tonic_types::pb;
use uuid::Uuid;

const LONG: Duration = Duration::from_mins(2);
const UPDATES: usize = 60;

/// A daemon over an engine that follows a script.
struct House {
    folder: tempfile::TempDir,
    script: Arc<FakeScript>,
    daemon: Daemon,
    channel: Channel,
}

impl House {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.server.listen = ([127, 0, 0, 1], 0).into();
        settings.server.data_dir = folder.path().to_owned();
        let script = FakeScript::new(UPDATES, Duration::ZERO);
        let parts = DaemonParts::new(FakeSource(script.clone()));
        let daemon = Daemon::start(&settings, parts).await.unwrap();
        let mut ready = daemon.ready();
        timeout(LONG, ready.wait_for(|ready| *ready)).await.unwrap().unwrap();
        let address = format!("http://{}", daemon.address());
        let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
        Self { folder, script, daemon, channel }
    }

    /// Runs a job to its end.
    async fn erase(&self, seed: u64) -> Operation {
        let request = UnlearnConceptRequest {
            request_id: Uuid::new_v4().to_string(),
            base_model: "emoji-canvas".to_owned(),
            concepts: vec!["cat".to_owned()],
            concept_kind: ConceptKind::ObjectClass.into(),
            seed: Some(seed),
            evaluate: Some(false),
            ..UnlearnConceptRequest::default()
        };
        let mut client = UnlearningServiceClient::new(self.channel.clone());
        let name = client.unlearn_concept(request).await.unwrap().into_inner().name;
        let wait = WaitOperationRequest { name, timeout: None };
        let mut operations = OperationsClient::new(self.channel.clone());
        timeout(LONG, operations.wait_operation(wait)).await.unwrap().unwrap().into_inner()
    }

    /// The files of an operation that succeeded, checked, by name.
    fn files(operation: &Operation) -> BTreeMap<String, Vec<u8>> {
        let Some(operation::Result::Response(any)) = &operation.result else {
            panic!("it did not succeed: {operation:?}")
        };
        let response = UnlearnConceptResponse::decode(any.value.as_slice()).unwrap();
        let path = |uri: &str| url::Url::parse(uri).unwrap().to_file_path().unwrap();
        let manifest = path(&response.manifest_uri);
        let folder = manifest.parent().unwrap();
        let files = response.files.iter().map(|file| {
            let path = path(&file.uri);
            let bytes = fs::read(&path).unwrap();
            assert_eq!(keystep::artifacts::digest::digest_bytes(&bytes), file.sha256);
            (path.strip_prefix(folder).unwrap().display().to_string(), bytes)
        });
        files.collect()
    }

    /// Whether pictures can be drawn.
    async fn draws(&self) {
        let request = GenerateRequest {
            model: "emoji-canvas".to_owned(),
            steps: Some(2),
            ..GenerateRequest::default()
        };
        let mut client = UnlearningServiceClient::new(self.channel.clone());
        let mut drawn = client.generate(request).await.unwrap().into_inner();
        let mut pictures = 0;
        while let Some(message) = timeout(LONG, drawn.message()).await.unwrap().unwrap() {
            pictures +=
                u32::from(matches!(message.update, Some(generate_response::Update::ImagePng(_))));
        }
        assert_eq!(pictures, 1);
    }

    async fn close(self, jobs: usize) {
        let query = ListQuery { limit: 100, ..ListQuery::default() };
        let listed = self.daemon.store().list(&query).await.unwrap().jobs;
        assert_eq!(listed.len(), jobs, "none is lost, none doubled");
        assert_eq!(timeout(LONG, self.daemon.stop()).await.unwrap().exit_code(), 0);
    }
}

fn attempt(operation: &Operation) -> u32 {
    let any = operation.metadata.as_ref().unwrap();
    UnlearnConceptMetadata::decode(any.value.as_slice()).unwrap().attempt
}

fn error(operation: &Operation) -> (Code, String) {
    let Some(operation::Result::Error(pb::Status { code, details, .. })) = &operation.result else {
        panic!("it did not fail: {operation:?}")
    };
    let info = details.iter().find(|any| any.type_url.ends_with("google.rpc.ErrorInfo")).unwrap();
    (Code::from_i32(*code), pb::ErrorInfo::decode(info.value.as_slice()).unwrap().reason)
}

fn is_published(folder: &Path, operation: &Operation) -> bool {
    let id = operation.name.strip_prefix("operations/").unwrap();
    folder.join("published/checkpoints").join(id).join("manifest.json").exists()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_engine_costs_an_attempt_and_no_byte() {
    let quiet = House::open().await;
    let expected = House::files(&quiet.erase(7).await);
    quiet.close(1).await;

    let house = House::open().await;
    // After a save: the second attempt goes on there.
    house.script.set_fault(Fault { at: UPDATES - 20, kind: FaultKind::Panic, times: 1 });
    let done = house.erase(7).await;
    assert_eq!(attempt(&done), 2);
    assert!(House::files(&done) == expected, "other bytes");
    let made = house.script.updates_made.load(Ordering::SeqCst);
    assert!(made < 2 * UPDATES - 20, "{made} updates: it began anew");
    house.draws().await;

    // One that always panics fails, and the next is none the worse for it.
    house.script.set_fault(Fault { at: 1, kind: FaultKind::Panic, times: 100 });
    let failed = house.erase(8).await;
    assert_eq!(error(&failed), (Code::Internal, "ENGINE_FAULT".to_owned()));
    assert!(!is_published(house.folder.path(), &failed));
    house.script.set_fault(Fault { at: 1, kind: FaultKind::Panic, times: 0 });
    assert_eq!(attempt(&house.erase(9).await), 1);
    house.close(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn want_of_memory_fails_the_job_and_nothing_else() {
    let house = House::open().await;
    house.script.set_fault(Fault { at: 10, kind: FaultKind::OutOfMemory, times: 1 });
    let failed = house.erase(7).await;
    assert_eq!(error(&failed), (Code::ResourceExhausted, "OUT_OF_MEMORY".to_owned()));
    assert_eq!(attempt(&failed), 1, "another attempt would need as much");
    assert!(!is_published(house.folder.path(), &failed));
    house.draws().await;
    let done = house.erase(8).await;
    assert_eq!(attempt(&done), 1);
    assert!(is_published(house.folder.path(), &done));
    assert!(!House::files(&done).is_empty());
    house.close(2).await;
}
