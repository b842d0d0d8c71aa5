//! A small server that answers from a script and remembers what it was asked.

use std::{
    collections::HashMap,
    net::Shutdown,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use assert_cmd::{Command, cargo::cargo_bin_cmd};
use keystep::proto::{
    google::longrunning::{
        CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
        ListOperationsResponse, Operation, WaitOperationRequest,
        operation::Result as Ending,
        operations_server::{Operations, OperationsServer},
    },
    keystep::v1::{
        Compared, Domain, Estimate, EvaluateErasureRequest, EvaluateErasureResponse, Figures,
        GenerateRequest, GenerateResponse, GetModelRequest, GetModelResponse, JobEvent, JobState,
        ListModelsRequest, ListModelsResponse, LogSnrWindow, Measures, Model, ModelKind,
        PairedDrop, Plan, Progress, PublishResultRequest, Sampler, ScoreSummary,
        ScoreTimestepsRequest, ScoreTimestepsResponse, Share, StateChanged, UnlearnConceptMetadata,
        UnlearnConceptRequest, UnlearnConceptResponse, Verdict, Vocabulary, WatchOperationRequest,
        WatchOperationResponse, WordRow, WorkPhase, generate_response,
        job_event::Event,
        score_timesteps_response,
        unlearning_service_server::{UnlearningService, UnlearningServiceServer},
        watch_operation_response::Update,
    },
};
use prost::Message;
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, transport::Server};

pub const NAME: &str = "operations/0192";
pub const SCORES: &str = "{\"made\": \"up\"}\n";

/// How the server behaves.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// Answers to be lost before the first one that arrives.
    pub lost_answers: usize,
    /// The first watch's connection is cut after this event.
    pub cut_after: Option<u64>,
    /// Watching never ends.
    pub endless: bool,
    /// The job fails.
    pub fails: bool,
    /// Judgements say what was counted: none of the pictures asked for shows the concept.
    pub counts: bool,
    /// Every call is refused.
    pub refusal: Option<Status>,
}

/// What the server was asked.
#[derive(Debug, Default)]
pub struct Seen {
    pub unlearn: Vec<UnlearnConceptRequest>,
    pub evaluate: Vec<EvaluateErasureRequest>,
    pub score: Vec<ScoreTimestepsRequest>,
    pub generate: Vec<GenerateRequest>,
    pub watched_after: Vec<u64>,
    pub calls: HashMap<&'static str, usize>,
    pub authorizations: Vec<Option<String>>,
}

#[derive(Debug, Clone, Default)]
struct FakeServer {
    script: Script,
    seen: Arc<Mutex<Seen>>,
    connections: Arc<Mutex<Vec<std::net::TcpStream>>>,
}

/// A server that runs as long as this lives.
pub struct Running {
    pub url: String,
    pub seen: Arc<Mutex<Seen>>,
    _runtime: Runtime,
}

impl Running {
    pub fn start(script: Script) -> Self {
        let runtime = Runtime::new().unwrap();
        let fake = FakeServer { script, ..FakeServer::default() };
        let seen = fake.seen.clone();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move {
            let (sender, receiver) = mpsc::channel(8);
            let connections = fake.connections.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let stream = stream.into_std().unwrap();
                    connections.lock().unwrap().push(stream.try_clone().unwrap());
                    let _ = sender.send(tokio::net::TcpStream::from_std(stream)).await;
                }
            });
            Server::builder()
                .add_service(UnlearningServiceServer::new(fake.clone()))
                .add_service(OperationsServer::new(fake))
                .serve_with_incoming(ReceiverStream::new(receiver))
                .await
                .unwrap();
        });
        Self { url, seen, _runtime: runtime }
    }

    /// `keystep VERB… --server URL …`, in a folder of its own.
    pub fn keystep(&self, place: &TempDir, verb: &[&str], rest: &[&str]) -> Command {
        let mut command = cargo_bin_cmd!("keystep");
        command.current_dir(place.path()).env_remove("KEYSTEP_SERVER");
        command.args(verb).args(["--server", &self.url]).args(rest);
        command.timeout(Duration::from_mins(1));
        command
    }

    pub fn unlearn(&self, place: &TempDir, rest: &[&str]) -> Command {
        let line = ["--base-model", "emoji-canvas", "--concept", "cat", "--kind", "object"];
        self.keystep(place, &["unlearn"], &[&line[..], rest].concat())
    }

    pub fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }
}

impl FakeServer {
    /// Notes a call, and refuses it where the script says so.
    fn called<T>(&self, call: &'static str, request: &Request<T>) -> Result<(), Status> {
        let mut seen = self.seen.lock().unwrap();
        *seen.calls.entry(call).or_default() += 1;
        let token = request.metadata().get("authorization");
        seen.authorizations.push(token.map(|token| token.to_str().unwrap().to_owned()));
        self.script.refusal.clone().map_or(Ok(()), Err)
    }

    /// Cuts every connection, as a network does.
    fn cut(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn any(name: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any {
        type_url: format!("type.googleapis.com/keystep.v1.{name}"),
        value: message.encode_to_vec(),
    }
}

fn verdict() -> Verdict {
    let figures = |ua| Some(Figures { ua, ira: 0.75, cra: 0.5 });
    Verdict {
        judge: "cnn".to_owned(),
        edited: figures(0.875),
        base: figures(0.125),
        concept: "cat".to_owned(),
        sampler: Sampler::Euler.into(),
        measures: None,
    }
}

/// What is counted of an erasure that leaves nothing of the concept and all else.
fn counted(pictures: u64) -> Measures {
    let share = |count| Some(Share { count, of: pictures, ..Share::default() });
    let drop = |gained| Some(PairedDrop { gained, of: pictures, ..PairedDrop::default() });
    let kept = Compared { base: share(pictures), edited: share(pictures), drop: drop(0) };
    let forgotten = Compared { base: share(0), edited: share(pictures), drop: drop(pictures) };
    Measures {
        ua: Some(forgotten),
        ira: Some(kept),
        cra: Some(kept),
        words: vec![WordRow {
            word: "dog".to_owned(),
            domain: Domain::Objects.into(),
            named: Some(kept),
            ..WordRow::default()
        }],
        ..Measures::default()
    }
}

fn metadata(state: JobState) -> prost_types::Any {
    let data = UnlearnConceptMetadata {
        state: state.into(),
        base_model: "emoji-canvas".to_owned(),
        ..UnlearnConceptMetadata::default()
    };
    any("UnlearnConceptMetadata", &data)
}

fn queued() -> Operation {
    Operation {
        name: NAME.to_owned(),
        metadata: Some(metadata(JobState::Queued)),
        ..Operation::default()
    }
}

fn succeeded(response: &UnlearnConceptResponse) -> Operation {
    Operation {
        metadata: Some(metadata(JobState::Succeeded)),
        done: true,
        result: Some(Ending::Response(any("UnlearnConceptResponse", response))),
        ..queued()
    }
}

fn erased() -> UnlearnConceptResponse {
    UnlearnConceptResponse {
        manifest_uri: "s3://bucket/checkpoints/0192/manifest.json".to_owned(),
        model: "checkpoints/0192".to_owned(),
        verdicts: vec![verdict()],
        window: Some(LogSnrWindow { low: -4.0, high: -1.0 }),
        updates: 6,
        unet_evaluations: 123,
        ..UnlearnConceptResponse::default()
    }
}

fn event(sequence: u64, event: Event) -> WatchOperationResponse {
    let event = JobEvent { sequence, event: Some(event), ..JobEvent::default() };
    WatchOperationResponse { update: Some(Update::Event(event)) }
}

fn state(state: JobState) -> Event {
    Event::StateChanged(StateChanged { state: state.into(), attempt: 1, error: None })
}

fn events() -> Vec<WatchOperationResponse> {
    let progress = |done| {
        Event::Progress(Progress {
            phase: WorkPhase::Train.into(),
            units_done: done,
            units_total: 6,
            iterations_done: done as u32,
            loss: 0.5,
            ..Progress::default()
        })
    };
    vec![
        event(1, state(JobState::Queued)),
        event(2, state(JobState::Running)),
        event(3, progress(3)),
        event(4, progress(6)),
        event(5, state(JobState::Succeeded)),
    ]
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn answers<T: Send + 'static>(messages: Vec<T>) -> Response<Answers<T>> {
    Response::new(Box::pin(tokio_stream::iter(messages.into_iter().map(Ok))))
}

#[tonic::async_trait]
impl UnlearningService for FakeServer {
    async fn unlearn_concept(
        &self,
        request: Request<UnlearnConceptRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.called("unlearn", &request)?;
        let request = request.into_inner();
        let mut seen = self.seen.lock().unwrap();
        seen.unlearn.push(request.clone());
        if seen.unlearn.len() <= self.script.lost_answers {
            // The job is stored, and nobody hears of it.
            drop(seen);
            self.cut();
            return Ok(Response::new(queued()));
        }
        if request.validate_only {
            let plan = Plan {
                updates: 100,
                unet_evaluations: 5_000,
                memory_bytes: 1 << 30,
                assumptions: vec!["a window of 6 steps".to_owned()],
                ..Plan::default()
            };
            let response =
                UnlearnConceptResponse { plan: Some(plan), ..UnlearnConceptResponse::default() };
            return Ok(Response::new(succeeded(&response)));
        }
        Ok(Response::new(queued()))
    }

    async fn evaluate_erasure(
        &self,
        request: Request<EvaluateErasureRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.called("evaluate", &request)?;
        self.seen.lock().unwrap().evaluate.push(request.into_inner());
        Ok(Response::new(queued()))
    }

    type ScoreTimestepsStream = Answers<ScoreTimestepsResponse>;

    async fn score_timesteps(
        &self,
        request: Request<ScoreTimestepsRequest>,
    ) -> Result<Response<Self::ScoreTimestepsStream>, Status> {
        self.called("score", &request)?;
        self.seen.lock().unwrap().score.push(request.into_inner());
        let step = |step| ScoreTimestepsResponse {
            step,
            timestep: 981 - step,
            log_snr: -4.0,
            guidance_effect: Some(Estimate { mean: 0.5, standard_error: 0.125 }),
            ..ScoreTimestepsResponse::default()
        };
        let update = |update| ScoreTimestepsResponse {
            update: Some(update),
            ..ScoreTimestepsResponse::default()
        };
        let summary = ScoreSummary {
            window: Some(LogSnrWindow { low: -4.0, high: -1.0 }),
            first_step: 1,
            last_step: 1,
            rule: "made up".to_owned(),
            score_digest: "5c0".to_owned(),
            unet_evaluations: 40,
            scores_json: SCORES.to_owned(),
        };
        Ok(answers(vec![
            update(score_timesteps_response::Update::QueuePosition(2)),
            step(0),
            step(1),
            update(score_timesteps_response::Update::Summary(summary)),
        ]))
    }

    type GenerateStream = Answers<GenerateResponse>;

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        self.called("generate", &request)?;
        let request = request.into_inner();
        self.seen.lock().unwrap().generate.push(request.clone());
        let mut messages = Vec::new();
        for index in 0..request.count.unwrap() {
            let mut add = |update| {
                messages.push(GenerateResponse {
                    update: Some(update),
                    steps_total: 10,
                    image_index: index,
                    seed: request.seeds[0] + u64::from(index),
                });
            };
            add(generate_response::Update::StepsDone(5));
            add(generate_response::Update::PreviewPng(b"small"[..].into()));
            let png = format!("picture {index} of {}", request.prompt);
            add(generate_response::Update::ImagePng(png.into_bytes().into()));
        }
        Ok(answers(messages))
    }

    type WatchOperationStream = Answers<WatchOperationResponse>;

    async fn watch_operation(
        &self,
        request: Request<WatchOperationRequest>,
    ) -> Result<Response<Self::WatchOperationStream>, Status> {
        self.called("watch", &request)?;
        let request = request.into_inner();
        assert_eq!(request.name, NAME);
        let after = request.after_sequence;
        let first = {
            let mut seen = self.seen.lock().unwrap();
            seen.watched_after.push(after);
            seen.watched_after.len() == 1
        };
        let (sender, receiver) = mpsc::channel(16);
        let fake = self.clone();
        tokio::spawn(async move {
            for message in events() {
                let Some(Update::Event(event)) = &message.update else { continue };
                let sequence = event.sequence;
                if sequence <= after {
                    continue;
                }
                if fake.script.endless && sequence > 3 {
                    sender.closed().await;
                    return;
                }
                let _ = sender.send(Ok(message)).await;
                if first && fake.script.cut_after == Some(sequence) {
                    // Time for what was sent to arrive.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    fake.cut();
                    return;
                }
            }
            let operation = fake.finished();
            let last = WatchOperationResponse { update: Some(Update::Operation(operation)) };
            let _ = sender.send(Ok(last)).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn publish_result(
        &self,
        request: Request<PublishResultRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.called("publish", &request)?;
        assert_eq!(request.into_inner().name, NAME);
        Ok(Response::new(queued()))
    }

    async fn list_models(
        &self,
        request: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        self.called("list_models", &request)?;
        // Two pages.
        let second = request.into_inner().page_token == "next";
        Ok(Response::new(ListModelsResponse {
            models: vec![model(second)],
            next_page_token: if second { String::new() } else { "next".to_owned() },
        }))
    }

    async fn get_model(
        &self,
        request: Request<GetModelRequest>,
    ) -> Result<Response<GetModelResponse>, Status> {
        self.called("get_model", &request)?;
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let vocabulary = Some(Vocabulary {
            anything: "picture".to_owned(),
            objects: words(&["cat", "dog"]),
            styles: words(&["neon"]),
        });
        let model = Model { vocabulary, ..model(true) };
        Ok(Response::new(GetModelResponse { model: Some(model) }))
    }
}

fn model(erased: bool) -> Model {
    let base =
        Model { name: "emoji-canvas".to_owned(), kind: ModelKind::Base.into(), ..Model::default() };
    if !erased {
        return base;
    }
    Model {
        name: "checkpoints/0192".to_owned(),
        kind: ModelKind::Erased.into(),
        base_model: base.name,
        concepts: vec!["cat".to_owned()],
        ..Model::default()
    }
}

impl FakeServer {
    fn finished(&self) -> Operation {
        if self.script.fails {
            let error = tonic_types::pb::Status {
                code: Code::FailedPrecondition as i32,
                message: "the loss is not finite".to_owned(),
                details: Vec::new(),
            };
            return Operation { done: true, result: Some(Ending::Error(error)), ..queued() };
        }
        let asked = self.seen.lock().unwrap().evaluate.last().map(|asked| asked.target_seeds);
        let Some(pictures) = asked else { return succeeded(&erased()) };
        let measures = self.script.counts.then(|| counted(pictures.unwrap_or(32).into()));
        let response = EvaluateErasureResponse {
            verdicts: vec![Verdict { measures, ..verdict() }],
            unet_evaluations: 77,
            ..EvaluateErasureResponse::default()
        };
        let response = any("EvaluateErasureResponse", &response);
        Operation { done: true, result: Some(Ending::Response(response)), ..queued() }
    }
}

#[tonic::async_trait]
impl Operations for FakeServer {
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        self.called("list", &request)?;
        let operations = vec![queued(), succeeded(&erased())];
        Ok(Response::new(ListOperationsResponse {
            operations,
            ..ListOperationsResponse::default()
        }))
    }

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.called("get", &request)?;
        Ok(Response::new(queued()))
    }

    async fn delete_operation(
        &self,
        request: Request<DeleteOperationRequest>,
    ) -> Result<Response<()>, Status> {
        self.called("delete", &request)?;
        Ok(Response::new(()))
    }

    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<()>, Status> {
        self.called("cancel", &request)?;
        Ok(Response::new(()))
    }

    async fn wait_operation(
        &self,
        request: Request<WaitOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.called("wait", &request)?;
        Ok(Response::new(queued()))
    }
}
