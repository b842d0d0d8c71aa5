//! Notes, beside a file or folder, which attempt at a run made it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The attempt that made what lies at a path, 0 where none was noted.
pub(super) fn noted_attempt(path: &Path) -> u64 {
    let noted = fs::read_to_string(note_of(path)).ok();
    noted.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Notes the attempt that made what lies at a path.
pub(super) fn note_attempt(path: &Path, attempt: u64) -> io::Result<()> {
    fs::write(note_of(path), attempt.to_string())
}

/// Forgets who made what lay at a path.
pub(super) fn forget_attempt(path: &Path) -> io::Result<()> {
    match fs::remove_file(note_of(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn note_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".attempt");
    path.with_file_name(name)
}
