//! `keystep serve` as a process, and a client that follows a job over its restarts.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use keystep::proto::{
    google::longrunning::{
        GetOperationRequest, Operation, operation, operations_client::OperationsClient,
    },
    keystep::v1::{
        ConceptKind, JobEvent, JobState, OutputFormat, UnlearnConceptMetadata,
        UnlearnConceptRequest, UnlearnConceptResponse, UnlearningMethod, WatchOperationRequest,
        WatchOperationResponse, job_event::Event,
        unlearning_service_client::UnlearningServiceClient, watch_operation_response::Update,
    },
};
use prost::Message;
use tokio::{
    process::{Child, Command},
    time::timeout,
};
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt;
use uuid::Uuid;

/// Longer than anything here takes on a slow machine.
pub const LONG: Duration = Duration::from_mins(2);
const MOMENT: Duration = Duration::from_millis(5);

/// Waits for something that will come.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LONG, what).await.unwrap()
}

/// A folder that daemons work in, one after the other.
pub struct Home {
    place: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Self {
        Self { place: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// What all daemons of this home have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Starts a daemon, with these settings of the environment, and waits for it to serve.
    pub async fn serve(&self, settings: &[(&str, &str)]) -> Served {
        let ready = self.path("ready");
        let _ = fs::remove_file(&ready);
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_keystep"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "text", "--data-dir"]);
        command.arg(self.path("data")).arg("--ready-file").arg(&ready);
        command.envs(settings.iter().copied()).stdout(Stdio::null()).stderr(log);
        let mut process = command.kill_on_drop(true).spawn().unwrap();
        let address = loop {
            if let Ok(address) = fs::read_to_string(&ready) {
                break format!("http://{}", address.trim());
            }
            assert!(process.try_wait().unwrap().is_none(), "it ended:\n{}", self.log());
            tokio::time::sleep(MOMENT).await;
        };
        let channel = Channel::from_shared(address).unwrap();
        Served { process, channel: soon(channel.connect()).await.unwrap() }
    }

    /// The files of a finished operation by name, each checked against its size and digest.
    pub fn files(operation: &Operation) -> BTreeMap<String, Vec<u8>> {
        let response = response(operation);
        let manifest = path_of(&response.manifest_uri);
        assert_eq!(sha256(&fs::read(&manifest).unwrap()), response.manifest_sha256);
        let folder = manifest.parent().unwrap();
        let files = response.files.iter().map(|file| {
            let path = path_of(&file.uri);
            let bytes = fs::read(&path).unwrap();
            assert_eq!(
                (bytes.len() as u64, sha256(&bytes)),
                (file.size_bytes, file.sha256.clone())
            );
            (path.strip_prefix(folder).unwrap().display().to_string(), bytes)
        });
        files.collect()
    }

    /// Manifests that stand, by the names of their operations.
    pub fn manifests(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path("data/published/checkpoints")) else {
            return Vec::new();
        };
        let entries = entries.flatten().filter(|entry| entry.path().join("manifest.json").exists());
        entries.map(|entry| format!("operations/{}", entry.file_name().display())).collect()
    }
}

fn sha256(bytes: &[u8]) -> String {
    keystep::artifacts::digest::digest_bytes(bytes)
}

fn path_of(uri: &str) -> PathBuf {
    url::Url::parse(uri).unwrap().to_file_path().unwrap()
}

/// What a finished operation gives.
pub fn response(operation: &Operation) -> UnlearnConceptResponse {
    match &operation.result {
        Some(operation::Result::Response(any)) => {
            UnlearnConceptResponse::decode(any.value.as_slice()).unwrap()
        }
        other => panic!("{} did not succeed: {other:?}", operation.name),
    }
}

pub fn metadata(operation: &Operation) -> UnlearnConceptMetadata {
    let any = operation.metadata.as_ref().unwrap();
    UnlearnConceptMetadata::decode(any.value.as_slice()).unwrap()
}

/// A daemon that runs.
pub struct Served {
    process: Child,
    channel: Channel,
}

impl Served {
    pub fn unlearning(&self) -> UnlearningServiceClient<Channel> {
        UnlearningServiceClient::new(self.channel.clone())
    }

    pub fn operations(&self) -> OperationsClient<Channel> {
        OperationsClient::new(self.channel.clone())
    }

    pub async fn submit(&self, updates: u32, seed: u64) -> Operation {
        let request = UnlearnConceptRequest {
            request_id: Uuid::new_v4().to_string(),
            base_model: "emoji-canvas".to_owned(),
            concepts: vec!["cat".to_owned()],
            concept_kind: ConceptKind::ObjectClass.into(),
            method: UnlearningMethod::Kscu.into(),
            updates: Some(updates),
            learning_rate: Some(2e-4),
            seed: Some(seed),
            evaluate: Some(false),
            output_formats: [OutputFormat::Pipeline, OutputFormat::Unet, OutputFormat::Delta]
                .map(i32::from)
                .to_vec(),
            ..UnlearnConceptRequest::default()
        };
        self.unlearning().unlearn_concept(request).await.unwrap().into_inner()
    }

    pub async fn get(&self, name: &str) -> Result<Operation, Status> {
        let request = GetOperationRequest { name: name.to_owned() };
        Ok(self.operations().get_operation(request).await?.into_inner())
    }

    pub async fn health(&self) -> ServingStatus {
        let mut health = HealthClient::new(self.channel.clone());
        health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status()
    }

    pub fn signal(&self, name: &str) {
        let id = self.process.id().unwrap().to_string();
        let sent = std::process::Command::new("kill").args([name, &id]).status().unwrap();
        assert!(sent.success());
    }

    pub async fn ended(mut self) -> ExitStatus {
        soon(self.process.wait()).await.unwrap()
    }
}

/// A job's log as one client has it, over every stream that it took.
pub struct Followed {
    pub name: String,
    pub events: Vec<JobEvent>,
    stream: Option<Streaming<WatchOperationResponse>>,
}

impl Followed {
    pub fn new(operation: &Operation) -> Self {
        Self { name: operation.name.clone(), events: Vec::new(), stream: None }
    }

    /// Goes on after the last event that was seen.
    pub async fn resume(&mut self, served: &Served) {
        let after_sequence = self.events.len() as u64;
        let request = WatchOperationRequest { name: self.name.clone(), after_sequence };
        let stream = served.unlearning().watch_operation(request).await.unwrap();
        self.stream = Some(stream.into_inner());
    }

    /// The finished operation, where that is what comes next; events are kept. No event may be
    /// left out or come twice.
    async fn next(&mut self) -> Result<Option<Operation>, Status> {
        let stream = self.stream.as_mut().unwrap();
        let message = soon(stream.message()).await?.expect("it ends with the operation");
        match message.update.unwrap() {
            Update::Operation(operation) => Ok(Some(operation)),
            Update::Event(event) => {
                assert_eq!(event.sequence, self.events.len() as u64 + 1, "{}", self.name);
                self.events.push(event);
                Ok(None)
            }
        }
    }

    /// Reads up to an event that is as wanted, in this or an earlier stream.
    pub async fn until(&mut self, wanted: impl Fn(&Event) -> bool) {
        loop {
            let last = self.events.last().and_then(|event| event.event.as_ref());
            if last.is_some_and(&wanted) {
                return;
            }
            let done = self.next().await.unwrap();
            assert!(done.is_none(), "it was done before: {done:?}");
        }
    }

    /// Reads one event more.
    pub async fn until_more(&mut self) {
        let seen = self.events.len();
        while self.events.len() == seen {
            assert!(self.next().await.unwrap().is_none(), "it was done before");
        }
    }

    pub async fn until_state(&mut self, wanted: JobState) {
        self.until(
            |event| matches!(event, Event::StateChanged(change) if change.state() == wanted),
        )
        .await;
    }

    pub async fn until_updates(&mut self, wanted: u32) {
        let reached =
            |event: &Event| matches!(event, Event::Progress(now) if now.iterations_done >= wanted);
        self.until(reached).await;
    }

    /// Reads to the end; the operation, or what the stream was ended with.
    pub async fn rest(&mut self) -> Result<Operation, Status> {
        loop {
            if let Some(operation) = self.next().await? {
                return Ok(operation);
            }
        }
    }

    /// Reads to the end that a drain gives the stream.
    pub async fn cut(&mut self) {
        let status = self.rest().await.expect_err("the server was to go away before the end");
        assert_sent_elsewhere(&status);
    }

    pub fn states(&self) -> Vec<JobState> {
        let states = self.events.iter().filter_map(|event| match &event.event {
            Some(Event::StateChanged(change)) => Some(change.state()),
            _ => None,
        });
        states.collect()
    }
}

/// What a server that goes away says.
pub fn assert_sent_elsewhere(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("DRAINING", "keystep.v1"));
}

/// The same files with the same bytes.
pub fn assert_same(
    found: &BTreeMap<String, Vec<u8>>,
    expected: &BTreeMap<String, Vec<u8>>,
    of: &str,
) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{of}");
    assert!(
        found.keys().any(|name| Path::new(name).extension().is_some_and(|e| e == "safetensors"))
    );
    for (name, bytes) in found {
        assert!(*bytes == expected[name], "{of}: {name} has other bytes");
    }
}
