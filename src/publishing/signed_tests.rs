//! Signed results: published, verified, and tampered with where they lie.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;
use url::Url;

use super::{
    testing::{job, unlearn},
    tests::result,
    *,
};
use crate::{
    artifacts::digest::digest_named,
    jobs::{EvaluateWork, Timestamp, Work},
    outcome::{Ancestor, FinishedResult, Published, result_layout::is_seal},
    provenance::{Signer, SigningKey},
    spec::{Concept, ConceptKind, JudgeSpec, Vocabulary},
    storage::{StorageSettings, Storages},
    worker::{CommitGate, PublishRequest, Publisher, ResultSealer, RunTimes, SealRequest},
};

/// As OpenSSL made it, for the tests alone.
const KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgtd2s315CXwse97S6
Mt0wmqktM5Uwg4OHbnwcoazvK6GhRANCAASTHsM5c7XSxcCE2+ET5BhzaSUxRRQn
WgQpX6b0+7NPMgesrrne1S4oeVvMe8wKmUpYBaoEsL8LiBypqp92TYWi
-----END PRIVATE KEY-----
";
const OTHER_KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgDlKRNRyXeTVGeHb6
l6iAa0FzgR6QTcDFy6v5k7H/BuShRANCAATTa7GNOwzUGSTTPVHq9cpvwlY4NZed
SDu6Xjy9JgZ0ECT9vSQlAi1weNsvNDsZmrbEwTcBZGAaEcXNQwwoL8Bi
-----END PRIVATE KEY-----
";

fn key(pem: &str) -> SigningKey {
    SigningKey::from_pem(pem.as_bytes()).unwrap()
}

/// Adds a pipeline, and a lineage, to a result.
fn with_pipeline(folder: &Path, mut result: FinishedResult) -> FinishedResult {
    for (name, bytes) in [("pipeline/model_index.json", &b"{}"[..]), ("pipeline/unet/a.bin", b"w")]
    {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        result.files.push(digest_named(name, bytes));
    }
    result.files.sort_by(|left, right| left.name.cmp(&right.name));
    let concepts = vec!["dog".to_owned()];
    let (model, digest) = ("checkpoints/0".to_owned(), "a".repeat(64));
    result.ancestors = vec![Ancestor { model, digest, concepts }];
    result
}

/// A signed result of a job that publishes below `destination`.
fn sealed(place: &Path, destination: &str) -> PublishRequest {
    let job = job(1, unlearn("cat", destination));
    let folder = place.join(job.id.to_string()).join("result");
    let mut result = with_pipeline(&folder, result(&folder, "cat"));
    let signer = Signer::new(key(KEY), "https://models.example/keystep").unwrap();
    let licenses = BTreeMap::from([("emoji-canvas".to_owned(), "apache-2.0".to_owned())]);
    let sealer = ObjectSealer::new(signer, licenses);
    let request = SealRequest {
        job: job.id,
        work: &job.work,
        accepted_at: Timestamp(1_772_323_199_000_000),
        result: &result,
    };
    let files = sealer.seal(&request).unwrap();
    assert_eq!(files, sealer.seal(&request).unwrap(), "an attempt signs what another one signed");
    for file in files {
        fs::write(folder.join(file.name), &file.bytes).unwrap();
        result.files.push(digest_named(file.name, &file.bytes));
    }
    result.files.sort_by(|left, right| left.name.cmp(&right.name));
    PublishRequest {
        job,
        folder,
        result,
        times: RunTimes { claimed_at: Timestamp(0), finished_at: Timestamp(1_000_000) },
        progress: Arc::new(|_, _| {}),
        commit: CommitGate::default(),
    }
}

async fn publish(request: PublishRequest, storages: &Arc<Storages>) -> Published {
    let settings = PublisherSettings::from(storages.settings());
    ObjectPublisher::new(storages.clone(), settings).publish(request).await.unwrap()
}

async fn check(place: &ResultPlace, pem: &str) -> Result<Verification, VerifyError> {
    verify_result(place, &key(pem).public_key(), &|done, total| assert!(done <= total)).await
}

/// A signed result in a folder of this machine.
struct Local {
    root: tempfile::TempDir,
    published: Published,
}

impl Local {
    async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let storages = Arc::new(Storages::new(StorageSettings::default()));
        let output = Url::from_directory_path(root.path().join("out")).unwrap();
        let request = sealed(&root.path().join("work"), output.as_str());
        let published = publish(request, &storages).await;
        Self { root, published }
    }

    /// The folder that the manifest stands in.
    fn folder(&self) -> PathBuf {
        let manifest = Url::parse(&self.published.manifest_uri).unwrap().to_file_path().unwrap();
        manifest.parent().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        let files = &self.published.files;
        let file = files.iter().find(|file| file.name.split_once('/').unwrap().1 == name);
        self.folder().join(&file.unwrap().name)
    }

    async fn check(&self) -> Result<Verification, VerifyError> {
        check(&ResultPlace::Folder(self.folder()), KEY).await
    }

    /// The message of the refusal, which must be one.
    async fn refused(&self) -> String {
        let error = self.check().await.unwrap_err();
        assert!(error.is_untrue(), "{error}");
        error.to_string()
    }

    fn change_manifest(&self, change: impl FnOnce(&mut Value)) {
        let path = self.folder().join(MANIFEST);
        let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut manifest);
        fs::write(path, manifest.to_string()).unwrap();
    }
}

#[tokio::test]
async fn a_published_result_is_what_was_signed_wherever_it_lies() {
    let local = Local::new().await;
    let verification = local.check().await.unwrap();
    assert_eq!(verification.files, local.published.files.len());
    assert_eq!(verification.job.as_deref(), Some("00000000-0000-0000-0000-000000000001"));
    let verified = &verification.verified;
    assert_eq!(verified.builder_id.as_deref(), Some("https://models.example/keystep"));
    assert!(verified.model_signature);
    // A download of the files alone, without the manifest.
    let content = local.path("README.md").parent().unwrap().to_owned();
    let alone = check(&ResultPlace::Folder(content), KEY).await.unwrap();
    assert_eq!((alone.files, &alone.verified), (verification.files, verified));
    assert!(alone.job.is_none());

    let place = tempfile::tempdir().unwrap();
    let storages = Arc::new(Storages::new(StorageSettings::default()));
    let bucket = "memory://signed/models";
    let published = publish(sealed(place.path(), bucket), &storages).await;
    let folder = published.manifest_uri.rsplit_once('/').unwrap().0;
    let objects = ResultPlace::Objects(storages.open(folder).unwrap());
    assert_eq!(check(&objects, KEY).await.unwrap().files, published.files.len());
    let error = check(&objects, OTHER_KEY).await.unwrap_err();
    assert!(error.is_untrue() && error.to_string().contains("by this key"), "{error}");
}

#[tokio::test]
async fn a_seal_is_no_part_of_the_content_and_stands_in_the_manifest() {
    let local = Local::new().await;
    let seals: Vec<_> = (local.published.files.iter())
        .map(|file| file.name.split_once('/').unwrap().1)
        .filter(|name| is_seal(name))
        .collect();
    assert_eq!(seals, ["bom.cdx.json", "pipeline/model.sig", "provenance.intoto.jsonl"]);
    // The same folder as without them.
    let place = tempfile::tempdir().unwrap();
    let storages = Arc::new(Storages::new(StorageSettings::default()));
    let bucket = "memory://unsigned/models";
    let mut request = sealed(place.path(), bucket);
    request.result.files.retain(|file| !is_seal(&file.name));
    let unsigned = publish(request, &storages).await;
    let folder =
        |published: &Published| published.files[0].name.split_once('/').unwrap().0.to_owned();
    assert_eq!(folder(&unsigned), folder(&local.published));
    let url = unsigned.manifest_uri.rsplit_once('/').unwrap().0;
    let error = check(&ResultPlace::Objects(storages.open(url).unwrap()), KEY).await.unwrap_err();
    assert!(error.is_untrue() && error.to_string().contains("was not signed"), "{error}");

    // Published again, from what was saved: the same bytes.
    let storages = Arc::new(Storages::new(StorageSettings::default()));
    let output = Url::from_directory_path(local.root.path().join("out")).unwrap();
    let request = sealed(&local.root.path().join("again"), output.as_str());
    assert_eq!(publish(request, &storages).await, local.published);
}

#[tokio::test]
async fn the_manifest_knows_the_ancestors() {
    let local = Local::new().await;
    let manifest = fs::read(local.folder().join(MANIFEST)).unwrap();
    let manifest = Manifest::from_json(&manifest).unwrap();
    assert_eq!(manifest.ancestors[0].concepts, ["dog"]);
    local.change_manifest(|manifest| manifest["ancestors"][0]["concepts"] = Value::from(vec!["x"]));
    assert_eq!(
        local.refused().await,
        "manifest.json says otherwise than what was signed: its ancestors"
    );
}

#[tokio::test]
async fn every_changed_file_is_named() {
    for name in ["delta.safetensors", "README.md", "pipeline/unet/a.bin", "bom.cdx.json"] {
        let local = Local::new().await;
        fs::write(local.path(name), "other").unwrap();
        let said = local.refused().await;
        assert!(said.starts_with(&format!("{name} was changed")), "{said}");
        fs::remove_file(local.path(name)).unwrap();
        assert_eq!(local.refused().await, format!("{name} was signed and is missing"));
    }
    let local = Local::new().await;
    fs::write(local.path("README.md").with_file_name("extra.bin"), "x").unwrap();
    assert_eq!(local.refused().await, "extra.bin is there and was not signed");

    let local = Local::new().await;
    fs::write(local.path("provenance.intoto.jsonl"), "{}\n").unwrap();
    assert!(local.refused().await.contains("line 1: it is no DSSE envelope"));
    fs::remove_file(local.path("provenance.intoto.jsonl")).unwrap();
    assert!(local.refused().await.contains("provenance.intoto.jsonl is missing"));

    let local = Local::new().await;
    fs::write(local.path("pipeline/model.sig"), "{}").unwrap();
    assert!(local.refused().await.starts_with("pipeline/model.sig: it is no model signature"));
}

#[tokio::test]
async fn a_manifest_that_says_otherwise_is_refused() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 9] = [
        ("its base_model.digest", |m| m["base_model"]["digest"] = "0".into()),
        ("its base_model.name", |m| m["base_model"]["name"] = "sd".into()),
        ("its job", |m| m["job"] = "00000000-0000-0000-0000-000000000002".into()),
        ("its spec", |m| m["spec"]["seed"] = 8.into()),
        ("its seeds", |m| m["seeds"]["unlearn"] = 8.into()),
        ("its verdicts", |m| m["verdicts"][0]["edited"]["ua"] = 1.0.into()),
        ("its updates", |m| m["updates"] = 41.into()),
        ("has 3 bytes with", |m| m["files"][0]["size"] = 3.into()),
        ("it does not list", |m| drop(m["files"].as_array_mut().unwrap().remove(2))),
    ];
    for (what, change) in changes {
        let local = Local::new().await;
        local.change_manifest(change);
        let said = local.refused().await;
        assert!(said.contains("manifest.json says otherwise") && said.contains(what), "{said}");
    }
    let changes: [(&str, Change); 4] = [
        ("\"../../secret\" is no name", |m| m["files"][0]["name"] = "../../secret".into()),
        ("\"/etc/passwd\" is no name", |m| m["files"][0]["name"] = "/etc/passwd".into()),
        ("lie in 2 folders", |m| m["files"][0]["name"] = "elsewhere/x".into()),
        ("lie in 0 folders", |m| m["files"] = Value::Array(Vec::new())),
    ];
    for (what, change) in changes {
        let local = Local::new().await;
        local.change_manifest(change);
        let said = local.refused().await;
        assert!(said.contains(what), "{said}");
    }
    let local = Local::new().await;
    for text in ["", "{", "[]", &"[".repeat(100_000)] {
        fs::write(local.folder().join(MANIFEST), text).unwrap();
        assert!(local.refused().await.starts_with("manifest.json: it is no manifest"));
    }
    let file = fs::File::create(local.folder().join(MANIFEST)).unwrap();
    file.set_len(17 << 20).unwrap();
    assert!(local.refused().await.contains("has more than 16777216 bytes"));
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_is_refused_even_where_it_leads_to_the_same_bytes() {
    let local = Local::new().await;
    let path = local.path("delta.safetensors");
    let elsewhere = local.root.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(local.refused().await.starts_with("delta.safetensors is a link"));

    let local = Local::new().await;
    let path = local.folder().join(MANIFEST);
    fs::rename(&path, local.root.path().join("m")).unwrap();
    std::os::unix::fs::symlink(local.root.path().join("m"), &path).unwrap();
    assert!(local.refused().await.starts_with("manifest.json is a link"));
}

#[tokio::test]
async fn what_is_not_there_is_neither_true_nor_untrue() {
    let place = tempfile::tempdir().unwrap();
    let error = check(&ResultPlace::Folder(place.path().join("none")), KEY).await.unwrap_err();
    assert!(!error.is_untrue(), "{error}");
    let error = check(&ResultPlace::Folder(place.path().to_owned()), KEY).await.unwrap_err();
    assert!(!error.is_untrue() && error.to_string().contains("nothing lies"), "{error}");
    let storages = Storages::new(StorageSettings::default());
    let nowhere = ResultPlace::Objects(storages.open("memory://signed-nothing/a").unwrap());
    assert!(!check(&nowhere, KEY).await.unwrap_err().is_untrue());
}

#[test]
fn judgements_are_signed_without_a_bill() {
    let place = tempfile::tempdir().unwrap();
    let concept = Concept::new("cat", ConceptKind::Object);
    let work = Work::Evaluate(Box::new(EvaluateWork {
        judges: Vec::new(),
        base_model: "emoji-canvas".to_owned(),
        base_digest: "b".repeat(64),
        edited_model: "checkpoints/1".to_owned(),
        spec: JudgeSpec::new(concept, Vocabulary::default()),
        destination: "memory://judged/a".to_owned(),
    }));
    let signer = Signer::new(key(KEY), "https://models.example/keystep").unwrap();
    let result = result(place.path(), "cat");
    let request = SealRequest {
        job: job(1, work.clone()).id,
        work: &work,
        accepted_at: Timestamp(0),
        result: &result,
    };
    let files = ObjectSealer::new(signer, BTreeMap::new()).seal(&request).unwrap();
    let names: Vec<_> = files.iter().map(|file| file.name).collect();
    assert_eq!(names, ["README.md", "provenance.intoto.jsonl"]);
}
