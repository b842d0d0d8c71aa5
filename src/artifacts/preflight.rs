//! Finds what would stop a result from being written, before the hours of work that it takes: files
//! of the base that cannot be read, and a disk without room.

use std::{io, path::Path};

use super::{ArtifactError, diffusers::PipelineFiles};
use crate::spec::{FileError, ModelFiles};

/// The base's files that a whole checkpoint copies.
pub fn files_to_copy(base: &dyn ModelFiles) -> Result<Vec<String>, ArtifactError> {
    let files = PipelineFiles::of(base)?;
    Ok(files.copied.into_iter().map(|file| file.from).collect())
}

/// Opens each of these files and reads its first byte; gives their bytes together.
///
/// # Errors
///
/// Names the first file that cannot be opened or read.
pub fn check_readable(base: &dyn ModelFiles, names: &[String]) -> Result<u64, ArtifactError> {
    let mut bytes: u64 = 0;
    for name in names {
        let (mut reader, length) = base.open(name)?;
        let mut first = [0; 1];
        if length > 0 {
            reader.read_exact(&mut first).map_err(|source| {
                ArtifactError::File(FileError::Unreadable {
                    location: base.location().to_owned(),
                    name: name.clone(),
                    source,
                })
            })?;
        }
        bytes = bytes.saturating_add(length);
    }
    Ok(bytes)
}

/// Compares what a result takes, in bytes, with what is free on the disk of a folder that exists.
/// `target` is how the error names the result. Where the system does not say what is free, nothing
/// is compared.
///
/// # Errors
///
/// [`ArtifactError::TooLittleRoom`] with both figures.
pub fn check_room(folder: &Path, target: &Path, needed: u64) -> Result<(), ArtifactError> {
    check_free(free_bytes(folder), target, needed)
}

fn check_free(free: Option<u64>, target: &Path, needed: u64) -> Result<(), ArtifactError> {
    match free {
        Some(free) if free < needed => {
            Err(ArtifactError::TooLittleRoom { path: target.to_owned(), needed, free })
        }
        _ => Ok(()),
    }
}

/// Bytes that a user without privileges may still write; none where the system does not say.
#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = loop {
        match rustix::fs::statvfs(folder) {
            Err(error) if io::Error::from(error).kind() == io::ErrorKind::Interrupted => {}
            other => break other.ok()?,
        }
    };
    // Some network disks have no size, and are not full for that.
    (disk.f_blocks > 0).then(|| disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::{ModelFolder, open_model};

    #[test]
    fn a_whole_base_is_readable_and_measured() {
        let base = open_model("builtin:emoji-canvas").unwrap();
        let names = files_to_copy(base.as_ref()).unwrap();
        assert!(names.iter().any(|name| name == "model_index.json"));
        assert!(!names.iter().any(|name| name == "unet/diffusion_pytorch_model.safetensors"));
        let bytes = check_readable(base.as_ref(), &names).unwrap();
        let sizes = names.iter().map(|name| base.open(name).unwrap().1);
        assert_eq!(bytes, sizes.sum::<u64>());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model_index.json"), "{}").unwrap();
        std::fs::write(folder.path().join("LICENSE"), "").unwrap();
        let open = || ModelFolder::open(folder.path()).unwrap();
        assert_eq!(check_readable(&open(), &files_to_copy(&open()).unwrap()).unwrap(), 2);
        let link = |name: &str| {
            std::fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
            std::os::unix::fs::symlink("nowhere", folder.path().join(name)).unwrap();
        };
        // In a part that the pipeline goes without, it hinders nothing.
        link("safety_checker/model.safetensors");
        assert_eq!(check_readable(&open(), &files_to_copy(&open()).unwrap()).unwrap(), 2);
        link("vae/config.json");
        let error = check_readable(&open(), &files_to_copy(&open()).unwrap()).unwrap_err();
        assert!(error.to_string().contains("vae/config.json"), "{error}");
    }

    #[test]
    fn both_figures_and_the_place_are_named() {
        let target = Path::new("some/result");
        check_free(Some(5 << 20), target, 5 << 20).unwrap();
        check_free(None, target, u64::MAX).unwrap();
        let error = check_free(Some(6 << 20), target, 70 << 20).unwrap_err().to_string();
        for part in ["70.0 MiB", "6.0 MiB", "some/result"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_disk_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        check_room(folder.path(), folder.path(), 1).unwrap();
        let error = check_room(folder.path(), folder.path(), u64::MAX).unwrap_err();
        assert!(matches!(error, ArtifactError::TooLittleRoom { free, .. } if free > 0), "{error}");
        assert_eq!(free_bytes(&folder.path().join("nothing")), None);
    }
}
