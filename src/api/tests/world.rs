//! A small daemon: everything but the listener and a worker, whose part tests play.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use prost::Message;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::{
    api::{ApiParts, ApiSettings, OperationsApi, UnlearningApi},
    auth::{Caller, Role},
    catalogue::{BUILTIN, Catalogue},
    device::{CallLimits, DeviceSettings},
    jobs::{
        Clock, Identifiers, Job, JobStore, JobSummary, MemoryStore, NewEvent, Outcome, Principal,
        Store, StoreSettings, Timestamp, Transition, Unlearned, WorkerId,
    },
    outcome::{EvaluationResults, Published},
    proto::{
        google::longrunning::{GetOperationRequest, Operation, operations_server::Operations},
        keystep::v1::{
            ConceptKind, UnlearnConceptRequest, unlearning_service_server::UnlearningService,
        },
    },
    spec::{LogSnrWindow, StepIndex},
    worker::{
        Device,
        testing::{FakeScript, FakeSource, FolderPublisher},
    },
};

pub(super) const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

/// The services over real parts.
pub(super) struct World {
    pub(super) unlearning: UnlearningApi,
    pub(super) operations: OperationsApi,
    pub(super) store: Arc<Store>,
    pub(super) draining: CancellationToken,
    pub(super) now: Arc<AtomicI64>,
    /// Without it the device ends.
    pub(super) device: Device,
}

pub(super) fn settings() -> ApiSettings {
    ApiSettings {
        outputs: vec!["s3://out/models".to_owned()],
        max_attempts: 3,
        queued_total: 100,
        queued_of_principal: 5,
        stored_bytes_of_principal: 64 << 20,
        prompt_characters: 200,
        images_per_call: 4,
        pixels_per_image: 512 * 512,
        calls: CallLimits::default(),
        log_prompts: false,
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(FakeScript::new(4, Duration::ZERO), DeviceSettings::default())
    }

    pub(super) fn with(script: Arc<FakeScript>, device: DeviceSettings) -> Self {
        let now = Arc::new(AtomicI64::new(NOW.0));
        let clock = Clock::Manual(now.clone());
        let settings_of_store = StoreSettings { clock: clock.clone(), ..StoreSettings::default() };
        let store = Arc::new(Store::from(MemoryStore::new(settings_of_store)));
        let catalogue = Arc::new(Catalogue::of_builtin(store.clone()));
        let device =
            Device::start(vec![FakeSource(script)], device, catalogue.clone(), Handle::current())
                .unwrap();
        let draining = CancellationToken::new();
        let parts = Arc::new(ApiParts {
            store: store.clone(),
            catalogue,
            interactive_calls: device.interactive_calls(),
            publisher: Arc::new(FolderPublisher::default()),
            clock,
            identifiers: Identifiers::default(),
            settings: settings(),
            draining: draining.clone(),
        });
        Self {
            unlearning: UnlearningApi::new(parts.clone()),
            operations: OperationsApi::new(parts),
            store,
            draining,
            now,
            device,
        }
    }

    pub(super) async fn unlearn(
        &self,
        caller: &Caller,
        request: UnlearnConceptRequest,
    ) -> Result<Operation, Status> {
        let answer = self.unlearning.unlearn_concept(from(caller, request)).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(super) async fn get(&self, caller: &Caller, name: &str) -> Result<Operation, Status> {
        let request = GetOperationRequest { name: name.to_owned() };
        let answer = self.operations.get_operation(from(caller, request)).await;
        answer.map(tonic::Response::into_inner)
    }

    /// A worker's part: claims.
    pub(super) async fn claim(&self) -> Job {
        let worker = WorkerId("w".to_owned());
        self.store.claim(&worker, Duration::from_mins(1)).await.unwrap().unwrap()
    }

    /// A worker's part: one step of a claimed job.
    pub(super) async fn record<W>(&self, job: &Job<W>, transition: Transition) -> JobSummary {
        let event = NewEvent::Transition(transition);
        self.store.record(job.id, job.fence, event).await.unwrap()
    }

    /// A worker's part: a claimed job to its good end.
    pub(super) async fn finish(&self, job: &Job) -> JobSummary {
        self.record(job, Transition::Loaded).await;
        self.record(job, Transition::EngineDone).await;
        self.record(job, Transition::Published(outcome(job))).await
    }

    pub(super) fn advance(&self, time: Duration) {
        let micros = i64::try_from(time.as_micros()).unwrap();
        self.now.fetch_add(micros, Ordering::SeqCst);
    }
}

fn outcome(job: &Job) -> Outcome {
    Outcome::Unlearned(Box::new(Unlearned {
        published: Published {
            manifest_uri: format!("s3://out/models/{}/manifest.json", job.id),
            manifest_sha256: "0".repeat(64),
            files: Vec::new(),
        },
        verdicts: Vec::new(),
        key_steps: vec![StepIndex(2)],
        window: Some(LogSnrWindow { low: -4.0, high: -1.0 }),
        updates: 4,
        unet_evaluations: 32,
        evaluation: EvaluationResults::default(),
    }))
}

/// A caller with these roles.
pub(super) fn caller(name: &str, roles: &[Role]) -> Caller {
    Caller {
        principal: Principal(name.to_owned()),
        roles: roles.iter().copied().collect(),
        queued_jobs: None,
        highest_priority: None,
    }
}

pub(super) fn ada() -> Caller {
    caller("ada", &[Role::Read, Role::Generate, Role::Submit])
}

pub(super) fn bob() -> Caller {
    caller("bob", &[Role::Read, Role::Generate, Role::Submit])
}

/// A request as the server's layer hands it over.
pub(super) fn from<T>(caller: &Caller, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(caller.clone());
    request
}

/// Erases a cat from the built-in model.
pub(super) fn erase_cat() -> UnlearnConceptRequest {
    UnlearnConceptRequest {
        base_model: BUILTIN.to_owned(),
        concepts: vec!["cat".to_owned()],
        concept_kind: ConceptKind::ObjectClass.into(),
        ..UnlearnConceptRequest::default()
    }
}

/// The code and the reason of a refusal.
pub(super) fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.unwrap_err();
    (status.code(), status.get_details_error_info().unwrap().reason)
}

/// The fields that a refusal names.
pub(super) fn fields(status: &Status) -> Vec<String> {
    let bad = status.get_details_bad_request();
    let violations = bad.into_iter().flat_map(|bad| bad.field_violations);
    violations.map(|violation| violation.field).collect()
}

/// Reads a packed message.
pub(super) fn unpacked<T: Message + Default>(any: Option<&prost_types::Any>) -> T {
    T::decode(any.unwrap().value.as_slice()).unwrap()
}
