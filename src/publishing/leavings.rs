//! Notes where a publication writes to, in a file beside the result: the worker that cleans up
//! after the job may know nothing else of it.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

/// The note, beside the result folder.
const OUTPUT: &str = "output.json";

/// The note's content.
#[derive(Debug, Serialize, Deserialize)]
struct Output {
    /// The job's folder in the output, a URL.
    folder: String,
}

/// Notes the job's folder in the output, before the first file goes there.
pub(super) fn note(result_folder: &Path, output_folder: &str) -> io::Result<()> {
    let output = Output { folder: output_folder.to_owned() };
    fs::write(result_folder.with_file_name(OUTPUT), serde_json::to_vec(&output)?)
}

/// The folder that was noted, which must be the job's own: the last part of both is its name.
pub(super) fn noted(result_folder: &Path) -> Option<String> {
    let bytes = fs::read(result_folder.with_file_name(OUTPUT)).ok()?;
    let output: Output = serde_json::from_slice(&bytes).ok()?;
    let job = result_folder.parent()?.file_name()?.to_str()?;
    let is_its_own = output.folder.rsplit('/').next() == Some(job);
    is_its_own.then_some(output.folder)
}

/// Forgets the note: nothing is there to be cleared.
pub(super) fn forget(result_folder: &Path) {
    match fs::remove_file(result_folder.with_file_name(OUTPUT)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(%error, "a note of where a result went stays");
        }
        _ => {}
    }
}
