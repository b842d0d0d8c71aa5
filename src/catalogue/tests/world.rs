//! What the tests have in common: a bucket with small models, and jobs that are done.

use std::{fs, io::Read, path::PathBuf, sync::Arc, time::Duration};

use tempfile::TempDir;
use uuid::Uuid;

use super::bucket::Bucket;
use crate::{
    artifacts::digest::digest_bytes,
    catalogue::{BaseModel, CacheSettings, Catalogue},
    device::OpenedModel,
    jobs::{
        Clock, Evaluation, Identifiers, Inserted, JobId, JobOptions, JobStore, JobSummary,
        MemoryStore, NewEvent, NewJob, Outcome, Principal, QueueLimits, RequestId, Store,
        StoreSettings, Transition, UnlearnWork, Unlearned, Work, WorkerId,
    },
    outcome::{ConceptVerdict, EvaluationResults, Figures, Published, PublishedFile, Verdict},
    spec::{Concept, ConceptKind, MethodName, ModelFiles, OutputFormat, SamplerKind, UnlearnSpec},
    storage::{StorageSettings, Storages},
};

/// Bytes of one of the small models, as far as they belong to it.
pub(super) const MODEL_BYTES: u64 =
    CARD.len() as u64 + 2 + VOCABULARY.len() as u64 + 2 + WEIGHTS as u64;
const CARD: &str = "# A model";
pub(super) const VOCABULARY: &str = r#"{"anything":"emoji","objects":["cat"],"styles":["neon"]}"#;
pub(super) const WEIGHTS: usize = 1_000;
pub(super) const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
/// Files of one of them.
pub(super) const NAMES: [&str; 5] =
    ["README.md", "model_index.json", "unet/config.json", UNET, "vocabulary.json"];

pub(super) struct World {
    pub(super) folder: TempDir,
    pub(super) bucket: Arc<Bucket>,
    pub(super) store: Arc<Store>,
}

pub(super) fn ada() -> Principal {
    Principal("ada".to_owned())
}

pub(super) fn bob() -> Principal {
    Principal("bob".to_owned())
}

/// A base model in the bucket.
pub(super) fn base(name: &str) -> BaseModel {
    BaseModel { name: name.to_owned(), url: format!("s3://models/{name}"), sha256: None }
}

pub(super) fn published(name: &str, bytes: &[u8]) -> PublishedFile {
    PublishedFile {
        name: format!("files/{name}"),
        uri: format!("s3://models/out/files/{name}"),
        size: bytes.len() as u64,
        sha256: digest_bytes(bytes),
    }
}

/// An erasure to be done and published.
pub(super) struct Erasure<'a> {
    pub(super) principal: Principal,
    pub(super) base: &'a str,
    pub(super) base_digest: &'a str,
    pub(super) files: Vec<PublishedFile>,
}

impl World {
    pub(super) fn new() -> Self {
        let settings = StoreSettings {
            clock: Clock::Manual(Arc::default()),
            identifiers: Identifiers::Counted(Arc::default()),
            ..StoreSettings::default()
        };
        Self {
            folder: tempfile::tempdir().unwrap(),
            bucket: Bucket::new(),
            store: Arc::new(MemoryStore::new(settings).into()),
        }
    }

    /// As after a restart: what is on the disk, in the bucket and in the store is still there.
    pub(super) fn catalogue(&self, bases: Vec<BaseModel>, max_bytes: u64) -> Catalogue {
        let storages = Storages::new(StorageSettings::default());
        storages.mount("s3://models", self.bucket.clone(), None).unwrap();
        let cache = CacheSettings { folder: self.cache(), max_bytes };
        Catalogue::new(bases, cache, Arc::new(storages), self.store.clone())
    }

    pub(super) fn roomy(&self, names: &[&str]) -> Catalogue {
        self.catalogue(names.iter().map(|name| base(name)).collect(), 1 << 20)
    }

    pub(super) fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// Names of what lies whole in the cache.
    pub(super) fn cached(&self, kind: &str) -> Vec<String> {
        let entries = fs::read_dir(self.cache().join(kind)).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| self.cache().join(kind).join(name).join("complete.json").exists())
            .collect();
        names.sort();
        names
    }

    /// Puts a small model into the bucket, with what is no part of a model beside it.
    pub(super) async fn put_model(&self, name: &str) {
        for (file, bytes) in [
            ("model_index.json", b"{}".to_vec()),
            ("vocabulary.json", VOCABULARY.into()),
            ("unet/config.json", b"{}".to_vec()),
            (UNET, weights(name)),
            ("unet/diffusion_pytorch_model.bin", vec![0; 5_000]),
            (".git/config.json", b"{}".to_vec()),
            ("whole.safetensors", vec![0; 5_000]),
            ("README.md", CARD.into()),
            ("notes.md", CARD.into()),
        ] {
            self.bucket.write(&format!("{name}/{file}"), &bytes).await;
        }
    }

    /// Has a job done.
    pub(super) async fn erase(&self, erasure: Erasure<'_>) -> JobId {
        let job = self.queue(&erasure).await;
        let worker = WorkerId("worker".to_owned());
        let claimed = self.store.claim(&worker, Duration::from_mins(1)).await.unwrap();
        let claimed = claimed.unwrap();
        assert_eq!(claimed.id, job.id);
        let figures = |ua| Figures { ua, ira: 0.9, cra: 0.9 };
        let verdict = Verdict {
            judge: "cnn".to_owned(),
            sampler: SamplerKind::Ddim,
            edited: figures(1.0),
            base: figures(0.0),
            measures: None,
        };
        let outcome = Outcome::Unlearned(Box::new(Unlearned {
            published: Published {
                manifest_uri: "s3://models/out/manifest.json".to_owned(),
                manifest_sha256: "00".repeat(32),
                files: erasure.files,
            },
            verdicts: vec![ConceptVerdict { concept: "cat".to_owned(), verdict }],
            key_steps: Vec::new(),
            window: None,
            updates: 1,
            unet_evaluations: 1,
            evaluation: EvaluationResults::default(),
        }));
        for transition in
            [Transition::Loaded, Transition::EngineDone, Transition::Published(outcome)]
        {
            let event = NewEvent::Transition(transition);
            self.store.record(job.id, claimed.fence, event).await.unwrap();
        }
        job.id
    }

    /// Leaves a job undone.
    pub(super) async fn queue(&self, erasure: &Erasure<'_>) -> JobSummary {
        let work = UnlearnWork {
            base_model: erasure.base.to_owned(),
            base_digest: erasure.base_digest.to_owned(),
            spec: UnlearnSpec {
                seed: 1,
                ..UnlearnSpec::new(Concept::new("cat", ConceptKind::Object), MethodName::Keystep)
            },
            score_digest: None,
            formats: vec![OutputFormat::Delta],
            destination: "s3://models/out".to_owned(),
            evaluation: Evaluation::Skipped,
            evaluation_sampler: None,
        };
        let new = NewJob {
            principal: erasure.principal.clone(),
            request_id: RequestId(Uuid::new_v4()),
            request_digest: "request".to_owned(),
            work_digest: "work".to_owned(),
            work: Work::Unlearn(Box::new(work)),
            options: JobOptions::default(),
            max_attempts: 1,
        };
        let limits = QueueLimits { total: 100, of_principal: 100, stored_bytes: u64::MAX };
        match self.store.insert(new, limits).await.unwrap() {
            Inserted::Created(job) | Inserted::Existing(job) => *job,
        }
    }
}

pub(super) fn weights(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(WEIGHTS).collect()
}

pub(super) fn read(files: &dyn ModelFiles, name: &str) -> Vec<u8> {
    let (mut reader, _) = files.open(name).unwrap();
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Opens a model of the bucket and reads it.
pub(super) fn assert_whole(opened: &OpenedModel, name: &str) {
    assert_eq!(opened.files.names(), NAMES);
    assert_eq!(read(opened.files.as_ref(), UNET), weights(name));
    assert_eq!(read(opened.files.as_ref(), "vocabulary.json"), VOCABULARY.as_bytes());
}
