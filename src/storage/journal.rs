//! Records which parts of which uploads were sent, in a small file.
//!
//! The journal only saves work: where it is lost or cannot be written, parts are sent again.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    Content,
    content::{name_of, on_disk},
};

/// What a journal is called, in the folder of the work whose uploads it records.
pub const JOURNAL: &str = "uploads.json";

/// Uploads that are under way, by the object's URL.
#[derive(Debug, Default)]
pub(super) struct Journal {
    path: Option<PathBuf>,
    uploads: BTreeMap<String, Upload>,
}

/// One upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Upload {
    /// The store's name for it; empty where the store needs none.
    pub(super) id: String,
    pub(super) size: u64,
    pub(super) sha256: String,
    pub(super) part_bytes: u64,
    /// The store's names for the parts, `None` for one that was not sent yet.
    pub(super) parts: Vec<Option<String>>,
}

impl Upload {
    /// Whether the upload is of this content, in parts of this size.
    pub(super) fn is_of(&self, content: &Content, part_bytes: u64) -> bool {
        self.size == content.size
            && self.sha256 == content.sha256
            && self.part_bytes == part_bytes
            && self.parts.len() as u64 == content.size.div_ceil(part_bytes.max(1))
    }
}

impl Journal {
    /// Reads the file; the journal is empty where there is none, or where it cannot be read.
    pub(super) async fn load(path: Option<PathBuf>) -> Self {
        let Some(path) = path else { return Self::default() };
        let from = path.clone();
        let read = on_disk(name_of(&path), move || fs::read(from)).await;
        let uploads = read.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self { path: Some(path), uploads: uploads.unwrap_or_default() }
    }

    pub(super) fn get(&self, url: &Url) -> Option<&Upload> {
        self.uploads.get(url.as_str())
    }

    pub(super) fn set(&mut self, url: &Url, upload: Upload) {
        self.uploads.insert(url.to_string(), upload);
    }

    pub(super) fn remove(&mut self, url: &Url) -> Option<Upload> {
        self.uploads.remove(url.as_str())
    }

    /// Every upload, by its object's URL.
    pub(super) fn into_uploads(self) -> BTreeMap<String, Upload> {
        self.uploads
    }

    /// Replaces the file; the old one stays until the new one is whole.
    pub(super) async fn save(&self) {
        let Some(path) = self.path.clone() else { return };
        let Ok(bytes) = serde_json::to_vec(&self.uploads) else { return };
        let is_empty = self.uploads.is_empty();
        let name = name_of(&path);
        let saved = on_disk(name, move || {
            if is_empty {
                return match fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                };
            }
            let partial = path.with_extension("partial");
            let mut file = File::create(&partial)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&partial, &path)
        })
        .await;
        if let Err(error) = saved {
            tracing::warn!(%error, "sent parts are not remembered; an upload may start over");
        }
    }
}
