//! The worker from claim to end, with a scripted engine: what is promised of cancels, drains, faults
//! and lost leases, in milliseconds.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use keystep::{
    jobs::{
        Evaluation, EventBody, FailureReason, Inserted, Job, JobId, JobOptions, JobState, JobStore,
        MemoryStore, NewJob, Outcome, OutputFormat, Principal, QueueLimits, RequestId, Sequence,
        StateName, StoreSettings, UnlearnWork, Unlearned, Work, WorkerId,
    },
    spec::{
        Concept, ConceptKind, GenerateSpec, KeySteps, LogSnrWindow, Method, MethodName,
        UnlearnSpec, Vocabulary,
    },
    worker::{
        CandleSource, Device, DeviceHealth, DeviceSettings, DirectCall, DirectUpdate, EngineSource,
        Worker, WorkerParts, WorkerSettings, WorkerSignals,
        testing::{FakeScript, FakeSource, Fault, FaultKind, FixedModels, FolderPublisher},
    },
};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

const MODEL: &str = "canvas";
const DIGEST: &str = "digest of canvas";
const MILLISECOND: Duration = Duration::from_millis(1);

/// A worker with everything around it.
struct Bench {
    store: Arc<MemoryStore>,
    device: Device,
    worker: Worker,
    publisher: Arc<FolderPublisher>,
    signals: WorkerSignals,
    tracker: TaskTracker,
    place: Arc<tempfile::TempDir>,
}

fn settings(place: &Path) -> WorkerSettings {
    WorkerSettings {
        lease: Duration::from_secs(2),
        extend_every: Duration::from_millis(20),
        save_every: 5,
        first_backoff: 5 * MILLISECOND,
        progress_every: 2 * MILLISECOND,
        poll_every: 5 * MILLISECOND,
        sweep_every: 10 * MILLISECOND,
        ..WorkerSettings::new(WorkerId("one".to_owned()), place.join("data"))
    }
}

impl Bench {
    fn start(script: &Arc<FakeScript>) -> Self {
        Self::start_slow(script, Duration::ZERO)
    }

    /// With a publisher that takes so long a file.
    fn start_slow(script: &Arc<FakeScript>, delay: Duration) -> Self {
        let place = Arc::new(tempfile::tempdir().unwrap());
        let store = Arc::new(MemoryStore::new(StoreSettings::default()));
        Self::start_with(FakeSource(script.clone()), delay, place, store)
    }

    fn start_with<E: EngineSource>(
        source: E,
        delay: Duration,
        place: Arc<tempfile::TempDir>,
        store: Arc<MemoryStore>,
    ) -> Self {
        let models = Arc::new(FixedModels::with_base(MODEL, DIGEST));
        let device_settings = DeviceSettings {
            direct_calls: 2,
            first_backoff: 5 * MILLISECOND,
            ..DeviceSettings::default()
        };
        let device =
            Device::start(source, device_settings, models.clone(), Handle::current()).unwrap();
        let publisher = Arc::new(FolderPublisher::new(place.path().join("published")).slow(delay));
        let (signals, tracker) = (WorkerSignals::default(), TaskTracker::new());
        let parts = WorkerParts {
            store: store.clone(),
            device: device.clone(),
            models,
            publisher: publisher.clone(),
            tracker: tracker.clone(),
            signals: signals.clone(),
        };
        let worker = Worker::start(settings(place.path()), parts);
        Self { store, device, worker, publisher, signals, tracker, place }
    }

    async fn insert(&self, seed: u64) -> JobId {
        self.insert_work(unlearn_work(seed), 2).await
    }

    async fn insert_work(&self, work: UnlearnWork, max_attempts: u32) -> JobId {
        let new = NewJob {
            principal: Principal("tester".to_owned()),
            request_id: RequestId(Uuid::new_v4()),
            request_digest: "request".to_owned(),
            work_digest: format!("work {}", work.spec.seed),
            work: Work::Unlearn(Box::new(work)),
            options: JobOptions::default(),
            max_attempts,
        };
        let limits = QueueLimits { total: 10, of_principal: 10 };
        match self.store.insert(new, limits).await.unwrap() {
            Inserted::Created(job) | Inserted::Existing(job) => job.id,
        }
    }

    async fn job(&self, id: JobId) -> Job {
        self.store.get(id).await.unwrap().unwrap()
    }

    /// Waits for a job to be as wanted.
    async fn wait(&self, id: JobId, wanted: impl Fn(&Job) -> bool) -> Job {
        for _ in 0..4_000 {
            let job = self.job(id).await;
            if wanted(&job) {
                return job;
            }
            tokio::time::sleep(MILLISECOND).await;
        }
        panic!("it did not come to that: {:?}", self.job(id).await);
    }

    async fn wait_state(&self, id: JobId, state: StateName) -> Job {
        self.wait(id, |job| job.state.name() == state).await
    }

    async fn finish(&self, id: JobId) -> Job {
        self.wait(id, |job| job.state.name().is_terminal()).await
    }

    async fn states(&self, id: JobId) -> Vec<StateName> {
        let events = self.store.events_after(id, Sequence(0), 10_000).await.unwrap();
        let states = events.into_iter().filter_map(|event| match event.body {
            EventBody::StateChanged { state, .. } => Some(state),
            _ => None,
        });
        states.collect()
    }

    async fn drain(&self) {
        self.signals.stop_claiming.cancel();
        self.signals.pause_jobs.cancel();
        self.worker.stopped().await;
        self.tracker.close();
        self.tracker.wait().await;
        self.device.stop().await;
    }

    fn folder(&self, id: JobId) -> PathBuf {
        self.place.path().join("data/jobs").join(id.to_string())
    }

    fn published(&self, id: JobId) -> BTreeMap<String, Vec<u8>> {
        read_all(&self.place.path().join("published").join(id.to_string()))
    }
}

fn read_all(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let Ok(entries) = fs::read_dir(folder) else { return files };
    for entry in entries.flatten() {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            let within = read_all(&entry.path());
            files.extend(within.into_iter().map(|(file, bytes)| (format!("{name}/{file}"), bytes)));
        } else {
            files.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    files
}

fn unlearn_work(seed: u64) -> UnlearnWork {
    let (method, scope) = Method::preset(MethodName::Keystep, ConceptKind::Object, false);
    UnlearnWork {
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
        formats: vec![OutputFormat::Delta, OutputFormat::Unet],
        destination: "file:///published".to_owned(),
        evaluation: Evaluation::WherePossible,
    }
}

fn generate(count: u64) -> DirectCall {
    DirectCall::Generate {
        model: MODEL.to_owned(),
        spec: GenerateSpec {
            pictures: (0..count).map(|seed| ("a cat".to_owned(), seed)).collect(),
            negative_prompt: String::new(),
            steps: 3,
            guidance_scale: 5.0,
            size: None,
        },
        preview_every: NonZeroUsize::new(2),
    }
}

fn unlearned(job: &Job) -> &Unlearned {
    match &job.state {
        JobState::Succeeded(Outcome::Unlearned(unlearned)) => unlearned,
        other => panic!("not erased: {other:?}"),
    }
}

fn failure(job: &Job) -> FailureReason {
    match &job.state {
        JobState::Failed(failure) => failure.reason,
        other => panic!("not failed: {other:?}"),
    }
}

fn script(updates: usize, delay: Duration) -> Arc<FakeScript> {
    FakeScript::new(updates, delay)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_from_the_queue_to_its_manifest() {
    let script = Arc::new(FakeScript { updates: 12, can_judge: true, ..FakeScript::default() });
    let bench = Bench::start(&script);
    let id = bench.insert(7).await;
    let job = bench.finish(id).await;
    let outcome = unlearned(&job);
    assert_eq!(outcome.updates, 12);
    assert_eq!(outcome.verdicts.len(), 1);
    assert!(outcome.manifest_uri.ends_with("manifest.json"));
    let names: Vec<_> = outcome.files.iter().map(|file| file.name.as_str()).collect();
    for name in ["delta.safetensors", "unet/config.json", "report.html", "before-after.png"] {
        assert!(names.contains(&format!("files/{name}").as_str()), "{name} in {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("complete.json")));
    let StateName::Succeeded = job.state.name() else { panic!() };
    assert_eq!(
        bench.states(id).await,
        [
            StateName::Queued,
            StateName::Preparing,
            StateName::Running,
            StateName::Publishing,
            StateName::Succeeded
        ]
    );
    // The last progress of training is never lost.
    assert_eq!(job.progress.unwrap().updates_done, 12);
    let folder = bench.folder(id);
    for _ in 0..500 {
        if !folder.exists() {
            break;
        }
        tokio::time::sleep(MILLISECOND).await;
    }
    assert!(!folder.exists());
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spot_check_does_not_wait_for_a_whole_job() {
    let script = script(2_000, 2 * MILLISECOND);
    let bench = Bench::start(&script);
    let id = bench.insert(1).await;
    bench.wait_state(id, StateName::Running).await;
    let mut stream = bench.device.direct_calls().submit(generate(2)).unwrap();
    let (mut pictures, mut previews) = (Vec::new(), 0);
    while let Some(update) = stream.next().await {
        match update.unwrap() {
            DirectUpdate::Picture { index, picture } => pictures.push((index, picture)),
            DirectUpdate::Preview { .. } => previews += 1,
            _ => {}
        }
    }
    assert_eq!(pictures.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(previews, 2);
    assert_eq!(bench.job(id).await.state.name(), StateName::Running);
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_says_so_and_forgets_callers_that_left() {
    let script = script(2_000, 20 * MILLISECOND);
    let bench = Bench::start(&script);
    let calls = bench.device.direct_calls();
    let long = DirectCall::Generate {
        model: MODEL.to_owned(),
        spec: GenerateSpec {
            pictures: vec![(String::new(), 0)],
            negative_prompt: String::new(),
            steps: 1_000,
            guidance_scale: 1.0,
            size: None,
        },
        preview_every: None,
    };
    let mut served = calls.submit(long).unwrap();
    while !matches!(served.next().await, Some(Ok(DirectUpdate::Progress(_)))) {}
    let mut first = calls.submit(generate(1)).unwrap();
    let mut second = calls.submit(generate(1)).unwrap();
    let full = calls.submit(generate(1)).unwrap_err();
    assert_eq!((full.waiting, full.limit), (2, 2));
    assert_eq!(first.next().await.unwrap().unwrap(), DirectUpdate::Position(1));
    assert_eq!(second.next().await.unwrap().unwrap(), DirectUpdate::Position(2));
    drop(first);
    let third = calls.submit(generate(1)).unwrap();
    assert_eq!(second.next().await.unwrap().unwrap(), DirectUpdate::Position(1));
    // A caller that leaves ends its work within a step.
    drop(served);
    assert_eq!(second.next().await.unwrap().unwrap(), DirectUpdate::Position(0));
    drop(third);
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_for_an_unknown_model_fails_at_once() {
    let bench = Bench::start(&script(1, Duration::ZERO));
    let mut call = generate(1);
    if let DirectCall::Generate { model, .. } = &mut call {
        "nothing".clone_into(model);
    }
    let mut stream = bench.device.direct_calls().submit(call).unwrap();
    let mut last = None;
    while let Some(update) = stream.next().await {
        last = Some(update);
    }
    assert_eq!(last.unwrap().unwrap_err().reason, FailureReason::ModelNotFound);
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_is_seen_in_every_state() {
    let waits = Arc::new(FakeScript {
        updates: 5_000,
        delay: MILLISECOND,
        load_delay: Duration::from_millis(300),
        ..FakeScript::default()
    });
    let bench = Bench::start(&waits);
    for state in [StateName::Preparing, StateName::Running] {
        let id = bench.insert(1).await;
        bench.wait_state(id, state).await;
        bench.store.request_cancel(id).await.unwrap();
        let job = bench.finish(id).await;
        assert_eq!(job.state.name(), StateName::Cancelled, "{state:?}");
    }
    assert!(waits.updates_made.load(Ordering::SeqCst) < 4_000);
    bench.drain().await;

    let bench = Bench::start_slow(&script(3, Duration::ZERO), Duration::from_millis(100));
    let id = bench.insert(1).await;
    bench.wait_state(id, StateName::Publishing).await;
    bench.store.request_cancel(id).await.unwrap();
    assert_eq!(bench.finish(id).await.state.name(), StateName::Cancelled);
    assert!(!bench.published(id).contains_key("manifest.json"));
    bench.drain().await;

    // Too late: what stands is not told to be cancelled.
    let bench = Bench::start_slow(&script(3, Duration::ZERO), Duration::from_millis(100));
    let id = bench.insert(1).await;
    bench.publisher.comes_to_its_manifest().await;
    bench.store.request_cancel(id).await.unwrap();
    assert_eq!(bench.finish(id).await.state.name(), StateName::Succeeded);
    assert!(bench.published(id).contains_key("manifest.json"));
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_job_goes_on_elsewhere_and_ends_with_the_same_bytes() {
    let whole = Bench::start(&script(200, Duration::ZERO));
    let id = whole.insert(9).await;
    whole.finish(id).await;
    let expected = whole.published(id);
    whole.drain().await;

    let slow = script(200, MILLISECOND);
    let bench = Bench::start(&slow);
    let id = bench.insert(9).await;
    bench.wait(id, |job| job.progress.is_some_and(|progress| progress.updates_done > 10)).await;
    bench.drain().await;
    let job = bench.job(id).await;
    assert_eq!((job.state.name(), job.attempt), (StateName::Queued, 0));
    let made = slow.updates_made.load(Ordering::SeqCst);
    assert!(made < 200);

    let next = Bench::start_with(
        FakeSource(slow.clone()),
        Duration::ZERO,
        bench.place.clone(),
        bench.store.clone(),
    );
    unlearned(&next.finish(id).await);
    assert_eq!(slow.updates_made.load(Ordering::SeqCst), 200, "no update is made twice");
    let published = next.published(id);
    assert_eq!(published.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    assert!(published == expected, "other bytes");
    next.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_survived_and_tried_again() {
    let once = script(20, Duration::ZERO);
    once.set_fault(Fault { at: 8, kind: FaultKind::Panic, times: 1 });
    let bench = Bench::start(&once);
    let id = bench.insert(1).await;
    let job = bench.finish(id).await;
    assert_eq!((unlearned(&job).updates, job.attempt), (20, 2));
    // Updates 5 to 7 were made after the last save.
    assert_eq!(once.updates_made.load(Ordering::SeqCst), 23);

    once.set_fault(Fault { at: 3, kind: FaultKind::Panic, times: 9 });
    let id = bench.insert_work(unlearn_work(2), 5).await;
    let job = bench.finish(id).await;
    assert_eq!((failure(&job), job.attempt), (FailureReason::EngineFault, 2));
    let mut health = bench.device.health();
    health.wait_for(|health| *health == DeviceHealth::Ready).await.unwrap();
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn want_of_memory_is_no_reason_to_try_again() {
    let script = script(20, Duration::ZERO);
    script.set_fault(Fault { at: 8, kind: FaultKind::OutOfMemory, times: 9 });
    let bench = Bench::start(&script);
    let id = bench.insert(1).await;
    let job = bench.finish(id).await;
    assert_eq!((failure(&job), job.attempt), (FailureReason::OutOfMemory, 1));
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_changed_since_is_refused() {
    let bench = Bench::start(&script(2, Duration::ZERO));
    let mut work = unlearn_work(1);
    work.base_digest = "another".to_owned();
    let id = bench.insert_work(work, 2).await;
    assert_eq!(failure(&bench.finish(id).await), FailureReason::ModelChanged);
    let mut work = unlearn_work(2);
    work.evaluation = Evaluation::Required;
    let id = bench.insert_work(work, 2).await;
    assert_eq!(failure(&bench.finish(id).await), FailureReason::NoJudge);
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_that_is_away_is_tried_again_without_training_again() {
    let script = script(10, Duration::ZERO);
    let bench = Bench::start(&script);
    bench.publisher.fail(1);
    let id = bench.insert(1).await;
    let job = bench.finish(id).await;
    assert_eq!((unlearned(&job).updates, job.attempt), (10, 2));
    assert_eq!(script.updates_made.load(Ordering::SeqCst), 10);
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lost_its_lease_publishes_nothing_more() {
    let bench = Bench::start_slow(&script(3, Duration::ZERO), Duration::from_millis(400));
    let id = bench.insert(1).await;
    let job = bench.wait_state(id, StateName::Publishing).await;
    // What the sweeper does to a lease that ran out.
    let event = keystep::jobs::NewEvent::Transition(keystep::jobs::Transition::LeaseExpired);
    bench.signals.stop_claiming.cancel();
    bench.store.record(id, job.fence, event).await.unwrap();
    bench.worker.stopped().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!bench.published(id).contains_key("manifest.json"));
    assert_eq!(bench.job(id).await.state.name(), StateName::Queued);
    bench.drain().await;
}

/// The real engine on the built-in model, a few updates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_engine_erases_between_two_pictures() {
    let place = Arc::new(tempfile::tempdir().unwrap());
    let store = Arc::new(MemoryStore::new(StoreSettings::default()));
    let bench = Bench::start_with(CandleSource::default(), Duration::ZERO, place, store);
    let mut work = unlearn_work(3);
    work.evaluation = Evaluation::Skipped;
    if let Method::Keystep(settings) = &mut work.spec.method {
        settings.updates = 3;
        settings.key_steps = KeySteps::Window(LogSnrWindow { low: -4.0, high: -1.0 });
    }
    let id = bench.insert_work(work, 1).await;
    bench.store.subscribe().changed().await.unwrap();
    let mut stream = bench.device.direct_calls().submit(generate(1)).unwrap();
    let mut drawn = 0;
    while let Some(update) = stream.next().await {
        if let DirectUpdate::Picture { picture, .. } = update.unwrap() {
            assert_eq!(picture.rgb.len(), picture.width * picture.height * 3);
            drawn += 1;
        }
    }
    assert_eq!(drawn, 1);
    let job = loop {
        let job = bench.job(id).await;
        if job.state.name().is_terminal() {
            break job;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    // So few updates may come to a no-op, which is told as one.
    match &job.state {
        JobState::Succeeded(_) => {
            assert!(bench.published(id).contains_key("files/delta.safetensors"));
        }
        JobState::Failed(failure) => assert_eq!(failure.reason, FailureReason::NoOp),
        other => panic!("{other:?}"),
    }
    bench.drain().await;
}
