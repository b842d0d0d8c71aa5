//! A `Publisher` that copies into a local folder.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::{
    artifacts::digest::digest_bytes,
    jobs::{Failure, FailureReason, Job},
    outcome::{Published, PublishedFile},
    worker::{Leavings, PublishRequest, Publisher},
};

/// Copies a result below a folder, file by file, and writes `JOB/manifest.json` last.
#[derive(Debug, Default)]
pub struct FolderPublisher {
    root: PathBuf,
    delay: Duration,
    /// Publications that fail from now on, as if storage were away.
    failures: AtomicUsize,
    /// Whether a manifest is being written or was.
    committing: watch::Sender<bool>,
}

impl FolderPublisher {
    /// Below a folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), ..Self::default() }
    }

    /// That takes so long for each file.
    #[must_use]
    pub fn slow(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Lets the next publications fail.
    pub fn fail(&self, times: usize) {
        self.failures.store(times, Ordering::SeqCst);
    }

    /// Waits for a publication to come to its manifest.
    pub async fn comes_to_its_manifest(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.committing.subscribe().wait_for(|committing| *committing).await;
    }

    async fn publish_files(&self, request: PublishRequest) -> Result<Published, Failure> {
        let left = self.failures.load(Ordering::SeqCst);
        if left > 0 {
            self.failures.store(left - 1, Ordering::SeqCst);
            return Err(away());
        }
        let target = self.root.join(request.job.id.to_string());
        let total: u64 = request.result.files.iter().map(|file| file.size).sum();
        let mut done = 0;
        let mut files = Vec::new();
        for file in &request.result.files {
            tokio::time::sleep(self.delay).await;
            let to = target.join("files").join(&file.name);
            copy(&request.folder.join(&file.name), &to).map_err(|_| away())?;
            done += file.size;
            (request.progress)(done, total);
            files.push(PublishedFile {
                name: format!("files/{}", file.name),
                uri: format!("file://{}", to.display()),
                size: file.size,
                sha256: file.sha256.clone(),
            });
        }
        if !request.commit.enter() {
            let message = "the job was cancelled before its manifest was written";
            return Err(Failure::new(FailureReason::Cancelled, message));
        }
        self.committing.send_replace(true);
        tokio::time::sleep(self.delay).await;
        let manifest = serde_json::to_vec_pretty(&request.result).map_err(|_| away())?;
        let path = target.join("manifest.json");
        let manifest = create(&path, &manifest).map_err(|_| away())?;
        Ok(Published {
            manifest_uri: format!("file://{}", path.display()),
            manifest_sha256: digest_bytes(&manifest),
            files,
        })
    }
}

fn away() -> Failure {
    Failure::new(FailureReason::StorageUnavailable, "the storage is away")
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to)?;
    Ok(())
}

/// Writes a file once; gives what stands there.
fn create(path: &Path, bytes: &[u8]) -> io::Result<Vec<u8>> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => file.write_all(bytes)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    fs::read(path)
}

impl Publisher for FolderPublisher {
    fn publish(&self, request: PublishRequest) -> BoxFuture<'_, Result<Published, Failure>> {
        Box::pin(self.publish_files(request))
    }

    fn check(&self, _: &str) -> Result<(), Failure> {
        Ok(())
    }

    fn abandon<'a>(&'a self, leavings: Leavings<'a>) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let id = leavings.folder.parent().and_then(Path::file_name).unwrap_or_default();
            let target = self.root.join(id);
            if self.failures.load(Ordering::SeqCst) > 0 {
                return Err(away());
            }
            if !target.join("manifest.json").exists() && target.exists() {
                fs::remove_dir_all(&target).map_err(|_| away())?;
            }
            Ok(())
        })
    }

    fn retract<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            match fs::remove_file(self.root.join(job.id.to_string()).join("manifest.json")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let message = "the manifest cannot be removed";
                    Err(Failure::new(FailureReason::StorageUnavailable, message))
                }
                _ => Ok(()),
            }
        })
    }
}
