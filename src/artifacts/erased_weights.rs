//! The proof, before a result is committed, that no file of it brings back what was erased.

use std::{
    fs::{self, File},
    io::{self, BufReader},
    path::{Path, PathBuf},
};

use aho_corasick::{AhoCorasick, AhoCorasickKind};

use super::ArtifactError;

/// Searches every file of a folder for stretches of the base's weights that the edit changed.
///
/// `stretches` are runs of consecutive values as files hold them, in each number format; they are
/// found at any place in a file of any name and format that does not compress what it holds, such
/// as safetensors, and the archives that `torch.save` writes. `edited` are the files that hold the
/// edited weights, as paths with `/` relative to the folder: there, single runs of values may have
/// stayed as they were.
///
/// Fails with [`ArtifactError::HoldsErasedWeights`] at the first file that holds one.
pub fn refuse_erased_weights(
    folder: &Path,
    stretches: &[Vec<u8>],
    edited: &[&str],
) -> Result<(), ArtifactError> {
    if stretches.is_empty() {
        return Ok(());
    }
    let search = AhoCorasick::builder()
        .kind(Some(AhoCorasickKind::ContiguousNFA))
        .build(stretches)
        .map_err(|error| unreadable(folder, io::Error::other(error)))?;
    let mut files = Vec::new();
    list(folder, &mut files)?;
    let edited: Vec<PathBuf> = edited.iter().map(|name| folder.join(name)).collect();
    for path in files.into_iter().filter(|path| !edited.contains(path)) {
        let file = File::open(&path).map_err(|source| unreadable(&path, source))?;
        match search.stream_find_iter(BufReader::new(file)).next() {
            None => {}
            Some(Ok(_)) => return Err(ArtifactError::HoldsErasedWeights { path }),
            Some(Err(source)) => return Err(unreadable(&path, source)),
        }
    }
    Ok(())
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), ArtifactError> {
    let failed = |source| unreadable(folder, source);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            list(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn unreadable(path: &Path, source: io::Error) -> ArtifactError {
    ArtifactError::Unreadable { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_is_found_in_any_file_but_the_edited_ones() {
        let folder = tempfile::tempdir().unwrap();
        let stretch: Vec<u8> = (0..64).collect();
        let hidden = [vec![7; 100_003], stretch.clone(), vec![9; 50]].concat();
        for name in ["unet/edited.safetensors", "vae/config.json"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, if name.starts_with("unet") { &hidden[..] } else { b"{}" }).unwrap();
        }
        let stretches = [stretch];
        let check = |edited: &[&str]| refuse_erased_weights(folder.path(), &stretches, edited);
        check(&["unet/edited.safetensors"]).unwrap();
        let error = check(&[]).unwrap_err().to_string();
        assert!(error.contains("edited.safetensors") && error.contains("nothing was"), "{error}");
        refuse_erased_weights(folder.path(), &[], &[]).unwrap();
    }
}
