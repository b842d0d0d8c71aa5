//! Starts a daemon from its settings.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use futures::future::BoxFuture;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::spawn_blocking,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Url;

use super::{
    Daemon, StartError,
    data_folder::DataFolder,
    measured_store::MeasuredStore,
    readiness::Readiness,
    running::RunningParts,
    sampling::sample,
    wiring::{self, Front, FrontParts},
};
use crate::{
    api::{ApiParts, ApiSettings},
    catalogue::{BaseModel, CacheSettings, Catalogue},
    config::{LimitSettings, Settings, ShutdownSettings},
    device::{CallLimits, DeviceSettings, EngineSource, ServingMark},
    jobs::{Clock, Identifiers, SqliteStore, Store, StoreSettings, WorkerId},
    run::SharedState,
    shutdown::{Limits, Steps},
    storage::{StorageSettings, Storages, TransferOptions},
    worker::{
        Device, OutputHealth, PublishingSettings, Worker, WorkerParts, WorkerSettings,
        WorkerSignals,
    },
};

/// The parts of a daemon that its settings do not determine.
#[derive(Debug)]
pub struct DaemonParts<S> {
    /// Makes engines: one for each memory that models are loaded into.
    pub sources: Vec<S>,
    /// The clock.
    pub clock: Clock,
    /// Makes identifiers.
    pub identifiers: Identifiers,
}

impl<S> DaemonParts<S> {
    /// Parts with the system's clock and random identifiers.
    pub fn new(source: S) -> Self {
        Self { sources: vec![source], clock: Clock::default(), identifiers: Identifiers::default() }
    }
}

/// The data folder with its folders, and the outputs.
struct Folders {
    data: DataFolder,
    cache: PathBuf,
    /// URL prefixes of results, never empty.
    outputs: Vec<String>,
}

fn call_limits(limits: &LimitSettings) -> CallLimits {
    CallLimits {
        pixel_steps: limits.pixel_steps_per_call,
        score_evaluations: limits.score_evaluations_per_call,
    }
}

fn device_settings(settings: &Settings, clock: Clock, mark: ServingMark) -> DeviceSettings {
    DeviceSettings {
        slots: settings.device.slots,
        loaded_models: settings.device.loaded_models,
        interactive_calls: settings.limits.interactive_queue,
        interactive_calls_of_principal: settings.limits.interactive_queue_of_principal,
        call_limits: call_limits(&settings.limits),
        serving_mark: Some(mark),
        clock,
        ..DeviceSettings::default()
    }
}

impl Daemon {
    /// Starts every part. When this returns the port is open, and health not yet "serving". The
    /// settings must have been checked by [`crate::config`].
    pub async fn start<S: EngineSource>(
        settings: &Settings,
        parts: DaemonParts<S>,
    ) -> Result<Self, StartError> {
        let DaemonParts { sources, clock, identifiers } = parts;
        // Before anything else: a key that does not sign would spoil every result.
        let sealer = wiring::sealer(settings)?;
        let folders = folders(settings, identifiers.clone()).await?;
        let identity = folders.data.identity().to_owned();

        let clocked = StoreSettings {
            clock: clock.clone(),
            identifiers: identifiers.clone(),
            ..StoreSettings::default()
        };
        let store = open_store(&folders.data, settings, clocked).await?;
        let storages = open_storages(settings, &folders.outputs)?;
        let shared_state = shared_state(settings, &storages, clock.clone())?;
        let catalogue = catalogue(settings, folders.cache, storages.clone(), store.clone());

        let steps = Steps::default();
        let tracker = TaskTracker::new();
        let closing = CancellationToken::new();
        let mark = ServingMark::new(folders.data.path());
        let lost_while_serving = mark.take_left_behind();
        let device = Device::start(
            sources,
            device_settings(settings, clock.clone(), mark),
            catalogue.clone(),
            Handle::current(),
        )
        .map_err(StartError::Device)?;

        let publisher = wiring::publisher(storages.clone(), folders.outputs.clone());
        let outputs = OutputHealth::unproven();
        let (ready_sender, ready) = watch::channel(false);
        let front = FrontParts {
            api: Arc::new(ApiParts {
                store: store.clone(),
                catalogue: catalogue.clone(),
                interactive_calls: device.interactive_calls(),
                publisher: publisher.clone(),
                clock: clock.clone(),
                identifiers,
                settings: api_settings(settings, folders.outputs.clone()),
                draining: steps.refuse.clone(),
            }),
            ready: ready.clone(),
            clock: clock.clone(),
        };
        // The port comes before the worker: where it is taken, no job is touched.
        let Front { address, serving, reloader } = wiring::open(settings, front, &steps).await?;

        let id = WorkerId(identity.clone());
        let working = WorkerSettings {
            shared_state,
            sealer,
            lost_while_serving,
            ..worker_settings(settings, id, &folders.data, clock.clone())
        };
        let worker = Worker::start(
            working,
            WorkerParts {
                store: Arc::new(MeasuredStore::new(store.clone(), clock)),
                device: device.clone(),
                models: catalogue.clone(),
                publisher,
                outputs: outputs.clone(),
                tracker: tracker.clone(),
                signals: signals(&steps),
            },
        );

        let (served, server_failure) = follow_server(serving, &steps, &tracker);
        let probe_now = Arc::new(Notify::new());
        let readiness = Readiness {
            store: store.clone(),
            storages,
            outputs: folders.outputs,
            health: outputs,
            identity,
            device: device.health(),
            draining: steps.draining.clone(),
            probe_now: probe_now.clone(),
        };
        tracker.spawn(readiness.watch(ready_sender));
        tracker.spawn(sample(store.clone(), device.interactive_calls(), closing.clone()));
        let stops = steps.draining.clone();
        tracker.spawn(async move {
            stops.run_until_cancelled(wiring::prewarm(catalogue)).await;
        });

        Ok(Self {
            address,
            ready,
            limits: Limits::from(&settings.shutdown),
            steps,
            reloader,
            probe_now,
            parts: RunningParts {
                store,
                device,
                worker,
                tracker,
                served,
                server_failure,
                closing,
                _data_folder: folders.data,
            },
        })
    }
}

/// Models by name, with a folder to keep them in.
fn catalogue(
    settings: &Settings,
    folder: PathBuf,
    storages: Arc<Storages>,
    store: Arc<Store>,
) -> Arc<Catalogue> {
    let cache = CacheSettings { folder, max_bytes: settings.cache.max_bytes };
    Arc::new(Catalogue::new(base_models(settings), cache, storages, store))
}

/// Storage, after every output was opened.
fn open_storages(settings: &Settings, outputs: &[String]) -> Result<Arc<Storages>, StartError> {
    let storages = Arc::new(Storages::new(storage_settings(settings)));
    for output in outputs {
        storages.open(output)?;
    }
    Ok(storages)
}

/// The storage in which workers share the state of jobs under way, where that is set.
fn shared_state(
    settings: &Settings,
    storages: &Storages,
    clock: Clock,
) -> Result<Option<SharedState>, StartError> {
    let Some(url) = &settings.jobs.state_url else { return Ok(None) };
    let transfers = TransferOptions::from(&storage_settings(settings));
    Ok(Some(SharedState::new(storages.open(url)?, transfers).with_clock(clock)))
}

/// The phases of a shutdown that the worker follows.
fn signals(steps: &Steps) -> WorkerSignals {
    WorkerSignals {
        stop_claiming: steps.draining.clone(),
        pause_jobs: steps.pause_jobs.clone(),
        stop_publishing: steps.stop_publishing.clone(),
    }
}

/// Opens the jobs of a data folder, and refuses a store that lost some, unless it is to begin anew.
async fn open_store(
    data: &DataFolder,
    settings: &Settings,
    store: StoreSettings,
) -> Result<Arc<Store>, StartError> {
    let store = StoreSettings {
        retention: settings.jobs.retention,
        keep_unpublished: settings.publishing.keep_unpublished,
        ..store
    };
    let opened = SqliteStore::open(&data.database(), store).await;
    let store = opened.map_err(|error| data.store_error(error))?;
    if !settings.jobs.begin_anew {
        data.check_store(&store).await?;
    }
    data.keep_identity()?;
    data.narrow_database()?;
    Ok(Arc::new(Store::from(store)))
}

/// Serves, and records when and why that ended.
fn follow_server(
    serving: BoxFuture<'static, Result<(), String>>,
    steps: &Steps,
    tracker: &TaskTracker,
) -> (CancellationToken, Arc<Mutex<Option<String>>>) {
    let served = CancellationToken::new();
    let server_failure = Arc::new(Mutex::new(None));
    let (ended, failure) = (served.clone(), server_failure.clone());
    let asked_to_end = steps.refuse.clone();
    tracker.spawn(async move {
        // Also where serving panics.
        let _ended = ended.drop_guard();
        let failed = match serving.await {
            Err(message) => Some(message),
            Ok(()) if asked_to_end.is_cancelled() => None,
            Ok(()) => Some("the server ended by itself".to_owned()),
        };
        *failure.lock().unwrap_or_else(PoisonError::into_inner) = failed;
    });
    (served, server_failure)
}

async fn folders(settings: &Settings, identifiers: Identifiers) -> Result<Folders, StartError> {
    let path = settings.server.data_dir.clone();
    let outputs = settings.storage.outputs.clone();
    let made = spawn_blocking(move || {
        let data = DataFolder::take(&path, &identifiers)?;
        // The worker's; made here so that it is private.
        data.below("jobs")?;
        let cache = data.below("models")?;
        let outputs = if outputs.is_empty() {
            let published = data.below("published")?;
            let url = Url::from_file_path(&published)
                .map_err(|()| StartError::NoUrl { path: published.clone() })?;
            vec![url.to_string()]
        } else {
            outputs
        };
        Ok(Folders { data, cache, outputs })
    });
    made.await.unwrap_or_else(|error| {
        let path = settings.server.data_dir.clone();
        Err(StartError::DataFolder { path, source: std::io::Error::other(error) })
    })
}

impl From<&ShutdownSettings> for Limits {
    fn from(settings: &ShutdownSettings) -> Self {
        let ShutdownSettings { drain_delay, unary, grace, publish_grace } = *settings;
        Self { drain_delay, unary, grace, publish_grace }
    }
}

fn storage_settings(settings: &Settings) -> StorageSettings {
    let storage = &settings.storage;
    StorageSettings {
        endpoint: storage.endpoint.clone(),
        region: storage.region.clone(),
        allow_http: storage.allow_http,
        access_key_id: storage.access_key_id.clone(),
        secret_access_key: storage.secret_access_key.as_ref().map(|key| key.expose().to_owned()),
        part_bytes: storage.part_bytes,
        parts_in_flight: storage.parts_in_flight,
    }
}

fn base_models(settings: &Settings) -> Vec<BaseModel> {
    let models = settings.models.iter().cloned();
    models
        .map(|model| BaseModel { name: model.name, url: model.url, sha256: model.sha256 })
        .collect()
}

fn api_settings(settings: &Settings, outputs: Vec<String>) -> ApiSettings {
    let limits = &settings.limits;
    ApiSettings {
        outputs,
        max_attempts: settings.jobs.max_attempts,
        queued_total: limits.queued_total,
        queued_of_principal: limits.queued_of_principal,
        stored_bytes_of_principal: limits.stored_bytes_of_principal,
        prompt_characters: limits.prompt_characters,
        images_per_call: limits.images_per_call,
        pixels_per_image: limits.pixels_per_image,
        calls: call_limits(limits),
        judges: settings.judges.keys().cloned().collect(),
        log_prompts: settings.log.log_prompts,
    }
}

fn worker_settings(
    settings: &Settings,
    worker_id: WorkerId,
    folder: &DataFolder,
    clock: Clock,
) -> WorkerSettings {
    let (jobs, publishing) = (&settings.jobs, &settings.publishing);
    let PublishingSettings { first_wait, .. } = PublishingSettings::default();
    WorkerSettings {
        lease: jobs.lease,
        extend_every: jobs.extend_every,
        save_every: jobs.save_every_updates,
        sweep_every: jobs.sweep_every,
        judges: settings.judges.clone(),
        publishing: PublishingSettings {
            retry_for: publishing.retry_for,
            first_wait: first_wait.min(publishing.longest_wait),
            longest_wait: publishing.longest_wait,
        },
        clock,
        ..WorkerSettings::new(worker_id, folder.path())
    }
}
