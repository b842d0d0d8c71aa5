//! A worker with everything around it, for tests.

use super::*;

/// A worker with everything around it.
pub(crate) struct Bench {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) device: Device,
    pub(crate) worker: Worker,
    pub(crate) publisher: Arc<FolderPublisher>,
    pub(crate) signals: WorkerSignals,
    pub(crate) tracker: TaskTracker,
    pub(crate) place: Arc<tempfile::TempDir>,
}

fn settings(place: &Path) -> WorkerSettings {
    WorkerSettings {
        lease: Duration::from_secs(2),
        extend_every: Duration::from_millis(20),
        save_every: 5,
        first_backoff: 5 * MILLISECOND,
        publishing: PublishingSettings {
            first_wait: 5 * MILLISECOND,
            ..PublishingSettings::default()
        },
        progress_every: 2 * MILLISECOND,
        poll_every: 5 * MILLISECOND,
        sweep_every: 10 * MILLISECOND,
        ..WorkerSettings::new(WorkerId("one".to_owned()), place.join("data"))
    }
}

pub(crate) fn device_settings() -> DeviceSettings {
    DeviceSettings {
        interactive_calls: 2,
        first_backoff: 5 * MILLISECOND,
        ..DeviceSettings::default()
    }
}

impl Bench {
    pub(crate) fn start(script: &Arc<FakeScript>) -> Self {
        Self::start_slow(script, Duration::ZERO)
    }

    /// With a publisher that takes so long a file.
    pub(crate) fn start_slow(script: &Arc<FakeScript>, delay: Duration) -> Self {
        let place = Arc::new(tempfile::tempdir().unwrap());
        let store = Arc::new(MemoryStore::new(StoreSettings::default()));
        let clock = script.clock.clone().map_or(Clock::System, Clock::Manual);
        Self::start_on(FakeSource(script.clone()), delay, (place, store), clock)
    }

    pub(crate) fn start_with<E: EngineSource>(
        source: E,
        delay: Duration,
        place: Arc<tempfile::TempDir>,
        store: Arc<MemoryStore>,
    ) -> Self {
        Self::start_on(source, delay, (place, store), Clock::System)
    }

    pub(crate) fn start_on<E: EngineSource>(
        source: E,
        delay: Duration,
        at: (Arc<tempfile::TempDir>, Arc<MemoryStore>),
        clock: Clock,
    ) -> Self {
        let device_settings = DeviceSettings { clock, ..device_settings() };
        let settings = settings(at.0.path());
        Self::start_device(vec![source], (settings, device_settings), delay, at)
    }

    /// With so many slots, which share what the scripted engine loads.
    pub(crate) fn start_slots(script: &Arc<FakeScript>, slots: usize) -> Self {
        let settings = DeviceSettings { slots, ..device_settings() };
        Self::start_settings(script, settings)
    }

    pub(crate) fn start_settings(script: &Arc<FakeScript>, device: DeviceSettings) -> Self {
        Self::start_devices(&[script], device)
    }

    /// With a device for each script.
    pub(crate) fn start_devices(scripts: &[&Arc<FakeScript>], device: DeviceSettings) -> Self {
        let place = Arc::new(tempfile::tempdir().unwrap());
        let store = Arc::new(MemoryStore::new(StoreSettings::default()));
        let sources = scripts.iter().map(|script| FakeSource(Arc::clone(script))).collect();
        let settings = settings(place.path());
        Self::start_device(sources, (settings, device), Duration::ZERO, (place, store))
    }

    /// As one of several workers that share their state, each with a disk of its own.
    pub(crate) fn start_sharing(
        name: &str,
        script: &Arc<FakeScript>,
        at: (Arc<tempfile::TempDir>, Arc<MemoryStore>),
        state: &SharedState,
    ) -> Self {
        let publishing = settings(at.0.path()).publishing;
        Self::start_sharing_for(name, script, at, (state, publishing))
    }

    /// The same, where publishing is retried so long.
    pub(crate) fn start_sharing_for(
        name: &str,
        script: &Arc<FakeScript>,
        at: (Arc<tempfile::TempDir>, Arc<MemoryStore>),
        (state, publishing): (&SharedState, PublishingSettings),
    ) -> Self {
        let settings = WorkerSettings {
            worker_id: WorkerId(name.to_owned()),
            data_dir: at.0.path().join(name),
            shared_state: Some(state.clone()),
            publishing,
            ..settings(at.0.path())
        };
        let sources = vec![FakeSource(script.clone())];
        Self::start_device(sources, (settings, device_settings()), Duration::ZERO, at)
    }

    /// With results that are sealed, and a publisher that takes so long a file.
    pub(crate) fn start_sealing(
        script: &Arc<FakeScript>,
        delay: Duration,
        at: (Arc<tempfile::TempDir>, Arc<MemoryStore>),
        sealer: Arc<dyn ResultSealer>,
    ) -> Self {
        let settings = WorkerSettings { sealer: Some(sealer), ..settings(at.0.path()) };
        let sources = vec![FakeSource(script.clone())];
        Self::start_device(sources, (settings, device_settings()), delay, at)
    }

    fn start_device<E: EngineSource>(
        sources: Vec<E>,
        (settings, device_settings): (WorkerSettings, DeviceSettings),
        delay: Duration,
        (place, store): (Arc<tempfile::TempDir>, Arc<MemoryStore>),
    ) -> Self {
        let models = Arc::new(FixedModels::with_base(MODEL, DIGEST));
        let device =
            Device::start(sources, device_settings, models.clone(), Handle::current()).unwrap();
        let publisher = Arc::new(FolderPublisher::new(place.path().join("published")).slow(delay));
        let (signals, tracker) = (WorkerSignals::default(), TaskTracker::new());
        let parts = WorkerParts {
            store: store.clone(),
            device: device.clone(),
            models,
            publisher: publisher.clone(),
            outputs: OutputHealth::default(),
            tracker: tracker.clone(),
            signals: signals.clone(),
        };
        let worker = Worker::start(settings, parts);
        Self { store, device, worker, publisher, signals, tracker, place }
    }

    pub(crate) async fn insert(&self, seed: u64) -> JobId {
        self.insert_work(unlearn_work(seed), 2).await
    }

    pub(crate) async fn insert_work(&self, work: UnlearnWork, max_attempts: u32) -> JobId {
        insert(&self.store, NewJob { max_attempts, ..new_job(work) }).await
    }

    pub(crate) async fn job(&self, id: JobId) -> JobSummary {
        self.store.get(id).await.unwrap().unwrap()
    }

    /// Waits for a job to be as wanted.
    pub(crate) async fn wait(&self, id: JobId, wanted: impl Fn(&JobSummary) -> bool) -> JobSummary {
        for _ in 0..4_000 {
            let job = self.job(id).await;
            if wanted(&job) {
                return job;
            }
            tokio::time::sleep(MILLISECOND).await;
        }
        panic!("it did not come to that: {:?}", self.job(id).await);
    }

    pub(crate) async fn wait_state(&self, id: JobId, state: StateName) -> JobSummary {
        self.wait(id, |job| job.state.name() == state).await
    }

    pub(crate) async fn finish(&self, id: JobId) -> JobSummary {
        self.wait(id, |job| job.state.name().is_terminal()).await
    }

    pub(crate) async fn states(&self, id: JobId) -> Vec<StateName> {
        let events = self.store.events_after(id, Sequence(0), 10_000).await.unwrap();
        let states = events.into_iter().filter_map(|event| match event.body {
            EventBody::StateChanged { state, .. } => Some(state),
            _ => None,
        });
        states.collect()
    }

    pub(crate) async fn drain(&self) {
        self.signals.stop_claiming.cancel();
        self.signals.pause_jobs.cancel();
        self.worker.stopped().await;
        self.tracker.close();
        self.tracker.wait().await;
        self.device.stop().await;
    }

    pub(crate) fn folder(&self, id: JobId) -> PathBuf {
        self.place.path().join("data/jobs").join(id.to_string())
    }

    pub(crate) fn published(&self, id: JobId) -> BTreeMap<String, Vec<u8>> {
        read_all(&self.place.path().join("published").join(id.to_string()))
    }
}
