//! A worker process that the suite starts, watches and kills: the worker, the file store and the
//! publisher as `keystep serve` has them, over an engine that is quick and exact.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use keystep::{
    device::{CandleSource, DeviceSettings, EngineSource},
    jobs::{SqliteStore, Store, StoreSettings, WorkerId},
    publishing::{ObjectPublisher, PublisherSettings},
    storage::{StorageSettings, Storages, testing::Flaky},
    worker::{
        Device, OutputHealth, Worker, WorkerParts, WorkerSettings, WorkerSignals,
        testing::{FakeScript, FakeSource, FixedModels},
    },
};
use object_store::local::LocalFileSystem;
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    signal::unix::{SignalKind, signal},
};
use tokio_util::task::TaskTracker;

/// Names the folder in which a child works.
const PLACE: &str = "KEYSTEP_FAULTS_PLACE";
/// Whether a child trains the real model.
const REAL: &str = "KEYSTEP_FAULTS_REAL";
/// Names the worker, which has a folder of its own for what it saves.
const WORKER: &str = "KEYSTEP_FAULTS_WORKER";
/// How long the worker's holds last, in milliseconds.
const LEASE: &str = "KEYSTEP_FAULTS_LEASE";
/// How long a call of the place where results go lasts, in milliseconds.
const CALL: &str = "KEYSTEP_FAULTS_CALL";
pub const MODEL: &str = "canvas";
pub const DIGEST: &str = "digest of canvas";
/// Updates of a made-up erasure.
const UPDATES: usize = 60;

/// The store's file in a child's folder.
pub fn store_file(place: &Path) -> PathBuf {
    place.join("jobs.sqlite")
}

pub async fn open_store(place: &Path) -> Store {
    SqliteStore::open(&store_file(place), StoreSettings::default()).await.unwrap().into()
}

/// Where a child publishes.
pub fn output(place: &Path) -> String {
    url::Url::from_file_path(place.join("published")).unwrap().to_string()
}

/// How a child works.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// Whether it trains the real model.
    pub real: bool,
    /// Its worker's name.
    pub worker: &'static str,
    /// How long its holds last.
    pub lease: Duration,
    /// How long a call of the place where results go lasts.
    pub call_lasts: Duration,
}

/// Starts a child that works on a folder.
pub fn spawn(place: &Path, way: Way) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    // Tests are called by their path within the binary.
    let (_, module) = module_path!().split_once("::").unwrap();
    let test = format!("{module}::works_until_it_is_told_otherwise");
    command.args(["--exact", &test, "--nocapture"]);
    command.env(PLACE, place).stdout(Stdio::null()).kill_on_drop(true);
    command.env(WORKER, way.worker);
    command.env(LEASE, way.lease.as_millis().to_string());
    command.env(CALL, way.call_lasts.as_millis().to_string());
    if way.real {
        command.env(REAL, "yes");
    }
    command.spawn().unwrap()
}

fn milliseconds(name: &str) -> Duration {
    Duration::from_millis(std::env::var(name).unwrap().parse().unwrap())
}

/// Not a test of its own: what a child runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn works_until_it_is_told_otherwise() {
    let Ok(place) = std::env::var(PLACE) else { return };
    let place = Path::new(&place);
    if std::env::var(REAL).is_ok() {
        work(place, CandleSource::default()).await;
    } else {
        let script = FakeScript {
            updates: UPDATES,
            delay: Duration::from_millis(1),
            load_delay: Duration::from_millis(30),
            can_judge: true,
            ..FakeScript::default()
        };
        work(place, FakeSource(Arc::new(script))).await;
    }
}

async fn work<E: EngineSource>(place: &Path, source: E) {
    let store = Arc::new(open_store(place).await);
    let worker = std::env::var(WORKER).unwrap();
    let data = place.join(&worker);
    let worker_settings = WorkerSettings {
        lease: milliseconds(LEASE),
        save_every: 10,
        extend_every: Duration::from_millis(200),
        first_backoff: Duration::from_millis(5),
        progress_every: Duration::from_millis(5),
        poll_every: Duration::from_millis(20),
        sweep_every: Duration::from_millis(50),
        ..WorkerSettings::new(WorkerId(worker), data)
    };
    let storages = Arc::new(Storages::new(StorageSettings::default()));
    let slow = Flaky::over(Arc::new(LocalFileSystem::new().with_fsync(true)));
    slow.delay(milliseconds(CALL));
    storages.mount("file:///", slow, None).unwrap();
    let settings = PublisherSettings::from(storages.settings());
    let models = Arc::new(FixedModels::with_base(MODEL, DIGEST));
    let device =
        Device::start(vec![source], DeviceSettings::default(), models.clone(), Handle::current())
            .unwrap();
    let (signals, tracker) = (WorkerSignals::default(), TaskTracker::new());
    let parts = WorkerParts {
        store: store.clone(),
        device: device.clone(),
        models,
        publisher: Arc::new(ObjectPublisher::new(storages, settings)),
        outputs: OutputHealth::default(),
        tracker: tracker.clone(),
        signals: signals.clone(),
    };
    let worker = Worker::start(worker_settings, parts);
    signal(SignalKind::terminate()).unwrap().recv().await;
    signals.stop_claiming.cancel();
    signals.pause_jobs.cancel();
    worker.stopped().await;
    tracker.close();
    tracker.wait().await;
    device.stop().await;
    store.close().await;
}
