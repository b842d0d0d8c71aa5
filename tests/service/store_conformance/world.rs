//! A store with a clock that the test moves, and the requests that go into it.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use keystep::{
    jobs::{
        Clock, EvaluateWork, Evaluated, Evaluation, EventBody, Failure, FailureReason, Fence,
        Identifiers, Inserted, Job, JobEvent, JobId, JobOptions, JobProgress, JobState, JobStore,
        JobSummary, MemoryStore, NewEvent, NewJob, Outcome, Principal, QueueLimits, RequestId,
        ScriptedClock, Sequence, SqliteStore, StateName, Store, StoreSettings, Timestamp,
        Transition, UnlearnWork, Work, WorkerId,
    },
    outcome::{EvaluationResults, Phase, Published},
    spec::{Concept, ConceptKind, JudgeSpec, MethodName, OutputFormat, UnlearnSpec, Vocabulary},
};
use tempfile::TempDir;
use uuid::Uuid;

pub const LEASE: Duration = Duration::from_mins(1);
pub const RETENTION: Duration = Duration::from_hours(1);
pub const KEEP_UNPUBLISHED: Duration = Duration::from_mins(30);
pub const NO_LIMITS: QueueLimits =
    QueueLimits { total: u64::MAX, of_principal: u64::MAX, stored_bytes: u64::MAX };
const START: i64 = 1_700_000_000_000_000;

pub struct World {
    pub store: Store,
    pub clock: Arc<ScriptedClock>,
    pub settings: StoreSettings,
    folder: Option<TempDir>,
}

impl World {
    pub fn memory() -> Self {
        let (clock, settings) = settings();
        let store = MemoryStore::new(settings.clone()).into();
        Self { store, clock, settings, folder: None }
    }

    pub async fn sqlite() -> Self {
        let (clock, settings) = settings();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobs.db");
        let store = SqliteStore::open(&path, settings.clone()).await.unwrap().into();
        Self { store, clock, settings, folder: Some(folder) }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.as_ref().unwrap().path().join("jobs.db")
    }

    /// The same file in a new store. The old one is closed, or only dropped as by a crash.
    pub async fn reopen(mut self, close: bool) -> Self {
        let path = self.path();
        if close {
            self.store.close().await;
        }
        self.store = MemoryStore::new(self.settings.clone()).into();
        self.store = SqliteStore::open(&path, self.settings.clone()).await.unwrap().into();
        self
    }

    pub fn now(&self) -> Timestamp {
        self.settings.clock.now()
    }

    pub fn wait(&self, duration: Duration) {
        self.clock.pass(duration);
    }

    pub async fn submit(&self, new: NewJob) -> JobSummary {
        match self.store.insert(new, NO_LIMITS).await.unwrap() {
            Inserted::Created(job) => *job,
            Inserted::Existing(job) => panic!("{} was there before", job.id),
        }
    }

    pub async fn job(&self, id: JobId) -> JobSummary {
        self.store.get(id).await.unwrap().unwrap()
    }

    pub async fn claim(&self) -> Option<Job> {
        self.store.claim(&worker("worker"), LEASE).await.unwrap()
    }

    pub async fn record<W>(&self, job: &Job<W>, transition: Transition) -> JobSummary {
        self.store.record(job.id, job.fence, NewEvent::Transition(transition)).await.unwrap()
    }

    /// Takes a new job as far as a state; nothing else may be waiting.
    pub async fn job_in(&self, number: u128, state: StateName) -> JobSummary {
        let job = self.submit(NewJob { max_attempts: 1, ..request(number) }).await;
        if state == StateName::Queued {
            return job;
        }
        if state == StateName::Cancelled {
            return self.store.request_cancel(job.id).await.unwrap();
        }
        let mut job = self.claim().await.unwrap().summary();
        let path: &[Transition] = match state {
            StateName::Running => &[Transition::Loaded],
            StateName::Publishing => &[Transition::Loaded, Transition::EngineDone],
            StateName::Succeeded => {
                &[Transition::Loaded, Transition::EngineDone, Transition::Published(outcome())]
            }
            StateName::Failed => &[failed(FailureReason::NotFinite, Timestamp(0))],
            _ => &[],
        };
        for transition in path {
            job = self.record(&job, transition.clone()).await;
        }
        assert_eq!(job.state.name(), state);
        job
    }

    pub async fn log(&self, id: JobId) -> Vec<JobEvent> {
        self.store.events_after(id, Sequence(0), u32::MAX).await.unwrap()
    }

    /// The log has no gap and tells the job's state.
    pub async fn check_log(&self, id: JobId) {
        let (log, job) = (self.log(id).await, self.job(id).await);
        let sequences: Vec<_> = log.iter().map(|event| event.sequence.0).collect();
        let wanted: Vec<_> = (1..=log.len() as u64).collect();
        assert_eq!(sequences, wanted);
        assert_eq!(job.last_sequence.0, log.len() as u64);
        let last = log.iter().rev().find_map(|event| match &event.body {
            EventBody::StateChanged { state, attempt, failure } => Some((state, attempt, failure)),
            _ => None,
        });
        let (state, attempt, failure) = last.unwrap();
        assert_eq!((*state, *attempt), (job.state.name(), job.attempt));
        if let JobState::Failed(stored) = &job.state {
            assert_eq!(failure.as_ref(), Some(stored));
        }
    }
}

fn settings() -> (Arc<ScriptedClock>, StoreSettings) {
    let clock = ScriptedClock::new(Timestamp(START));
    let settings = StoreSettings {
        clock: Clock::Scripted(Arc::clone(&clock)),
        identifiers: Identifiers::Counted(Arc::new(AtomicU64::new(0))),
        retention: RETENTION,
        keep_unpublished: KEEP_UNPUBLISHED,
        ..StoreSettings::default()
    };
    (clock, settings)
}

pub fn worker(name: &str) -> WorkerId {
    WorkerId(name.to_owned())
}

pub fn ada() -> Principal {
    Principal("ada".to_owned())
}

pub fn bob() -> Principal {
    Principal("bob".to_owned())
}

/// Ada's request; every third one is an evaluation.
pub fn request(number: u128) -> NewJob {
    NewJob {
        principal: ada(),
        request_id: RequestId(Uuid::from_u128(number)),
        request_digest: format!("request {number}"),
        work_digest: format!("work {number}"),
        work: if number % 3 == 2 { evaluation() } else { erasure() },
        options: JobOptions::default(),
        max_attempts: 2,
    }
}

pub fn with_priority(number: u128, priority: i32) -> NewJob {
    NewJob { options: JobOptions { priority, ..JobOptions::default() }, ..request(number) }
}

pub fn with_deadline(number: u128, deadline: Timestamp) -> NewJob {
    let options = JobOptions { deadline: Some(deadline), ..JobOptions::default() };
    NewJob { options, ..request(number) }
}

fn erasure() -> Work {
    Work::Unlearn(Box::new(UnlearnWork {
        base_model: "emoji-canvas".to_owned(),
        base_digest: "base".to_owned(),
        spec: UnlearnSpec {
            preserve: vec!["a dog, \"quoted\" – ü".to_owned()],
            seed: u64::MAX,
            ..UnlearnSpec::new(Concept::new("cat", ConceptKind::Object), MethodName::Keystep)
        },
        score_digest: None,
        formats: vec![OutputFormat::Delta],
        destination: "file:///out".to_owned(),
        evaluation: Evaluation::WherePossible,
        evaluation_sampler: None,
    }))
}

fn evaluation() -> Work {
    let concept = Concept::new("dog", ConceptKind::Object);
    Work::Evaluate(Box::new(EvaluateWork {
        base_model: "other/model".to_owned(),
        base_digest: "base".to_owned(),
        edited_model: "edited".to_owned(),
        spec: JudgeSpec::new(concept, Vocabulary::default()),
        destination: "file:///out".to_owned(),
    }))
}

pub fn outcome() -> Outcome {
    Outcome::Evaluated(Box::new(Evaluated {
        published: Published {
            manifest_uri: "file:///out/manifest.json".to_owned(),
            manifest_sha256: "00".to_owned(),
            files: Vec::new(),
        },
        verdicts: Vec::new(),
        unet_evaluations: 42,
        evaluation: EvaluationResults::default(),
    }))
}

pub fn failed(reason: FailureReason, retry_at: Timestamp) -> Transition {
    Transition::Failed { failure: Failure::new(reason, "why").with("limit", &3), retry_at }
}

pub fn progress(done: u64, loss: f64) -> NewEvent {
    NewEvent::Progress(JobProgress {
        phase: Phase::Train,
        done,
        total: 100,
        updates_done: 1,
        updates_total: 2,
        key_step: 3,
        loss,
        gradient_norm: 0.1,
    })
}

pub fn fence(number: u64) -> Fence {
    Fence(number)
}
