//! The digest of a whole model: one name for its bytes, wherever the folder lies.

use std::fmt::Write as _;

use super::{
    ArtifactError,
    digest::{digest_bytes, digest_reader},
};
use crate::{
    outcome::FileDigest,
    spec::{FileError, ModelFiles},
};

/// Whether a file is part of a diffusers folder: configs, vocabularies and safetensors.
///
/// Pickled weights are none, since reading them runs what they bring; nor are hidden files, and
/// whole checkpoints beside the components' folders.
pub fn is_model_file(name: &str) -> bool {
    let is_hidden = name.split('/').any(|part| part.starts_with('.'));
    let is_odd = name.chars().any(char::is_control);
    let is_in_component = name.contains('/');
    !is_hidden
        && !is_odd
        && match name.rsplit_once('.') {
            Some((_, "json" | "txt")) => true,
            Some((_, "safetensors")) => is_in_component,
            _ => false,
        }
}

/// Reads every file of a model that [`is_model_file`].
pub fn read_model_files(files: &dyn ModelFiles) -> Result<Vec<FileDigest>, ArtifactError> {
    let names = files.names().iter().filter(|name| is_model_file(name));
    names.map(|name| read_model_file(files, name)).collect()
}

/// Reads one file of a model to its end.
pub fn read_model_file(files: &dyn ModelFiles, name: &str) -> Result<FileDigest, ArtifactError> {
    let (mut reader, size) = files.open(name)?;
    let sha256 = digest_reader(&mut reader).map_err(|source| {
        ArtifactError::File(FileError::Unreadable {
            location: files.location().to_owned(),
            name: name.to_owned(),
            source,
        })
    })?;
    Ok(FileDigest { name: name.to_owned(), size, sha256 })
}

/// The digest of a model, in hexadecimal: SHA-256 over one line a file, `SHA256 SIZE NAME`, in
/// order of the names' bytes, of those files for which [`is_model_file`] holds. The same model has
/// the same digest in a local folder, in a bucket and in the binary.
pub fn model_digest(files: &[FileDigest]) -> String {
    let mut sorted: Vec<_> = files.iter().filter(|file| is_model_file(&file.name)).collect();
    sorted.sort_by(|one, other| one.name.cmp(&other.name));
    let mut list = String::new();
    for file in sorted {
        // Writing to a string cannot fail.
        let _ = writeln!(list, "{} {} {}", file.sha256, file.size, file.name);
    }
    digest_bytes(list.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, size: u64) -> FileDigest {
        FileDigest { name: name.to_owned(), size, sha256: "00".repeat(32) }
    }

    #[test]
    fn only_what_a_diffusers_folder_needs_is_part_of_it() {
        for name in ["model_index.json", "unet/a.safetensors", "tokenizer/merges.txt"] {
            assert!(is_model_file(name), "{name}");
        }
        for name in [
            "v1-5-pruned.safetensors", "unet/model.bin", "model.ckpt", ".git/config.json",
            "unet/.cache.json", "README.md", "LICENSE", "a\nb.json",
        ] {
            assert!(!is_model_file(name), "{name}");
        }
    }

    #[test]
    fn the_order_of_files_is_no_part_of_the_digest_and_all_else_is() {
        let (one, other) = (file("a.json", 1), file("b.json", 2));
        let digest = model_digest(&[one.clone(), other.clone()]);
        assert_eq!(digest, model_digest(&[other.clone(), one.clone()]));
        // A card goes along and makes no other model of it.
        assert_eq!(digest, model_digest(&[file("README.md", 9), one.clone(), other]));
        assert_ne!(digest, model_digest(std::slice::from_ref(&one)));
        assert_ne!(digest, model_digest(&[one, file("b.json", 3)]));
    }
}
