//! Finished results whose worker is lost while it publishes: another one, with an empty disk,
//! publishes the same bytes.

use keystep::{
    artifacts::digest::digest_bytes,
    jobs::WorkerLoss,
    outcome::{FileDigest, FinishedResult},
    storage::{StorageLocation, deliver_bytes},
};

use super::*;

const PATIENCE: Patience = Patience { attempts: 1, first_wait: Duration::ZERO };
const UPDATES: usize = 20;

/// Workers that share what they have, each with a disk of its own.
struct Workers {
    bucket: Arc<Flaky>,
    root: StorageLocation,
    state: SharedState,
    place: Arc<tempfile::TempDir>,
    store: Arc<MemoryStore>,
}

impl Workers {
    fn new(name: &str) -> Self {
        let (bucket, url) = (Flaky::in_memory(), format!("memory://{name}"));
        let storages = Storages::new(StorageSettings::default());
        storages.mount(&url, bucket.clone(), Some(bucket.clone())).unwrap();
        let root = storages.open(&format!("{url}/a")).unwrap();
        let transfers = TransferOptions {
            patience: PATIENCE,
            ..TransferOptions::from(&StorageSettings::default())
        };
        Self {
            bucket,
            state: SharedState::new(root.clone(), transfers),
            root,
            place: Arc::new(tempfile::tempdir().unwrap()),
            store: Arc::new(MemoryStore::new(StoreSettings::default())),
        }
    }

    fn start(&self, name: &str, script: &Arc<FakeScript>) -> Bench {
        let at = (self.place.clone(), self.store.clone());
        Bench::start_sharing(name, script, at, &self.state)
    }

    /// One that tries once to publish.
    fn start_impatient(&self, name: &str, script: &Arc<FakeScript>) -> Bench {
        let at = (self.place.clone(), self.store.clone());
        let once =
            PublishingSettings { retry_for: Duration::ZERO, ..PublishingSettings::default() };
        Bench::start_sharing_for(name, script, at, (&self.state, once))
    }

    /// Objects below the place where state is shared.
    async fn shared(&self) -> Vec<String> {
        list_below(&self.root, PATIENCE).await.unwrap()
    }

    async fn until_shared(&self, wanted: impl Fn(&[String]) -> bool) {
        // An outage is waited out for twenty times as long as it took to be found, which a busy machine
        // draws out.
        for _ in 0..60_000 {
            if wanted(&self.shared().await) {
                return;
            }
            tokio::time::sleep(MILLISECOND).await;
        }
        panic!("it did not come to that: {:?}", self.shared().await);
    }

    async fn until_result_is_shared(&self, id: JobId) {
        let marker = format!("{id}/result/1/complete.json");
        self.until_shared(|names| names.contains(&marker)).await;
    }

    /// A worker finishes a job whose output is away, and is lost with its disk: gives what it
    /// finished.
    async fn finish_and_lose(&self, script: &Arc<FakeScript>) -> (JobId, FinishedResult) {
        let one = self.start("one", script);
        one.publisher.fail(usize::MAX);
        let id = one.insert(9).await;
        self.until_result_is_shared(id).await;
        let finished = self.finished("one", id);
        one.signals.stop_claiming.cancel();
        let worker = WorkerId("one".to_owned());
        self.store.expire_worker(&worker, &[], WorkerLoss::Unexplained).await.unwrap();
        one.drain().await;
        assert!(one.published(id).is_empty(), "not a file had gone out");
        assert_eq!(script.updates_made.load(Ordering::SeqCst), UPDATES);
        self.lose_disk("one");
        (id, finished)
    }

    fn lose_disk(&self, name: &str) {
        fs::remove_dir_all(self.place.path().join(name)).unwrap();
    }

    fn finished(&self, name: &str, id: JobId) -> FinishedResult {
        let folder = self.place.path().join(name).join("jobs").join(id.to_string());
        let marker = fs::read(folder.join("result/complete.json")).unwrap();
        serde_json::from_slice(&marker).unwrap()
    }
}

fn judging() -> Arc<FakeScript> {
    Arc::new(FakeScript { updates: UPDATES, can_judge: true, ..FakeScript::default() })
}

/// That an engine was asked for nothing, not even to load a model.
fn assert_idle(script: &FakeScript) {
    for count in [&script.updates_made, &script.loads, &script.base_grids] {
        assert_eq!(count.load(Ordering::SeqCst), 0);
    }
    assert!(script.units.lock().unwrap().is_empty());
}

/// That each published file has the digest that the worker which finished it noted.
fn assert_published(bench: &Bench, id: JobId, finished: &FinishedResult) {
    let published = bench.published(id);
    let files = published.iter().filter_map(|(name, bytes)| {
        let (name, sha256) = (name.strip_prefix("files/")?.to_owned(), digest_bytes(bytes));
        Some(FileDigest { name, size: bytes.len() as u64, sha256 })
    });
    assert_eq!(files.collect::<Vec<_>>(), finished.files);
    let manifest: FinishedResult = serde_json::from_slice(&published["manifest.json"]).unwrap();
    assert_eq!(&manifest, finished);
}

async fn warnings(bench: &Bench, id: JobId) -> Vec<(String, String)> {
    let events = bench.store.events_after(id, Sequence(0), 10_000).await.unwrap();
    let warnings = events.into_iter().filter_map(|event| match event.body {
        EventBody::Warning { reason, message } => Some((reason, message)),
        _ => None,
    });
    warnings.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_an_empty_disk_publishes_what_another_finished() {
    let workers = Workers::new("worker-results-lost");
    let (id, finished) = workers.finish_and_lose(&judging()).await;
    let idle = judging();
    let two = workers.start("two", &idle);
    let job = two.finish(id).await;
    assert_eq!(unlearned(&job).verdicts, finished.verdicts);
    assert_eq!(unlearned(&job).verdicts.len(), 1);
    assert_eq!(job.fence.0, 2);
    assert_published(&two, id, &finished);
    assert_idle(&idle);
    workers.until_shared(<[String]>::is_empty).await;
    two.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_altered_is_computed_anew_from_the_finished_training() {
    let workers = Workers::new("worker-results-altered");
    let (id, finished) = workers.finish_and_lose(&judging()).await;
    let report = format!("{id}/result/1/report.json");
    let place = workers.root.child(&report).unwrap();
    deliver_bytes(&place, b"{}".to_vec().into(), PATIENCE).await.unwrap();
    let again = judging();
    let two = workers.start("two", &again);
    unlearned(&two.finish(id).await);
    assert_eq!(again.updates_made.load(Ordering::SeqCst), 0, "the training was finished");
    assert!(again.loads.load(Ordering::SeqCst) > 0);
    assert_published(&two, id, &finished);
    let warnings = warnings(&two, id).await;
    let refused = warnings.iter().find(|(reason, _)| reason == "STATE_IGNORED");
    let (_, message) = refused.unwrap_or_else(|| panic!("{warnings:?}"));
    assert!(message.contains("result") && message.contains("report.json"), "{message}");
    workers.until_shared(<[String]>::is_empty).await;
    two.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_result_is_published_by_another_worker() {
    let workers = Workers::new("worker-results-kept");
    let one = workers.start_impatient("one", &judging());
    one.publisher.fail(usize::MAX);
    let id = one.insert(9).await;
    assert_eq!(failure(&one.finish(id).await), FailureReason::StorageUnavailable);
    let finished = workers.finished("one", id);
    let result = format!("{id}/result/");
    // The state goes, the result stays.
    workers
        .until_shared(|names| {
            !names.is_empty() && names.iter().all(|name| name.starts_with(&result))
        })
        .await;
    one.drain().await;
    workers.lose_disk("one");

    // While the copy is out of reach it is not taken for lost.
    let idle = judging();
    workers.bucket.fail_from(0, storage::testing::Fault::Away);
    workers.store.publish_again(id).await.unwrap();
    let two = workers.start("two", &idle);
    let failed = two.finish(id).await;
    assert_eq!(failure(&failed), FailureReason::StorageUnavailable);
    assert!(failed.result_kept_until().is_some());
    workers.bucket.heal();
    workers.store.publish_again(id).await.unwrap();
    let done = two.wait_state(id, StateName::Succeeded).await;
    assert_eq!(done.attempt, 1);
    assert_published(&two, id, &finished);
    assert_idle(&idle);
    workers.until_shared(<[String]>::is_empty).await;
    two.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_shared_state_holds_up_no_result() {
    let workers = Workers::new("worker-results-away");
    let one = workers.start("one", &judging());
    workers.bucket.fail_from(0, storage::testing::Fault::Away);
    let id = one.insert(9).await;
    unlearned(&one.finish(id).await);
    workers.bucket.heal();
    assert!(workers.shared().await.is_empty());
    // Back while a result waits for its output, it takes the result after all.
    workers.bucket.fail_from(0, storage::testing::Fault::Away);
    one.publisher.fail(usize::MAX);
    let id = one.insert(10).await;
    one.wait(id, |job| job.state.name() == StateName::Publishing).await;
    workers.bucket.heal();
    workers.until_result_is_shared(id).await;
    one.publisher.fail(0);
    unlearned(&one.finish(id).await);
    workers.until_shared(<[String]>::is_empty).await;
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_job_leaves_no_shared_result() {
    let workers = Workers::new("worker-results-cancelled");
    let one = workers.start("one", &judging());
    one.publisher.fail(usize::MAX);
    let id = one.insert(9).await;
    workers.until_result_is_shared(id).await;
    workers.store.request_cancel(id).await.unwrap();
    assert_eq!(one.finish(id).await.state.name(), StateName::Cancelled);
    workers.until_shared(<[String]>::is_empty).await;
    one.drain().await;
}
