//! A base model in a local folder, which is read in place.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    time::SystemTime,
};

use url::Url;

use crate::{
    artifacts::{
        ArtifactError, ModelFolder,
        diffusers::PipelineFiles,
        model_digest::{is_model_file, model_digest, read_model_file},
    },
    device::artifact_failure,
    jobs::{Failure, FailureReason},
    outcome::FileDigest,
    spec::ModelFiles,
};

/// Digests of files by name, with their sizes and times at the time of reading: a file is read again
/// only where one of these changed.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownDigests(HashMap<String, (Stamp, FileDigest)>);

/// What differs where a file of the same name was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: SystemTime,
}

/// The present contents of a folder.
#[derive(Debug)]
pub(super) struct ReadFolder {
    /// The digest of all its files.
    pub(super) digest: String,
    /// The files.
    pub(super) files: ModelFolder,
    /// The digests, for the next reading.
    pub(super) known: KnownDigests,
}

/// The folder of a `file://` URL; `None` for the URL of a bucket.
pub(super) fn folder_of(model: &str, url: &str) -> Result<Option<PathBuf>, Failure> {
    if !url.starts_with("file:") {
        return Ok(None);
    }
    let parsed = Url::parse(url).ok();
    parsed.and_then(|url| url.to_file_path().ok()).map(Some).ok_or_else(|| {
        let message =
            format!("the model {model} is configured at {url:?}; write file:///path/to/folder");
        Failure::new(FailureReason::ModelNotFound, message).with("model", &model).with("url", &url)
    })
}

/// Lists a folder and reads the files whose digest is not known.
pub(super) fn read_folder(path: &Path, known: &KnownDigests) -> Result<ReadFolder, Failure> {
    read(path, known).map_err(|error| artifact_failure(&error))
}

fn read(path: &Path, known: &KnownDigests) -> Result<ReadFolder, ArtifactError> {
    let files = ModelFolder::open(path)?;
    let mut now = HashMap::new();
    // What the pipeline goes without, once that is asked.
    let mut left_out: Option<HashSet<String>> = None;
    for name in files.names().iter().filter(|name| is_model_file(name)) {
        // Before it is read: a change meanwhile shows the next time.
        let stamp = stamp(&path.join(name));
        // A link that leads nowhere hinders nothing in a part that the pipeline goes without.
        if stamp.is_none() {
            if left_out.is_none() {
                left_out = Some(PipelineFiles::of(&files)?.left_out.into_iter().collect());
            }
            if left_out.as_ref().is_some_and(|left_out| left_out.contains(name)) {
                continue;
            }
        }
        let before = known.0.get(name).filter(|(before, _)| Some(*before) == stamp);
        let file = match before {
            Some((_, file)) => file.clone(),
            None => read_model_file(&files, name)?,
        };
        let stamp = stamp.unwrap_or(Stamp { size: 0, modified: SystemTime::UNIX_EPOCH });
        now.insert(name.clone(), (stamp, file));
    }
    let listed: Vec<_> = now.values().map(|(_, file)| file.clone()).collect();
    Ok(ReadFolder { digest: model_digest(&listed), files, known: KnownDigests(now) })
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp { size: metadata.len(), modified: metadata.modified().ok()? })
}

#[cfg(all(test, unix))]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_link_that_leads_nowhere_hinders_nothing_where_nobody_looks() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("model_index.json"), "{}").unwrap();
        let read = || read(folder.path(), &KnownDigests::default());
        let before = read().unwrap().digest;
        fs::create_dir(folder.path().join("safety_checker")).unwrap();
        symlink("../gone", folder.path().join("safety_checker/model.safetensors")).unwrap();
        assert_eq!(read().unwrap().digest, before);
        fs::create_dir(folder.path().join("vae")).unwrap();
        symlink("../gone", folder.path().join("vae/config.json")).unwrap();
        let error = read().unwrap_err().to_string();
        assert!(error.contains("vae/config.json"), "{error}");
    }
}
