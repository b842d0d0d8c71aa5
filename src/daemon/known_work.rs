//! Whether the store knows the work that lies in the data folder: one that does not was lost or
//! replaced, and going on with it would remove what is left of its jobs.

use std::{fs, path::Path};

use super::{StartError, data_folder::DataFolder};
use crate::jobs::{JobId, JobStore, SqliteStore};

/// Refuses a store that is new in a folder that had one, and one that knows none of the jobs whose
/// work was saved here.
pub(super) async fn check(folder: &DataFolder, store: &SqliteStore) -> Result<(), StartError> {
    let unknown = |jobs: Vec<JobId>| StartError::StoreLost {
        path: folder.path().to_owned(),
        jobs: jobs.len(),
        example: jobs.first().map_or_else(|| "none".to_owned(), ToString::to_string),
    };
    let saved = saved_jobs(&folder.path().join("jobs"));
    if store.is_new() && folder.was_used() {
        return Err(unknown(saved));
    }
    for id in &saved {
        // What cannot be read is no reason to take it for unknown.
        if !matches!(store.get(*id).await, Ok(None)) {
            return Ok(());
        }
    }
    if saved.is_empty() { Ok(()) } else { Err(unknown(saved)) }
}

fn saved_jobs(folder: &Path) -> Vec<JobId> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.parse().ok()).collect()
}
