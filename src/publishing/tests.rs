//! Publication against stores that fail, hang and lie.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem};
use url::Url;
use uuid::Uuid;

use super::{
    testing::{job, unlearn},
    *,
};
use crate::{
    jobs::{EvaluateWork, Failure, FailureReason, JobId, Timestamp, Work},
    outcome::{
        ConceptVerdict, DeviceKind, EvaluationResults, Figures, FileDigest, FinishedResult,
        Published, TrainingFigures, Verdict,
    },
    spec::{
        Concept, ConceptKind, JudgeSpec, LogSnrWindow, SamplerKind, StepIndex, UnlearnSpec,
        Vocabulary,
    },
    storage::{
        Content, Patience, StorageLocation, StorageSettings, Storages, TransferOptions,
        testing::{Call, Fault, Flaky},
    },
    worker::{CommitGate, Leavings, PublishRequest, Publisher, RunTimes},
};

const BUCKET: &str = "memory://published/models";
/// So small that the weights go in parts.
const PART_BYTES: u64 = 5_000;

/// The folder of a result as a worker writes it.
pub(super) fn result(folder: &Path, concept: &str) -> FinishedResult {
    let mut files = Vec::new();
    for (name, length) in [
        ("before-after.png", 90),
        ("delta.safetensors", 12_345),
        ("report.json", 20),
        ("scores.json", 30),
        ("unet/config.json", 0),
        ("unet/diffusion_pytorch_model.safetensors", 5_000),
    ] {
        let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &bytes).unwrap();
        let Content { size, sha256 } = Content::of(&bytes);
        files.push(FileDigest { name: name.to_owned(), size, sha256 });
    }
    let figures = |ua| Figures { ua, ira: 0.95, cra: f64::NAN };
    FinishedResult {
        work_digest: "work".to_owned(),
        files,
        verdicts: vec![ConceptVerdict {
            concept: concept.to_owned(),
            verdict: Verdict {
                judge: "cnn".into(),
                sampler: SamplerKind::Euler,
                edited: figures(0.97),
                base: figures(0.02),
                measures: None,
            },
        }],
        key_steps: vec![StepIndex(2), StepIndex(9)],
        window: Some(LogSnrWindow { low: -3.0, high: 1.0 }),
        updates: 40,
        unet_evaluations: 1_234,
        training: Some(TrainingFigures {
            stopped_early: true,
            first_loss: Some(0.5),
            last_loss: Some(f64::INFINITY),
            erase_measure: 0.1,
            damage_measure: f64::NAN,
            weight_change: 0.01,
            learning_rate: 0.001,
        }),
        seeds: BTreeMap::from([("judge".to_owned(), 11), ("unlearn".to_owned(), 7)]),
        device: DeviceKind::Cuda,
        left_out: vec!["v1-5.CKPT".to_owned()],
        evaluation: EvaluationResults::default(),
        ancestors: Vec::new(),
    }
}

/// A result, a publisher and a store.
struct Bench {
    store: Arc<Flaky>,
    publisher: ObjectPublisher,
    storages: Arc<Storages>,
    request: PublishRequest,
    _place: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(unlearn("cat", BUCKET), "cat")
    }

    fn with(work: Work, concept: &str) -> Self {
        let store = Flaky::in_memory();
        Self::over("memory://published", store.clone(), true, |_| (work, concept.to_owned()))
    }

    /// In a local folder.
    fn in_folder() -> Self {
        let store = Flaky::over(Arc::new(LocalFileSystem::new()));
        Self::over("file:///", store, false, |place| {
            let root = Url::from_directory_path(place.join("published")).unwrap();
            (unlearn("cat", root.as_str()), "cat".to_owned())
        })
    }

    fn over(
        bucket: &str,
        store: Arc<Flaky>,
        in_parts: bool,
        work: impl FnOnce(&Path) -> (Work, String),
    ) -> Self {
        let place = tempfile::tempdir().unwrap();
        let storages = Arc::new(Storages::new(StorageSettings::default()));
        let parts = in_parts.then(|| store.clone() as _);
        storages.mount(bucket, store.clone(), parts).unwrap();
        let settings = PublisherSettings {
            transfer: TransferOptions {
                part_bytes: PART_BYTES,
                parts_in_flight: 2,
                journal: None,
                patience: Patience { attempts: 1, first_wait: Duration::ZERO },
            },
            ..PublisherSettings::from(&StorageSettings::default())
        };
        let (work, concept) = work(place.path());
        let job = job(1, work);
        let folder = place.path().join(job.id.to_string()).join("result");
        let request = PublishRequest {
            commit: CommitGate::default(),
            job,
            result: result(&folder, &concept),
            folder,
            times: RunTimes { claimed_at: Timestamp(0), finished_at: Timestamp(1_000_000) },
            progress: Arc::new(|done, total| assert!(done <= total)),
        };
        let publisher = ObjectPublisher::new(storages.clone(), settings);
        Self { store, publisher, storages, request, _place: place }
    }

    /// With one of three parts on its way when the publication was dropped.
    async fn dropped_while_sending_parts() -> Self {
        let probe = Self::new();
        probe.publish().await.unwrap();
        let is_part = |call: &Call| call.part.is_some();
        let first_part = probe.store.calls().iter().position(is_part).unwrap();
        let bench = Self::new();
        bench.store.fail_from(first_part + 2, Fault::Hang);
        tokio::select! {
            _ = bench.publish() => panic!("it hangs"),
            () = bench.store.hangs() => {}
        }
        bench
    }

    async fn publish(&self) -> Result<Published, Failure> {
        self.publisher.publish(self.request.clone()).await
    }

    async fn abandon(&self, is_cancelled: bool) -> Result<(), Failure> {
        self.publisher.abandon(Leavings { folder: &self.request.folder, is_cancelled }).await
    }

    /// Objects in the output.
    async fn objects(&self) -> usize {
        let folder = self.folder();
        folder.store.list(Some(&folder.path)).try_collect::<Vec<_>>().await.unwrap().len()
    }

    fn folder(&self) -> StorageLocation {
        layout::Layout::of(&self.storages, &self.request.job).unwrap().folder
    }

    /// The manifest, if one stands; then every file that it names must stand too.
    async fn standing(&self) -> Option<Manifest> {
        self.store.heal();
        let place = self.folder().child(MANIFEST).unwrap();
        let bytes = place.store.get(&place.path).await.ok()?.bytes().await.unwrap();
        let manifest = Manifest::from_json(&bytes).unwrap();
        manifest.check(&self.request.job, &self.folder()).unwrap();
        for file in &manifest.files {
            let place = self.storages.open(&file.uri).unwrap();
            let bytes = place.store.get(&place.path).await.unwrap().bytes().await.unwrap();
            let content = Content { size: file.size, sha256: file.sha256.clone() };
            assert_eq!(Content::of(&bytes), content, "{}", file.name);
        }
        Some(manifest)
    }

    async fn check(&self, published: &Published) -> Manifest {
        let manifest = self.standing().await.expect("a manifest stands");
        assert_eq!(published.files, manifest.files);
        let content = Content::of(&manifest.to_json().unwrap());
        assert_eq!(published.manifest_sha256, content.sha256);
        // The model card comes on top.
        assert_eq!(published.files.len(), self.request.result.files.len() + 1);
        manifest
    }

    fn uploads_left(&self) -> bool {
        self.request.folder.with_file_name("uploads.json").exists()
    }
}

#[tokio::test]
async fn a_result_is_published_whole() {
    let bench = Bench::new();
    let published = bench.publish().await.unwrap();
    let manifest = bench.check(&published).await;
    let id = bench.request.job.id;
    let manifest_uri = format!("{BUCKET}/checkpoints/{id}/manifest.json");
    assert_eq!(published.manifest_uri, manifest_uri);
    let delta = published.files.iter().find(|file| file.name.ends_with("/delta.safetensors"));
    let delta = delta.unwrap();
    assert_eq!(delta.uri, format!("{BUCKET}/checkpoints/{id}/{}", delta.name));
    assert_eq!(delta.name.split('/').next().unwrap().len(), 16);
    assert!(!bench.uploads_left());

    assert_eq!(manifest.base_model.name, "emoji-canvas");
    // What the run says of itself, and nothing that a default would give again.
    let seeds = BTreeMap::from([("judge".to_owned(), 11), ("unlearn".to_owned(), 7)]);
    assert_eq!((manifest.seeds, manifest.device), (seeds, DeviceKind::Cuda));
    assert_eq!(manifest.left_out, ["v1-5.CKPT"]);
    assert_eq!(manifest.scores.keys().collect::<Vec<_>>(), ["scores.json"]);
    assert_eq!(manifest.created_at, "1970-01-01T00:00:01Z");
    let spec: UnlearnSpec = serde_json::from_value(manifest.spec.clone()).unwrap();
    assert_eq!(spec, testing::spec("cat"));
    let training = manifest.training.unwrap();
    assert!(training.last_loss.is_none() && training.damage_measure.is_nan());
    let ConceptVerdict { concept, verdict } = &manifest.verdicts[0];
    assert!(verdict.edited.cra.is_nan());
    assert_eq!((concept.as_str(), verdict.edited.ua), ("cat", 0.97));
    assert_eq!(verdict.sampler, SamplerKind::Euler);
}

#[tokio::test]
async fn what_is_published_twice_is_published_once() {
    let mut bench = Bench::new();
    let first = bench.publish().await.unwrap();
    bench.store.heal();
    bench.request.times.finished_at = Timestamp(9_000_000);
    assert_eq!(bench.publish().await.unwrap(), first);
    assert_eq!(bench.store.count("put"), 0);

    // A lost worker that comes back while the next one publishes.
    let bench = Bench::new();
    let late = PublishRequest {
        times: RunTimes { claimed_at: Timestamp(0), finished_at: Timestamp(5_000_000) },
        commit: CommitGate::default(),
        ..bench.request.clone()
    };
    let (one, other) = tokio::join!(bench.publish(), bench.publisher.publish(late));
    assert_eq!(one.unwrap(), other.unwrap());
}

/// Publishes with each call of the store failing in turn, and again without.
async fn survives(bench: impl Fn() -> Bench, fault: Fault) {
    let calls = {
        let probe = bench();
        probe.publish().await.unwrap();
        probe.store.calls().len()
    };
    assert!(calls > 20, "there is much that can fail: {calls}");
    for at in 0..calls {
        let bench = bench();
        bench.store.fail_after(at, fault);
        let first = bench.publish().await;
        if let Err(failure) = &first {
            assert!(failure.message.contains("://"), "{failure}");
        }
        let stands = bench.standing().await;
        assert!(stands.is_some() || first.is_err(), "{fault:?} at {at}");
        let second = bench.publish().await.unwrap_or_else(|failure| {
            panic!("{fault:?} at {at}: {failure}");
        });
        bench.check(&second).await;
        assert!(!bench.uploads_left(), "{fault:?} at {at}");
        if let Ok(first) = first {
            assert_eq!(first, second);
        }
    }
}

#[tokio::test]
async fn no_fault_leaves_a_manifest_without_its_files() {
    for fault in [Fault::Away, Fault::AnswerLost, Fault::Denied, Fault::Corrupted] {
        survives(Bench::new, fault).await;
    }
}

#[tokio::test]
async fn a_folder_survives_the_same_faults() {
    for fault in [Fault::Away, Fault::AnswerLost, Fault::Corrupted] {
        survives(Bench::in_folder, fault).await;
    }
}

#[tokio::test]
async fn a_publication_can_be_dropped_anywhere() {
    let mut at = 0;
    loop {
        let bench = Bench::new();
        bench.store.fail_after(at, Fault::Hang);
        let is_done = tokio::select! {
            published = bench.publish() => published.is_ok(),
            () = bench.store.hangs() => false,
        };
        let stands = bench.standing().await.is_some();
        assert!(stands || !is_done);
        let published = bench.publish().await.unwrap();
        bench.check(&published).await;
        if is_done {
            break;
        }
        at += 1;
    }
    assert!(at > 25, "{at}");
}

#[tokio::test]
async fn a_dropped_publication_sends_the_rest() {
    let bench = Bench::dropped_while_sending_parts().await;
    // What was in flight when it was dropped may be sent again, what was noted may not.
    bench.store.heal();
    bench.publish().await.unwrap();
    assert!(bench.store.count("put_part") < 3);
    assert_eq!(bench.store.count("create_multipart"), 0);
    assert_eq!(bench.store.count("put"), 1, "the manifest alone");
}

#[tokio::test]
async fn an_abandoned_publication_leaves_no_parts() {
    let bench = Bench::dropped_while_sending_parts().await;
    assert!(bench.uploads_left());
    bench.store.heal();
    bench.abandon(false).await.unwrap();
    assert_eq!(bench.store.count("abort_multipart"), 1);
    assert!(!bench.uploads_left() && bench.standing().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn whatever_a_publication_left_is_removed_unless_its_manifest_stands() {
    for bench in [Bench::new, Bench::in_folder] {
        let probe = bench();
        probe.publish().await.unwrap();
        let (calls, objects) = (probe.store.calls().len(), probe.objects().await);
        // The publication is recorded, so that nobody can take it back.
        for is_cancelled in [false, true] {
            probe.abandon(is_cancelled).await.unwrap();
            assert_eq!(probe.objects().await, objects);
        }
        for at in 0..calls {
            let bench = bench();
            bench.store.fail_from(at, Fault::Away);
            bench.publish().await.unwrap_err();
            // The output is still away: it is for later, and what is left half done stays so.
            if bench.abandon(false).await.is_err() {
                bench.store.heal();
                let stands = bench.standing().await.is_some();
                bench.abandon(false).await.unwrap();
                assert_eq!(bench.objects().await, if stands { objects } else { 0 }, "at {at}");
            }
            bench.store.heal();
            assert_eq!(bench.standing().await.is_some(), bench.objects().await > 0, "at {at}");
        }
        // A manifest that its job does not know of, since that was cancelled.
        let bench = bench();
        bench.store.fail_from(calls - 1, Fault::AnswerLost);
        bench.publish().await.unwrap_err();
        bench.store.heal();
        assert!(bench.standing().await.is_some());
        bench.abandon(true).await.unwrap();
        assert_eq!(bench.objects().await, 0);
    }
}

#[tokio::test]
async fn where_nothing_may_be_removed_it_is_not_tried_for_ever() {
    let bench = Bench::new();
    bench.store.fail_from(8, Fault::Away);
    bench.publish().await.unwrap_err();
    bench.store.heal();
    bench.store.fail_from(0, Fault::Denied);
    bench.abandon(false).await.unwrap();
    let calls = bench.store.calls().len();
    bench.abandon(false).await.unwrap();
    assert_eq!(bench.store.calls().len(), calls);
}

#[tokio::test]
async fn a_destination_is_looked_at_before_anything_is_made() {
    let storages = Arc::new(Storages::new(StorageSettings::default()));
    let settings = PublisherSettings {
        outputs: vec!["memory://m/out".to_owned(), "file:///out".to_owned()],
        ..PublisherSettings::from(&StorageSettings::default())
    };
    let publisher = ObjectPublisher::new(storages, settings);
    for place in ["memory://m/out", "memory://m/out/team", "file:///out/a%20b"] {
        publisher.check(place).unwrap();
    }
    let reason = |place: &str| publisher.check(place).unwrap_err().reason;
    for place in ["memory://m/other", "memory://other/out", "file:///etc"] {
        assert_eq!(reason(place), FailureReason::DestinationNotAllowed, "{place}");
    }
    let long = format!("memory://m/out/{}", "a/".repeat(400));
    let deep = format!("file:///out{}", "/abcdefgh".repeat(450));
    let wide = format!("file:///out/{}", "a".repeat(256));
    for place in ["file:///out/%00", "file:///out/%ff%fe", "file:///out/%0a", &long, &deep, &wide] {
        assert_eq!(reason(place), FailureReason::InvalidSpec, "{place}");
    }
}

#[tokio::test]
async fn the_longest_destination_that_is_accepted_takes_the_longest_names() {
    let (mut bench, place) = (Bench::in_folder(), tempfile::tempdir().unwrap());
    let part = "b".repeat(255);
    let root = Url::from_directory_path(place.path().join(&part)).unwrap();
    bench.publisher.check(root.as_str()).unwrap();
    bench.request.job = job(1, unlearn("cat", root.as_str()));
    bench.publish().await.unwrap();
    // And a longer one would not have.
    let wide = Url::from_directory_path(place.path().join(format!("{part}b"))).unwrap();
    bench.request.job = job(1, unlearn("cat", wide.as_str()));
    let failure = bench.publish().await.unwrap_err();
    assert_eq!(failure.reason, FailureReason::InvalidSpec, "{failure}");
}

#[tokio::test]
async fn a_manifest_that_is_not_the_jobs_is_refused() {
    let bench = Bench::new();
    bench.publish().await.unwrap();
    let ours = bench.standing().await.unwrap();
    let outside = {
        let mut manifest = ours.clone();
        manifest.files[0].uri = "memory://elsewhere/a".to_owned();
        manifest
    };
    let renamed = {
        let mut manifest = ours.clone();
        manifest.files[0].name = format!("../{}", manifest.files[0].name);
        manifest
    };
    let another = Manifest { job: JobId(Uuid::from_u128(2)), ..ours.clone() };
    let other_work = Manifest { work_digest: "another".to_owned(), ..ours.clone() };
    let place = bench.folder().child(MANIFEST).unwrap();
    for manifest in [outside, renamed, another, other_work] {
        let bytes = manifest.to_json().unwrap();
        place.store.put(&place.path, bytes.clone().into()).await.unwrap();
        let failure = bench.publish().await.unwrap_err();
        assert_eq!(failure.reason, FailureReason::StorageCorrupted, "{failure}");
        let kept = place.store.get(&place.path).await.unwrap().bytes().await.unwrap();
        assert_eq!(kept, bytes, "it is not replaced");
    }
    for bytes in [&b"{}"[..], b"\xff", b"{\"schema_version\": 9}"] {
        place.store.put(&place.path, bytes.to_vec().into()).await.unwrap();
        let failure = bench.publish().await.unwrap_err();
        assert_eq!(failure.reason, FailureReason::StorageCorrupted, "{failure}");
    }
}

#[tokio::test]
async fn no_file_leaves_its_folder() {
    for name in ["../escaped", "/etc/passwd", "a/../../b", "a//b"] {
        let mut bench = Bench::new();
        bench.request.result.files[0].name = name.to_owned();
        bench.publish().await.unwrap_err();
        assert!(bench.standing().await.is_none(), "{name}");
        assert_eq!(bench.store.count("put"), 0);
    }
}

#[tokio::test]
async fn a_file_that_vanished_is_no_result() {
    let bench = Bench::new();
    std::fs::remove_file(bench.request.folder.join("report.json")).unwrap();
    let failure = bench.publish().await.unwrap_err();
    assert_eq!(failure.reason, FailureReason::StorageCorrupted, "{failure}");
    assert!(!failure.message.contains(bench.request.folder.to_str().unwrap()));
    assert!(bench.standing().await.is_none());
}

async fn card(bench: &Bench) -> String {
    let published = bench.publish().await.unwrap();
    let card = published.files.iter().find(|file| file.name.ends_with("/README.md")).unwrap();
    let place = bench.storages.open(&card.uri).unwrap();
    let bytes = place.store.get(&place.path).await.unwrap().bytes().await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn the_model_card_is_equal_for_equal_work() {
    let first = card(&Bench::new()).await;
    let mut other = Bench::new();
    other.request.job = job(2, unlearn("cat", BUCKET));
    other.request.times.finished_at = Timestamp(77);
    assert_eq!(card(&other).await, first);
    assert!(first.starts_with("---\nbase_model: \"emoji-canvas\"\n"), "{first}");
    assert!(first.contains("![Pictures before and after](before-after.png)"));
    assert!(first.contains("| cat | cnn | edited | 0.970 | 0.950 | – |"), "{first}");
    assert!(first.contains("drawn with euler"), "{first}");
    assert!(first.contains("load_file(\"delta.safetensors\")"));
    assert!(first.contains("UNet2DConditionModel.from_pretrained(\"unet\")"));
    assert!(!first.contains("from_pretrained(\"pipeline\")"), "no pipeline is there");
}

#[tokio::test]
async fn a_concept_cannot_write_the_model_card() {
    let concept = "cat\"\nlicense: mit\n---\n# <b>Owned</b> | `x`\u{2028}";
    let bench = Bench::with(unlearn(concept, BUCKET), concept);
    let card = card(&bench).await;
    let mut parts = card.splitn(3, "---\n");
    let (before, front, body) = (parts.next(), parts.next().unwrap(), parts.next().unwrap());
    assert_eq!(before, Some(""));
    assert!(front.lines().all(|line| !line.starts_with("license")), "{front}");
    let quoted = front.lines().last().unwrap().trim_start_matches("  - ");
    assert_eq!(serde_json::from_str::<String>(quoted).unwrap(), concept);
    assert!(!body.contains("<b>") && !body.contains("\n# <") && !body.contains("\n---"), "{body}");
    let rows = body.lines().filter(|line| line.contains(" cnn "));
    assert!(rows.clone().count() == 2);
    assert!(rows.into_iter().all(|row| row.replace("\\|", "").matches('|').count() == 7));
}

#[tokio::test]
async fn a_judgement_is_published_beside_the_checkpoints() {
    let work = Work::Evaluate(Box::new(EvaluateWork {
        base_model: "emoji-canvas".to_owned(),
        base_digest: "b".repeat(64),
        edited_model: "checkpoints/1".to_owned(),
        spec: JudgeSpec::new(Concept::new("cat", ConceptKind::Object), Vocabulary::default()),
        judges: Vec::new(),
        destination: BUCKET.to_owned(),
    }));
    let bench = Bench::with(work, "cat");
    let published = bench.publish().await.unwrap();
    let id = bench.request.job.id;
    assert_eq!(published.manifest_uri, format!("{BUCKET}/evaluations/{id}/manifest.json"));
    let manifest = bench.check(&published).await;
    assert_eq!(manifest.edited_model.as_deref(), Some("checkpoints/1"));
    assert_eq!(manifest.seeds["judge"], 11);
    let card = card(&bench).await;
    assert!(card.starts_with("# checkpoints/1 judged against emoji-canvas\n"), "{card}");
}
