//! The folder that children work in, and what must be true of it whatever happened to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use keystep::{
    artifacts::digest::digest_bytes,
    jobs::{
        Evaluation, EventBody, Inserted, JobId, JobOptions, JobState, JobStore, JobSummary,
        ListQuery, NewJob, Outcome, Principal, QueueLimits, RequestId, Sequence, StateName, Store,
        UnlearnWork, Work,
    },
    outcome::Published,
    spec::{
        Concept, ConceptKind, KeySteps, KeystepSettings, LogSnrWindow, Method, OutputFormat, Scope,
        UnlearnSpec, Vocabulary,
    },
};
use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};
use tokio::process::Child;
use uuid::Uuid;

use super::child::{self, Way};

/// A folder with a store, seen from the process that starts and kills.
pub struct World {
    pub place: tempfile::TempDir,
    pub store: Store,
    way: Way,
}

impl World {
    pub async fn new(real: bool) -> Self {
        let place = tempfile::tempdir().unwrap();
        let store = child::open_store(place.path()).await;
        let call_lasts = if real { Duration::ZERO } else { Duration::from_millis(4) };
        let lease = Duration::from_mins(1);
        Self { place, store, way: Way { real, worker: "one", lease, call_lasts } }
    }

    /// With an engine that is none, and so slow a place for results that publishing is not missed.
    pub async fn slow() -> Self {
        let mut world = Self::new(false).await;
        world.way.call_lasts = Duration::from_millis(30);
        world
    }

    pub fn spawn(&self) -> Child {
        child::spawn(self.place.path(), self.way)
    }

    /// Another worker, which shares nothing with the first but the store; its holds are short.
    pub fn spawn_another(&self, worker: &'static str) -> Child {
        child::spawn(self.place.path(), Way { worker, lease: Duration::from_secs(1), ..self.way })
    }

    /// Whether nobody is in the midst of a write to the store.
    pub async fn can_be_written(&self) -> bool {
        let file = child::store_file(self.place.path());
        let options = SqliteConnectOptions::new().filename(file).busy_timeout(Duration::ZERO);
        let mut connection = options.connect().await.unwrap();
        match connection.begin_with("BEGIN IMMEDIATE").await {
            Ok(transaction) => transaction.rollback().await.is_ok(),
            Err(_) => false,
        }
    }

    pub async fn submit(&self, seed: u64) -> JobId {
        let new = NewJob {
            principal: Principal("tester".to_owned()),
            request_id: RequestId(Uuid::new_v4()),
            request_digest: format!("request {seed}"),
            work_digest: format!("work {seed}"),
            work: Work::Unlearn(Box::new(self.work(seed))),
            options: JobOptions::default(),
            max_attempts: 10_000,
        };
        let limits = QueueLimits { total: 1_000, of_principal: 1_000, stored_bytes: u64::MAX };
        match self.store.insert(new, limits).await.unwrap() {
            Inserted::Created(job) | Inserted::Existing(job) => job.id,
        }
    }

    fn work(&self, seed: u64) -> UnlearnWork {
        let settings = KeystepSettings {
            key_steps: KeySteps::Window(LogSnrWindow { low: -9.0, high: -1.0 }),
            updates: 24,
            schedule_steps: 4,
            concept_trajectories: 2,
            anchor_trajectories: 1,
            preserve_trajectories: 3,
            erase_batch: 2,
            preserve_batch: 1,
            // Never: every run shall be as long.
            stop_below: -100.0,
            ..KeystepSettings::default()
        };
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        UnlearnWork {
            base_model: child::MODEL.to_owned(),
            base_digest: child::DIGEST.to_owned(),
            spec: UnlearnSpec {
                concepts: vec![Concept::new("cat", ConceptKind::Object)],
                method: Method::Keystep(settings),
                scope: Scope::CrossAttention,
                preserve: Vec::new(),
                held_out: Vec::new(),
                vocabulary: Vocabulary {
                    anything: "emoji".to_owned(),
                    objects: words(&["cat", "dog"]),
                    styles: words(&["neon"]),
                },
                seed,
            },
            score_digest: None,
            formats: vec![OutputFormat::Unet, OutputFormat::Delta],
            destination: child::output(self.place.path()),
            evaluation: if self.way.real { Evaluation::Skipped } else { Evaluation::WherePossible },
            evaluation_sampler: None,
        }
    }

    pub async fn job(&self, id: JobId) -> JobSummary {
        self.store.get(id).await.unwrap().unwrap()
    }

    pub async fn jobs(&self) -> Vec<JobSummary> {
        let query = ListQuery { limit: 1_000, ..ListQuery::default() };
        self.store.list(&query).await.unwrap().jobs
    }

    /// The job that a worker holds.
    pub async fn held(&self) -> Option<JobSummary> {
        self.jobs().await.into_iter().find(|job| job.lease.is_some())
    }

    /// Waits until every job is done.
    pub async fn settle(&self) {
        // A slow machine takes long; a lost job takes for ever.
        for _ in 0..60_000 {
            if self.jobs().await.iter().all(|job| job.state.name().is_terminal()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("jobs that never end: {:#?}", self.jobs().await);
    }

    pub async fn states(&self, id: JobId) -> Vec<StateName> {
        let events = self.store.events_after(id, Sequence(0), 100_000).await.unwrap();
        let states = events.into_iter().filter_map(|event| match event.body {
            EventBody::StateChanged { state, .. } => Some(state),
            _ => None,
        });
        states.collect()
    }

    /// What must hold of them all together: no job is lost, none came to be twice, and nothing was
    /// published but what succeeded.
    pub async fn check_all(&self, ids: &[JobId]) {
        let jobs = self.jobs().await;
        let known: BTreeSet<_> = jobs.iter().map(|job| job.id).collect();
        assert_eq!(known, ids.iter().copied().collect());
        assert_eq!(jobs.len(), ids.len());
        let succeeded = jobs.iter().filter(|job| job.state.name() == StateName::Succeeded);
        let expected: BTreeSet<_> = succeeded.map(|job| job.id.to_string()).collect();
        let published = fs::read_dir(self.place.path().join("published/checkpoints"));
        let folders = published.into_iter().flatten().flatten();
        let standing = folders.filter(|folder| folder.path().join("manifest.json").exists());
        let found = standing.map(|folder| folder.file_name().into_string().unwrap()).collect();
        assert_eq!(expected, found);
    }

    /// What must hold of a job that is done: its log has no gap and one end; a manifest stands if and
    /// only if it succeeded; every file of it is there, as long and with the digest that it says;
    /// and nothing else lies beside them. Gives the files by name.
    pub async fn check(&self, id: JobId) -> BTreeMap<String, Vec<u8>> {
        let job = self.job(id).await;
        let events = self.store.events_after(id, Sequence(0), 100_000).await.unwrap();
        let sequences: Vec<_> = events.iter().map(|event| event.sequence.0).collect();
        assert_eq!(sequences, (1..=job.last_sequence.0).collect::<Vec<_>>(), "{id}");
        let states = self.states(id).await;
        let ends = states.iter().filter(|state| state.is_terminal()).count();
        assert_eq!(ends, 1, "{id}: {states:?}");
        let home = self.place.path().join("published/checkpoints").join(id.to_string());
        let JobState::Succeeded(Outcome::Unlearned(unlearned)) = &job.state else {
            assert!(!home.join("manifest.json").exists(), "{:?} with a manifest", job.state);
            return BTreeMap::new();
        };
        let published = &unlearned.published;
        check_manifest(&home, published);
        let listed: BTreeSet<_> = published.files.iter().map(|file| path_of(&file.uri)).collect();
        let manifest = path_of(&published.manifest_uri);
        let there: BTreeSet<_> = all_files(&home).into_iter().collect();
        let expected: BTreeSet<_> = listed.into_iter().chain([manifest]).collect();
        assert_eq!(there, expected, "{id}");
        published
            .files
            .iter()
            .map(|file| {
                let bytes = fs::read(path_of(&file.uri)).unwrap();
                assert_eq!(bytes.len() as u64, file.size, "{}", file.uri);
                assert_eq!(digest_bytes(&bytes), file.sha256, "{}", file.uri);
                (file.name.clone(), bytes)
            })
            .collect()
    }
}

fn check_manifest(home: &Path, published: &Published) {
    let path = path_of(&published.manifest_uri);
    assert_eq!(path, home.join("manifest.json"));
    let bytes = fs::read(path).unwrap();
    assert_eq!(digest_bytes(&bytes), published.manifest_sha256);
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let listed = manifest["files"].as_array().unwrap();
    assert_eq!(listed.len(), published.files.len());
    for (file, listed) in published.files.iter().zip(listed) {
        assert_eq!(listed["sha256"], file.sha256.as_str());
        assert_eq!(listed["size"], file.size);
    }
}

fn path_of(uri: &str) -> PathBuf {
    url::Url::parse(uri).unwrap().to_file_path().unwrap()
}

fn all_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries.flatten() {
        if entry.path().is_dir() {
            found.extend(all_files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
