//! The worker from claim to end, with a scripted engine: what is promised of cancels, drains, faults
//! and lost leases, in milliseconds.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]

mod bench;
mod losses;
mod results;
mod sealing;

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use keystep::{
    device::{
        CandleSource, DeviceHealth, DeviceSettings, EngineSource, InteractiveCall,
        InteractiveUpdate,
    },
    jobs::{
        Clock, Evaluation, EventBody, FailureReason, Inserted, JobId, JobOptions, JobState,
        JobStore, JobSummary, MemoryStore, NewJob, Outcome, Principal, QueueLimits, RequestId,
        Sequence, StateName, StoreSettings, UnlearnWork, Unlearned, Work, WorkerId,
    },
    outcome::Drawn,
    run::SharedState,
    spec::{
        Concept, ConceptKind, GenerateSpec, Method, MethodName, OutputFormat, SamplerKind,
        UnlearnSpec,
    },
    storage::{
        self, Patience, StorageSettings, Storages, TransferOptions, list_below, testing::Flaky,
    },
    worker::{
        Device, OutputHealth, PublishingSettings, ResultSealer, Worker, WorkerParts,
        WorkerSettings, WorkerSignals,
        testing::{FakeScript, FakeSource, Fault, FaultKind, FixedModels, FolderPublisher},
    },
};
use safetensors::SafeTensors;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub(crate) use bench::{Bench, device_settings};

const MODEL: &str = "canvas";
const DIGEST: &str = "digest of canvas";
pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);

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
    UnlearnWork {
        base_model: MODEL.to_owned(),
        base_digest: DIGEST.to_owned(),
        spec: UnlearnSpec {
            seed,
            ..UnlearnSpec::new(Concept::new("cat", ConceptKind::Object), MethodName::Keystep)
        },
        score_digest: None,
        formats: vec![OutputFormat::Delta, OutputFormat::Unet],
        destination: "file:///published".to_owned(),
        evaluation: Evaluation::WherePossible,
        evaluation_sampler: None,
    }
}

fn new_job(work: UnlearnWork) -> NewJob {
    NewJob {
        principal: tester(),
        request_id: RequestId(Uuid::new_v4()),
        request_digest: "request".to_owned(),
        work_digest: format!("work {}", work.spec.seed),
        work: Work::Unlearn(Box::new(work)),
        options: JobOptions::default(),
        max_attempts: 2,
    }
}

async fn insert(store: &MemoryStore, new: NewJob) -> JobId {
    let limits = QueueLimits { total: 10, of_principal: 10, stored_bytes: u64::MAX };
    match store.insert(new, limits).await.unwrap() {
        Inserted::Created(job) | Inserted::Existing(job) => job.id,
    }
}

pub(crate) fn generate(count: u64) -> InteractiveCall {
    InteractiveCall::Generate {
        model: MODEL.to_owned(),
        spec: GenerateSpec::new(
            (0..count).map(|seed| ("a cat".to_owned(), seed)).collect(),
            3,
            5.0,
        ),
        preview_every: NonZeroUsize::new(2),
    }
}

fn unlearned(job: &JobSummary) -> &Unlearned {
    match &job.state {
        JobState::Succeeded(Outcome::Unlearned(unlearned)) => unlearned,
        other => panic!("not erased: {other:?}"),
    }
}

fn failure(job: &JobSummary) -> FailureReason {
    match &job.state {
        JobState::Failed(failure) => failure.reason,
        other => panic!("not failed: {other:?}"),
    }
}

pub(crate) fn tester() -> Principal {
    Principal("tester".to_owned())
}

pub(crate) fn script(updates: usize, delay: Duration) -> Arc<FakeScript> {
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
    assert!(outcome.published.manifest_uri.ends_with("manifest.json"));
    let names: Vec<_> = outcome.published.files.iter().map(|file| file.name.as_str()).collect();
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
    let mut stream = bench.device.interactive_calls().submit(&tester(), generate(2)).unwrap();
    let (mut pictures, mut previews) = (Vec::new(), 0);
    while let Some(update) = stream.next().await {
        match update.unwrap() {
            InteractiveUpdate::Drawn(Drawn::Picture { index, picture }) => {
                pictures.push((index, picture));
            }
            InteractiveUpdate::Drawn(Drawn::Preview { .. }) => previews += 1,
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
    let calls = bench.device.interactive_calls();
    let long = InteractiveCall::Generate {
        model: MODEL.to_owned(),
        spec: GenerateSpec::new(vec![(String::new(), 0)], 1_000, 1.0),
        preview_every: None,
    };
    let mut served = calls.submit(&tester(), long).unwrap();
    while !matches!(served.next().await, Some(Ok(InteractiveUpdate::Progress(_)))) {}
    let mut first = calls.submit(&tester(), generate(1)).unwrap();
    let mut second = calls.submit(&tester(), generate(1)).unwrap();
    let full = calls.submit(&tester(), generate(1)).unwrap_err();
    assert_eq!((full.waiting, full.limit), (2, 2));
    assert_eq!(first.next().await.unwrap().unwrap(), InteractiveUpdate::Position(1));
    assert_eq!(second.next().await.unwrap().unwrap(), InteractiveUpdate::Position(2));
    drop(first);
    let third = calls.submit(&tester(), generate(1)).unwrap();
    assert_eq!(second.next().await.unwrap().unwrap(), InteractiveUpdate::Position(1));
    // A caller that leaves ends its work within a step.
    drop(served);
    assert_eq!(second.next().await.unwrap().unwrap(), InteractiveUpdate::Position(0));
    drop(third);
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_for_an_unknown_model_fails_at_once() {
    let bench = Bench::start(&script(1, Duration::ZERO));
    let mut call = generate(1);
    if let InteractiveCall::Generate { model, .. } = &mut call {
        "nothing".clone_into(model);
    }
    let mut stream = bench.device.interactive_calls().submit(&tester(), call).unwrap();
    let mut last = None;
    while let Some(update) = stream.next().await {
        last = Some(update);
    }
    assert_eq!(last.unwrap().unwrap_err().reason, FailureReason::ModelNotFound);
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_odd_about_the_base_model_stands_among_a_jobs_events() {
    let warnings = vec!["steps_offset is 0; 1 is used".to_owned(), "ema_decay".to_owned()];
    let odd = FakeScript { updates: 1, warnings: warnings.clone(), ..FakeScript::default() };
    let bench = Bench::start(&Arc::new(odd));
    let id = bench.insert(1).await;
    unlearned(&bench.finish(id).await);
    let events = bench.store.events_after(id, Sequence(0), 10_000).await.unwrap();
    let reported: Vec<_> = events
        .into_iter()
        .filter_map(|event| match event.body {
            EventBody::Warning { reason, message } => {
                assert_eq!(reason, "MODEL_ODD");
                Some(message)
            }
            _ => None,
        })
        .collect();
    assert_eq!(reported, warnings);
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

    // Too late: a published result is not reported as cancelled.
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
async fn a_worker_with_an_empty_disk_goes_on_from_shared_state() {
    let root = Storages::new(StorageSettings::default()).open("memory://worker-state/a").unwrap();
    let state = SharedState::new(root.clone(), (&StorageSettings::default()).into());
    let place = Arc::new(tempfile::tempdir().unwrap());
    let store = Arc::new(MemoryStore::new(StoreSettings::default()));
    let slow = script(200, MILLISECOND);
    let one = Bench::start_sharing("one", &slow, (place.clone(), store.clone()), &state);
    let id = one.insert(9).await;
    one.wait(id, |job| job.progress.is_some_and(|progress| progress.updates_done > 10)).await;
    one.drain().await;
    let made = slow.updates_made.load(Ordering::SeqCst);
    assert!(made < 200);
    fs::remove_dir_all(place.path().join("one")).unwrap();

    let two = Bench::start_sharing("two", &slow, (place, store), &state);
    unlearned(&two.finish(id).await);
    assert_eq!(slow.updates_made.load(Ordering::SeqCst), 200, "no update is made twice");
    let whole = Bench::start(&script(200, Duration::ZERO));
    let same = whole.insert(9).await;
    whole.finish(same).await;
    assert!(two.published(id) == whole.published(same), "other bytes");
    whole.drain().await;
    // The state goes with the job's end.
    for _ in 0..500 {
        if list_below(&root, Patience::default()).await.unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(MILLISECOND).await;
    }
    assert!(list_below(&root, Patience::default()).await.unwrap().is_empty());
    two.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_state_that_an_outage_left_behind_goes_later() {
    let flaky = Flaky::in_memory();
    let storages = Storages::new(StorageSettings::default());
    storages.mount("memory://worker-state-away", flaky.clone(), None).unwrap();
    let root = storages.open("memory://worker-state-away/a").unwrap();
    let patience = Patience { attempts: 1, first_wait: Duration::ZERO };
    let transfers =
        TransferOptions { patience, ..TransferOptions::from(&StorageSettings::default()) };
    let state = SharedState::new(root.clone(), transfers);
    let at = (
        Arc::new(tempfile::tempdir().unwrap()),
        Arc::new(MemoryStore::new(StoreSettings::default())),
    );
    let bench = Bench::start_sharing("one", &script(100, MILLISECOND), at, &state);
    let id = bench.insert(9).await;
    bench.wait(id, |job| job.progress.is_some_and(|progress| progress.updates_done > 20)).await;
    assert!(!list_below(&root, patience).await.unwrap().is_empty());
    flaky.fail_from(0, storage::testing::Fault::Away);
    unlearned(&bench.finish(id).await);
    let folder = bench.place.path().join("one/jobs").join(id.to_string());
    while folder.join("result").exists() {
        tokio::time::sleep(MILLISECOND).await;
    }
    flaky.heal();
    for _ in 0..10_000 {
        if !folder.exists() {
            break;
        }
        tokio::time::sleep(MILLISECOND).await;
    }
    assert!(!folder.exists());
    assert!(list_below(&root, patience).await.unwrap().is_empty());
    bench.drain().await;
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
async fn a_sampler_that_cannot_draw_costs_the_judgement_or_the_job_and_no_training() {
    let script = Arc::new(FakeScript {
        updates: 2,
        can_judge: true,
        own_sampler_fails: true,
        ..FakeScript::default()
    });
    let bench = Bench::start(&script);
    let work = |seed, evaluation, evaluation_sampler| UnlearnWork {
        evaluation,
        evaluation_sampler,
        ..unlearn_work(seed)
    };
    let id = bench.insert_work(work(1, Evaluation::Required, None), 2).await;
    assert_eq!(failure(&bench.finish(id).await), FailureReason::InvalidSpec);
    assert_eq!(script.updates_made.load(Ordering::SeqCst), 0);
    let id = bench.insert_work(work(2, Evaluation::WherePossible, None), 2).await;
    assert!(unlearned(&bench.finish(id).await).verdicts.is_empty());
    let asked = work(3, Evaluation::WherePossible, Some(SamplerKind::Unipc));
    let id = bench.insert_work(asked, 2).await;
    let job = bench.finish(id).await;
    assert_eq!(unlearned(&job).verdicts[0].verdict.sampler, SamplerKind::Unipc);
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
    assert_eq!((unlearned(&job).updates, job.attempt), (10, 1), "an outage is no attempt");
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
    // To the end of all its tasks.
    bench.drain().await;
    assert!(!bench.published(id).contains_key("manifest.json"));
    assert_eq!(bench.job(id).await.state.name(), StateName::Queued);
}

/// The real engine on the built-in model, a few updates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_engine_erases_between_two_pictures() {
    let place = Arc::new(tempfile::tempdir().unwrap());
    let store = Arc::new(MemoryStore::new(StoreSettings::default()));
    let bench = Bench::start_with(CandleSource::default(), Duration::ZERO, place, store);
    let mut work = unlearn_work(3);
    work.evaluation = Evaluation::Skipped;
    let (method, scope) = Method::preset(MethodName::Kscu, ConceptKind::Object, false);
    (work.spec.method, work.spec.scope) = (method, scope.clone());
    if let Method::Kscu(settings) = &mut work.spec.method {
        (settings.updates, settings.learning_rate) = (3, 2e-4);
    }
    let id = bench.insert_work(work, 1).await;
    bench.store.subscribe().changed().await.unwrap();
    let mut stream = bench.device.interactive_calls().submit(&tester(), generate(1)).unwrap();
    let mut drawn = 0;
    while let Some(update) = stream.next().await {
        if let InteractiveUpdate::Drawn(Drawn::Picture { picture, .. }) = update.unwrap() {
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
    assert_eq!(unlearned(&job).updates, 3);
    let published = bench.published(id);
    let delta = SafeTensors::deserialize(&published["files/delta.safetensors"]).unwrap();
    assert!(!delta.names().is_empty());
    assert!(delta.names().iter().all(|name| scope.contains(name)), "{:?}", delta.names());
    bench.drain().await;
}
