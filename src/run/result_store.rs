//! A finished result in its folder, and in object storage too where workers share it, so that one
//! with another disk publishes the same bytes.

use std::path::PathBuf;

use super::{ResultFiles, attempt_objects::AttemptObjects, result_files::COMPLETE};
use crate::{
    artifacts::{ArtifactError, StagedFolder},
    outcome::{FileDigest, FinishedResult},
    storage::{
        Content, LocalFile, StorageError, StorageErrorKind, StorageLocation, download, read, send,
    },
};

/// What a result's folder is called among the objects of a run.
const RESULT: &str = "result";
/// The marker lists files and figures: what is larger is something else.
const MOST_MARKER_BYTES: u64 = 16 << 20;

/// The finished result of one attempt at a run: in the folder, and the same bytes below
/// `result/ATTEMPT`, the marker last.
///
/// Where the storage is away, the result lies in the folder alone and the log says so.
#[derive(Debug)]
pub struct ResultStore {
    files: ResultFiles,
    /// None where results are not shared.
    objects: Option<AttemptObjects>,
    /// Whether what lies in the folder is the newest that is shared.
    is_shared: bool,
}

/// What was found of a finished result.
#[derive(Debug)]
pub struct FoundResult {
    /// The result, which lies in the folder now.
    pub result: Option<FinishedResult>,
    /// Why what other attempts may have shared is not used.
    pub problem: Option<CopyProblem>,
}

/// Why a shared copy of a result is not used.
#[derive(Debug, thiserror::Error)]
pub enum CopyProblem {
    /// It is not what an attempt at the same work shared: it was cut short, or altered.
    #[error("{0}")]
    Refused(String),
    /// It cannot be brought here now; it may be whole.
    #[error("{0}")]
    OutOfReach(String),
}

impl From<StorageError> for CopyProblem {
    fn from(error: StorageError) -> Self {
        match error.kind() {
            // What the marker lists was there once.
            StorageErrorKind::NotFound
            | StorageErrorKind::Corrupted
            | StorageErrorKind::InvalidPlace => Self::Refused(error.to_string()),
            _ => Self::OutOfReach(error.to_string()),
        }
    }
}

impl From<ArtifactError> for CopyProblem {
    fn from(error: ArtifactError) -> Self {
        Self::OutOfReach(error.to_string())
    }
}

impl ResultStore {
    /// In the folder alone.
    pub fn local(files: ResultFiles) -> Self {
        Self { files, objects: None, is_shared: false }
    }

    pub(super) fn shared(files: ResultFiles, objects: AttemptObjects) -> Self {
        Self { files, objects: Some(objects), is_shared: false }
    }

    /// The folder.
    pub fn files(&self) -> &ResultFiles {
        &self.files
    }

    /// Looks for the whole result of an earlier attempt at the same work, and brings it into the
    /// folder where a newer one is shared than lies there.
    pub async fn find(&mut self, work_digest: &str) -> FoundResult {
        let (files, digest) = (self.files.clone(), work_digest.to_owned());
        let result = blocking(move || Ok(files.find(&digest))).await.ok().flatten();
        let Some(objects) = &self.objects else { return FoundResult { result, problem: None } };
        let held = if result.is_some() { self.files.attempt() } else { 0 };
        let problem = match objects.newest(RESULT, COMPLETE).await {
            Ok(None) => None,
            Ok(Some(newest)) if newest <= held => {
                self.is_shared = newest == held;
                None
            }
            Ok(Some(newest)) => match fetch(&self.files, objects, newest, work_digest).await {
                Ok(fetched) => {
                    self.is_shared = true;
                    return FoundResult { result: Some(fetched), problem: None };
                }
                Err(problem) => Some(problem),
            },
            Err(error) => Some(error.into()),
        };
        if let Some(problem) = &problem {
            tracing::warn!(%problem, "a shared result cannot be used; what this disk has is used");
        }
        FoundResult { result, problem }
    }

    /// Stores what lies in the folder for other workers, unless that was done already or the storage
    /// was away lately. Dropping the future leaves what was sent for the next call.
    pub async fn share(&mut self, finished: &FinishedResult) {
        let Some(objects) = &self.objects else { return };
        if self.is_shared || objects.outage.lasts() {
            return;
        }
        let asked = objects.outage.now();
        match send_all(&self.files, objects, finished).await {
            Ok(()) => {
                self.is_shared = true;
                objects.outage.is_over();
                tracing::info!("the finished result is stored for other workers");
                if let Err(error) = objects.remove_earlier(RESULT).await {
                    tracing::warn!(%error, "results that earlier attempts shared stay for now");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the finished result is kept on this disk alone");
                objects.outage.was_found(asked);
            }
        }
    }
}

/// Brings an attempt's result into the folder, once every byte is as its marker says.
async fn fetch(
    files: &ResultFiles,
    objects: &AttemptObjects,
    attempt: u64,
    work_digest: &str,
) -> Result<FinishedResult, CopyProblem> {
    let (copy, patience) = (objects.object(RESULT, attempt)?, objects.transfers.patience);
    let marker = copy.child(COMPLETE)?;
    let url = marker.url.to_string();
    let Some(bytes) = read(&marker, MOST_MARKER_BYTES, patience).await? else {
        return Err(StorageError::NotFound { url }.into());
    };
    let refused = |what: &str| CopyProblem::Refused(format!("{url} {what}"));
    let finished: FinishedResult = serde_json::from_slice(&bytes)
        .map_err(|error| refused(&format!("lists no result (line {})", error.line())))?;
    if finished.work_digest != work_digest {
        return Err(refused("is of other work"));
    }
    let beginning = files.clone();
    let mut staged = blocking(move || beginning.begin_copy()).await?;
    for file in &finished.files {
        fetch_file(&copy, file, &staged, objects).await?;
    }
    let files = files.clone();
    blocking(move || {
        staged.write(COMPLETE, |out| out.write_all(&bytes))?;
        files.adopt(staged, attempt)
    })
    .await?;
    tracing::info!(attempt, "the finished result of an earlier attempt is fetched");
    Ok(finished)
}

async fn fetch_file(
    copy: &StorageLocation,
    file: &FileDigest,
    staged: &StagedFolder,
    objects: &AttemptObjects,
) -> Result<(), CopyProblem> {
    // Refuses a name that leads out of its folder, there and here.
    let object = copy.child(&file.name)?;
    let to = staged.unfinished().join(&file.name);
    if let Some(folder) = to.parent().map(PathBuf::from) {
        let failed = |source| StorageError::of_disk(&file.name, source);
        tokio::fs::create_dir_all(folder).await.map_err(failed)?;
    }
    let found = download(&object, &to, objects.transfers.patience, &|_| {}).await?;
    let expected = Content { size: file.size, sha256: file.sha256.clone() };
    if found == expected {
        return Ok(());
    }
    let (url, expected) = (object.url.to_string(), expected.to_string());
    Err(StorageError::Corrupted { url, expected, found: found.to_string() }.into())
}

/// Sends the folder's files, and the marker once they all stand.
async fn send_all(
    files: &ResultFiles,
    objects: &AttemptObjects,
    finished: &FinishedResult,
) -> Result<(), StorageError> {
    let copy = objects.object(RESULT, objects.attempt)?;
    let noted = files.note_attempt(objects.attempt);
    noted.map_err(|source| StorageError::of_disk(RESULT, source))?;
    for FileDigest { name, size, sha256 } in &finished.files {
        let content = Content { size: *size, sha256: sha256.clone() };
        let file = LocalFile { path: files.folder().join(name), content };
        send(&copy.child(name)?, &file, &objects.transfers, &|_| {}).await?;
    }
    let marker = LocalFile::open(files.marker()).await?;
    send(&copy.child(COMPLETE)?, &marker, &objects.transfers, &|_| {}).await
}

/// Runs work on the disk on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArtifactError> + Send + 'static,
) -> Result<T, CopyProblem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(error) => Err(CopyProblem::OutOfReach(error.to_string())),
    }
}
