//! Finished results while their output is away: none is lost, trained twice or left
//! behind. The clock is scripted, so that hours pass at once.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use futures::TryStreamExt;
use keystep::{
    artifacts::digest::digest_bytes,
    device::DeviceSettings,
    jobs::{
        Clock, Evaluation, EventBody, FailureReason, Inserted, JobId, JobOptions, JobState,
        JobStore, JobSummary, MemoryStore, NewJob, Principal, QueueLimits, RequestId, Sequence,
        StateName, StoreError, StoreSettings, Timestamp, UnlearnWork, Work, WorkerId, WorkerLoss,
    },
    outcome::FinishedResult,
    publishing::{ObjectPublisher, PublisherSettings},
    run::SharedState,
    spec::{Concept, ConceptKind, Method, MethodName, OutputFormat, UnlearnSpec, Vocabulary},
    storage::{
        StorageSettings, Storages,
        testing::{Fault, Flaky},
    },
    worker::{
        Device, OutputHealth, PublishingSettings, Worker, WorkerParts, WorkerSettings,
        WorkerSignals,
        testing::{FakeScript, FakeSource, FixedModels},
    },
};
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

const MODEL: &str = "canvas";
const DIGEST: &str = "digest of canvas";
const OUTPUT: &str = "memory://outage/results";
const UPDATES: usize = 5;
const HOUR: Duration = Duration::from_hours(1);
const KEEP: Duration = Duration::from_hours(24);
/// Of the tests' own time; a job that hangs is found out, not waited for.
const LONG: Duration = Duration::from_hours(1_000);

/// A worker over a bucket that follows a script.
struct Bench {
    store: Arc<MemoryStore>,
    bucket: Arc<Flaky>,
    /// What is in the bucket, whatever it answers.
    memory: Arc<InMemory>,
    script: Arc<FakeScript>,
    now: Arc<AtomicI64>,
    place: tempfile::TempDir,
    retry_for: Duration,
    outputs: Vec<String>,
    /// Where workers share state, where they do.
    shared_state: Option<SharedState>,
}

/// What runs on a bench.
struct House {
    worker: Worker,
    device: Device,
    health: OutputHealth,
    signals: WorkerSignals,
    tracker: TaskTracker,
}

impl Bench {
    fn new(retry_for: Duration) -> Self {
        let now = Arc::new(AtomicI64::new(1_800_000_000_000_000));
        let settings = StoreSettings {
            clock: Clock::Manual(now.clone()),
            keep_unpublished: KEEP,
            ..StoreSettings::default()
        };
        let memory = Arc::new(InMemory::new());
        Self {
            store: Arc::new(MemoryStore::new(settings)),
            bucket: Flaky::over(memory.clone()),
            memory,
            script: FakeScript::new(UPDATES, Duration::ZERO),
            now,
            place: tempfile::tempdir().unwrap(),
            retry_for,
            outputs: vec![OUTPUT.to_owned()],
            shared_state: None,
        }
    }

    fn start(&self) -> House {
        self.start_as("one", "")
    }

    /// A worker of that name, with a disk of that name.
    fn start_as(&self, name: &str, disk: &str) -> House {
        let storages = Arc::new(Storages::new(StorageSettings::default()));
        storages.mount("memory://outage", self.bucket.clone(), None).unwrap();
        let transfer = PublisherSettings::from(storages.settings());
        let publisher = PublisherSettings { outputs: self.outputs.clone(), ..transfer };
        let models = Arc::new(FixedModels::with_base(MODEL, DIGEST));
        let source = FakeSource(self.script.clone());
        let device = Device::start(
            vec![source],
            DeviceSettings::default(),
            models.clone(),
            Handle::current(),
        )
        .unwrap();
        let (signals, tracker) = (WorkerSignals::default(), TaskTracker::new());
        let health = OutputHealth::default();
        let settings = WorkerSettings {
            clock: Clock::Manual(self.now.clone()),
            // The store wakes it.
            poll_every: Duration::from_mins(10),
            publishing: PublishingSettings {
                retry_for: self.retry_for,
                ..PublishingSettings::default()
            },
            shared_state: self.shared_state.clone(),
            ..WorkerSettings::new(WorkerId(name.to_owned()), self.place.path().join(disk))
        };
        let parts = WorkerParts {
            store: self.store.clone(),
            device: device.clone(),
            models,
            publisher: Arc::new(ObjectPublisher::new(storages, publisher)),
            outputs: health.clone(),
            tracker: tracker.clone(),
            signals: signals.clone(),
        };
        let worker = Worker::start(settings, parts);
        House { worker, device, health, signals, tracker }
    }

    async fn insert(&self, seed: u64) -> JobId {
        self.insert_for(seed, OUTPUT, None).await
    }

    async fn insert_for(&self, seed: u64, destination: &str, deadline: Option<Timestamp>) -> JobId {
        let (method, scope) = Method::preset(MethodName::Keystep, ConceptKind::Object, false);
        let work = UnlearnWork {
            base_model: MODEL.to_owned(),
            base_digest: DIGEST.to_owned(),
            spec: UnlearnSpec {
                concepts: vec![Concept::new("cat", ConceptKind::Object)],
                method,
                scope,
                preserve: Vec::new(),
                vocabulary: Vocabulary::default(),
                seed,
            },
            score_digest: None,
            formats: vec![OutputFormat::Delta],
            destination: destination.to_owned(),
            evaluation: Evaluation::Skipped,
            evaluation_sampler: None,
        };
        let new = NewJob {
            principal: Principal("tester".to_owned()),
            request_id: RequestId(Uuid::new_v4()),
            request_digest: "request".to_owned(),
            work_digest: format!("work {seed}"),
            work: Work::Unlearn(Box::new(work)),
            options: JobOptions { deadline, ..JobOptions::default() },
            // An outage is no attempt.
            max_attempts: 1,
        };
        let limits = QueueLimits { total: 10, of_principal: 10, stored_bytes: u64::MAX };
        match self.store.insert(new, limits).await.unwrap() {
            Inserted::Created(job) | Inserted::Existing(job) => job.id,
        }
    }

    async fn job(&self, id: JobId) -> JobSummary {
        self.store.get(id).await.unwrap().unwrap()
    }

    async fn wait(&self, id: JobId, state: StateName) -> JobSummary {
        let mut changes = self.store.subscribe();
        let comes = async {
            loop {
                changes.borrow_and_update();
                let job = self.job(id).await;
                if job.state.name() == state {
                    return job;
                }
                changes.changed().await.unwrap();
            }
        };
        if let Ok(job) = timeout(LONG, comes).await {
            return job;
        }
        panic!("it did not come to {state:?}: {:?}", self.job(id).await.state);
    }

    /// Waits for something that no event reports.
    async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let begun = Instant::now();
        while !holds().await {
            assert!(begun.elapsed() < LONG, "never: {what}");
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn warnings(&self, id: JobId) -> usize {
        let events = self.store.events_after(id, Sequence(0), 10_000).await.unwrap();
        let is_retry = |body: &EventBody| matches!(body, EventBody::Warning { reason, .. } if reason == "PUBLISHING_RETRIED");
        events.iter().filter(|event| is_retry(&event.body)).count()
    }

    /// Names of the job's objects in the bucket, below its folder.
    async fn objects(&self, id: JobId) -> Vec<String> {
        let all: Vec<_> = self.memory.list(None).try_collect().await.unwrap();
        let names = all.iter().map(|object| object.location.to_string());
        let own = names.filter_map(|name| {
            name.split_once(&format!("{id}/")).map(|(_, below)| below.to_owned())
        });
        own.collect()
    }

    async fn is_published(&self, id: JobId) -> bool {
        self.objects(id).await.iter().any(|name| name == "manifest.json")
    }

    /// Size and digest of the job's object of that name, which is one alone.
    async fn object(&self, id: JobId, name: &str) -> (u64, String) {
        let all: Vec<_> = self.memory.list(None).try_collect().await.unwrap();
        let job = id.to_string();
        let is_it = |path: &str| path.contains(&job) && path.ends_with(name);
        let found: Vec<_> = all.iter().filter(|it| is_it(it.location.as_ref())).collect();
        assert_eq!(found.len(), 1, "{name} among {all:?}");
        let object = found[0];
        let bytes = self.memory.get(&object.location).await.unwrap().bytes().await.unwrap();
        (bytes.len() as u64, digest_bytes(&bytes))
    }

    fn folder(&self, id: JobId) -> PathBuf {
        self.place.path().join("jobs").join(id.to_string())
    }

    fn updates_made(&self) -> usize {
        self.script.updates_made.load(Ordering::SeqCst)
    }

    fn advance(&self, time: Duration) {
        self.now.fetch_add(i64::try_from(time.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

impl House {
    async fn close(self) {
        self.signals.stop_claiming.cancel();
        self.signals.pause_jobs.cancel();
        self.worker.stopped().await;
        self.tracker.close();
        self.tracker.wait().await;
        self.device.stop().await;
    }
}

fn reason(job: &JobSummary) -> FailureReason {
    match &job.state {
        JobState::Failed(failure) => failure.reason,
        other => panic!("not failed: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_an_hour_costs_no_job_and_no_training() {
    for fault in [Fault::Away, Fault::Denied, Fault::Full] {
        let bench = Bench::new(12 * HOUR);
        let house = bench.start();
        bench.bucket.fail_from(0, fault);
        let mut jobs = Vec::new();
        for seed in 0..3 {
            jobs.push(bench.insert(seed).await);
        }
        bench.wait(jobs[0], StateName::Publishing).await;
        bench.until("the output is known to fail", async || house.health.problem().is_some()).await;
        sleep(HOUR).await;
        // The first one waits, and nothing was begun that could not be published.
        let first = bench.job(jobs[0]).await;
        assert_eq!((first.state.name(), first.attempt), (StateName::Publishing, 1), "{fault:?}");
        for id in &jobs[1..] {
            assert_eq!(bench.job(*id).await.state.name(), StateName::Queued);
        }
        assert_eq!(bench.updates_made(), UPDATES);
        let tries = bench.bucket.count("head") + bench.bucket.count("get");
        assert!((60..2_000).contains(&tries), "{fault:?}: {tries} tries in an hour");
        assert_eq!(bench.warnings(jobs[0]).await, 1, "warned once, not at each try");

        bench.bucket.heal();
        for id in &jobs {
            let job = bench.wait(*id, StateName::Succeeded).await;
            assert_eq!(job.attempt, 1);
            assert!(bench.is_published(*id).await);
        }
        assert_eq!(bench.updates_made(), 3 * UPDATES, "{fault:?}: nothing was trained twice");
        assert_eq!(house.health.problem(), None);
        house.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_finds_the_output_back_ends_the_wait() {
    let bench = Bench::new(12 * HOUR);
    let house = bench.start();
    bench.bucket.fail_from(0, Fault::Away);
    let id = bench.insert(1).await;
    bench.until("the output is known to fail", async || house.health.problem().is_some()).await;
    sleep(HOUR).await;
    house.health.probed(Some("away".to_owned()));
    bench.bucket.heal();
    let back = Instant::now();
    sleep(Duration::from_secs(1)).await;
    house.health.probed(None);
    bench.wait(id, StateName::Succeeded).await;
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_result_that_waited_in_vain_is_kept_and_published_again() {
    let bench = Bench::new(HOUR);
    let house = bench.start();
    bench.bucket.fail_from(0, Fault::Away);
    let (id, next) = (bench.insert(1).await, bench.insert(2).await);
    let begun = Instant::now();
    let failed = bench.wait(id, StateName::Failed).await;
    assert!(begun.elapsed() >= HOUR, "{:?}", begun.elapsed());
    assert_eq!(reason(&failed), FailureReason::StorageUnavailable);
    let until = failed.result_kept_until().unwrap();
    assert_eq!(until.since(Timestamp(bench.now.load(Ordering::SeqCst))), KEEP);
    // Until a probe says that the output is back, the next one is not begun.
    sleep(HOUR).await;
    assert_eq!(bench.job(next).await.state.name(), StateName::Queued);
    assert!(house.health.problem().is_some());
    let folder = bench.folder(id);
    assert!(folder.join("result/complete.json").is_file() && !folder.join("state").exists());
    house.close().await;

    // After a restart as before it, and before what waits in the queue.
    bench.bucket.heal();
    let asked = bench.store.publish_again(id).await.unwrap();
    assert_eq!((asked.state.name(), &asked.lease), (StateName::Publishing, &None));
    assert_eq!((asked.expires_at, asked.result_kept_until()), (None, None));
    assert_eq!(bench.store.publish_again(id).await.unwrap(), asked, "asked twice is asked once");
    let house = bench.start();
    let done = bench.wait(id, StateName::Succeeded).await;
    assert_eq!(done.attempt, 1);
    assert!(bench.is_published(id).await);
    assert_eq!(bench.store.publish_again(id).await.unwrap(), done);
    bench.wait(next, StateName::Succeeded).await;
    assert_eq!(bench.updates_made(), 2 * UPDATES);
    assert!(!folder.exists());
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asked_for_in_time_goes_from_the_disk_and_from_the_output() {
    let bench = Bench::new(HOUR);
    let house = bench.start();
    // Some files arrive, the manifest does not.
    bench.bucket.fail_from(8, Fault::Away);
    let id = bench.insert(1).await;
    bench.wait(id, StateName::Failed).await;
    assert!(!bench.objects(id).await.is_empty(), "nothing had arrived");
    bench.bucket.heal();
    // Kept beyond many sweeps.
    sleep(HOUR).await;
    assert!(bench.folder(id).join("result").exists());
    bench.advance(KEEP);
    bench.until("the disk is cleared", async || !bench.folder(id).exists()).await;
    assert_eq!(bench.objects(id).await, Vec::<String>::new());
    let refused = bench.store.publish_again(id).await;
    assert!(matches!(refused, Err(StoreError::ResultNotKept { .. })), "{refused:?}");
    assert_eq!(bench.job(id).await.state.name(), StateName::Failed);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_ends_the_wait_and_leaves_nothing_in_the_output() {
    let bench = Bench::new(12 * HOUR);
    let house = bench.start();
    bench.bucket.fail_from(8, Fault::Away);
    let id = bench.insert(1).await;
    bench.until("the output is known to fail", async || house.health.problem().is_some()).await;
    sleep(HOUR).await;
    assert!(!bench.objects(id).await.is_empty(), "nothing had arrived");
    bench.store.request_cancel(id).await.unwrap();
    bench.wait(id, StateName::Cancelled).await;
    // While the output is away its files stay, and are not forgotten.
    assert!(!bench.objects(id).await.is_empty());
    bench.until("the output works", async || house.health.problem().is_none()).await;
    bench.until("the result goes", async || !bench.folder(id).join("result").exists()).await;
    bench.bucket.heal();
    bench.until("the disk is cleared", async || !bench.folder(id).exists()).await;
    assert_eq!(bench.objects(id).await, Vec::<String>::new());
    let refused = bench.store.publish_again(id).await;
    assert!(matches!(refused, Err(StoreError::ResultNotKept { .. })), "{refused:?}");
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_wait_and_not_the_result() {
    let bench = Bench::new(12 * HOUR);
    let house = bench.start();
    bench.bucket.fail_from(0, Fault::Away);
    let deadline = Timestamp(bench.now.load(Ordering::SeqCst)) + HOUR;
    let id = bench.insert_for(1, OUTPUT, Some(deadline)).await;
    bench.until("the output is known to fail", async || house.health.problem().is_some()).await;
    bench.advance(2 * HOUR);
    let failed = bench.wait(id, StateName::Failed).await;
    assert_eq!(reason(&failed), FailureReason::DeadlineExceeded);
    assert!(failed.result_kept_until().is_some());
    bench.until("it is let go", async || house.health.problem().is_none()).await;
    bench.bucket.heal();
    bench.store.publish_again(id).await.unwrap();
    bench.wait(id, StateName::Succeeded).await;
    assert_eq!(bench.updates_made(), UPDATES);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_an_output_that_is_away() {
    let bench = Bench::new(12 * HOUR);
    let house = bench.start();
    bench.bucket.fail_from(0, Fault::Away);
    let id = bench.insert(1).await;
    bench.until("the output is known to fail", async || house.health.problem().is_some()).await;
    sleep(HOUR).await;
    let asked = Instant::now();
    house.close().await;
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    let job = bench.job(id).await;
    assert_eq!((job.state.name(), job.attempt), (StateName::Queued, 0));
    bench.bucket.heal();
    let house = bench.start();
    bench.wait(id, StateName::Succeeded).await;
    assert_eq!(bench.updates_made(), UPDATES);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_kept_result_that_is_lost_after_all_is_reported_as_such() {
    let bench = Bench::new(Duration::ZERO);
    let house = bench.start();
    bench.bucket.fail_from(0, Fault::Away);
    let id = bench.insert(1).await;
    let next = bench.insert(2).await;
    bench.wait(id, StateName::Failed).await;
    sleep(HOUR).await;
    assert_eq!(
        bench.job(next).await.state.name(),
        StateName::Queued,
        "one try is reported as well"
    );
    bench.bucket.heal();
    house.health.probed(None);
    bench.wait(next, StateName::Succeeded).await;
    std::fs::remove_dir_all(bench.folder(id)).unwrap();
    bench.store.publish_again(id).await.unwrap();
    let failed = bench.wait(id, StateName::Failed).await;
    assert_eq!(reason(&failed), FailureReason::ResultNotKept);
    assert_eq!(failed.result_kept_until(), None);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_allowed_no_more_is_not_trained_for() {
    let bench = Bench::new(HOUR);
    let house = bench.start();
    let id = bench.insert_for(1, "memory://elsewhere/results", None).await;
    let failed = bench.wait(id, StateName::Failed).await;
    assert_eq!(reason(&failed), FailureReason::DestinationNotAllowed);
    assert_eq!(bench.updates_made(), 0);
    assert_eq!(failed.result_kept_until(), None);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_lost_amid_an_upload_is_followed_by_one_with_an_empty_disk() {
    let storages = Storages::new(StorageSettings::default());
    let root = storages.open("memory://outage-state/a").unwrap();
    let shared_state = Some(SharedState::new(root, storages.settings().into()));
    let bench = Bench { shared_state, ..Bench::new(12 * HOUR) };
    let one = bench.start_as("one", "one");
    // Some files arrive, and then no answer comes.
    bench.bucket.fail_from(8, Fault::Hang);
    let id = bench.insert(1).await;
    bench.bucket.hangs().await;
    assert!(!bench.objects(id).await.is_empty(), "nothing had arrived");
    let folder = bench.place.path().join("one/jobs").join(id.to_string());
    let marker = std::fs::read(folder.join("result/complete.json")).unwrap();
    let finished: FinishedResult = serde_json::from_slice(&marker).unwrap();
    one.signals.stop_claiming.cancel();
    let worker = WorkerId("one".to_owned());
    bench.store.expire_worker(&worker, &[], WorkerLoss::Unexplained).await.unwrap();
    one.close().await;
    std::fs::remove_dir_all(bench.place.path().join("one")).unwrap();

    bench.bucket.heal();
    let loads = bench.script.loads.load(Ordering::SeqCst);
    let two = bench.start_as("two", "two");
    bench.wait(id, StateName::Succeeded).await;
    assert!(bench.is_published(id).await);
    for file in &finished.files {
        let found = bench.object(id, &format!("/{}", file.name)).await;
        assert_eq!(found, (file.size, file.sha256.clone()), "{}", file.name);
    }
    assert_eq!(bench.updates_made(), UPDATES);
    assert_eq!(
        bench.script.loads.load(Ordering::SeqCst),
        loads,
        "no engine was asked for anything"
    );
    two.close().await;
}
