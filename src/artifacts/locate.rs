//! Opens the model that a user names: a folder by its path, or `builtin:NAME`.

use std::path::PathBuf;

use super::{ArtifactError, BuiltinModel, ModelFolder};
use crate::spec::ModelFiles;

/// Opens a model: `builtin:NAME`, the path of a folder, or its `file://` URL.
///
/// ```
/// let files = keystep::artifacts::open_model("builtin:emoji-canvas")?;
/// assert!(files.names().contains(&"model_index.json".to_owned()));
/// # Ok::<(), keystep::artifacts::ArtifactError>(())
/// ```
pub fn open_model(location: &str) -> Result<Box<dyn ModelFiles>, ArtifactError> {
    if let Some(name) = location.strip_prefix(BuiltinModel::SCHEME) {
        return Ok(Box::new(BuiltinModel::open(name)?));
    }
    let path = match scheme(location) {
        Some("file") => file_url(location)?,
        Some(other) => {
            return Err(ArtifactError::UnsupportedScheme {
                location: location.to_owned(),
                scheme: other.to_owned(),
            });
        }
        None => PathBuf::from(location),
    };
    Ok(Box::new(ModelFolder::open(&path)?))
}

/// What stands before `://`, if it could be a scheme at all.
fn scheme(location: &str) -> Option<&str> {
    let (scheme, _) = location.split_once("://")?;
    let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    valid.then_some(scheme)
}

/// The path of `file:///path` or `file://localhost/path`.
fn file_url(location: &str) -> Result<PathBuf, ArtifactError> {
    let bad = |message: &str| ArtifactError::BadUrl {
        location: location.to_owned(),
        message: message.to_owned(),
    };
    let rest = location.strip_prefix("file://").unwrap_or(location);
    let rest = rest.strip_prefix("localhost").unwrap_or(rest);
    if !rest.starts_with('/') {
        return Err(bad("names another machine or a relative path"));
    }
    let mut bytes = Vec::with_capacity(rest.len());
    let mut left = rest.as_bytes();
    while let Some((&first, after)) = left.split_first() {
        if first == b'%' {
            let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
            // `from_str_radix` alone would let a sign pass.
            let byte = digits
                .filter(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()))
                .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                .ok_or_else(|| bad("has a % that two hexadecimal digits do not follow"))?;
            bytes.push(byte);
            left = &after[2..];
        } else {
            bytes.push(first);
            left = after;
        }
    }
    String::from_utf8(bytes).map(PathBuf::from).map_err(|_| bad("is not UTF-8 once decoded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_the_builtin_model_and_every_file_of_it() {
        let model = open_model("builtin:emoji-canvas").unwrap();
        assert_eq!(model.location(), "builtin:emoji-canvas");
        assert!(model.names().is_sorted());
        for part in ["model_index.json", "unet/config.json", "clip/model.safetensors"] {
            assert!(model.names().iter().any(|name| name == part), "{part}");
        }
        for name in model.names() {
            let (mut reader, length) = model.open(name).unwrap();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, length, "{name}");
        }
        assert!(model.open("../../Cargo.toml").is_err());
    }

    #[test]
    fn an_unknown_builtin_lists_the_known_ones() {
        let error = open_model("builtin:sdxl").unwrap_err().to_string();
        assert!(error.contains("\"sdxl\"") && error.contains("builtin:emoji-canvas"), "{error}");
    }

    #[test]
    fn other_schemes_name_what_is_supported() {
        for location in ["s3://bucket/model", "https://example.org/model", "hf://a/b"] {
            let error = open_model(location).unwrap_err().to_string();
            assert!(error.contains(location) && error.contains("file:// URL"), "{error}");
        }
    }

    #[test]
    fn a_folder_opens_by_path_and_by_url() {
        let folder = tempfile::Builder::new().prefix("a b").tempdir().unwrap();
        std::fs::write(folder.path().join("model_index.json"), "{}").unwrap();
        let path = folder.path().to_str().unwrap();
        assert_eq!(open_model(path).unwrap().names(), ["model_index.json"]);
        let url = format!("file://{}", path.replace(' ', "%20"));
        assert_eq!(open_model(&url).unwrap().names(), ["model_index.json"]);
        let with_host = url.replacen("file://", "file://localhost", 1);
        assert_eq!(open_model(&with_host).unwrap().names(), ["model_index.json"]);
    }

    #[test]
    fn bad_urls_are_explained() {
        for url in ["file://elsewhere/model", "file:///a%2", "file:///a%+1b", "file:///a%ff"] {
            let error = open_model(url).unwrap_err().to_string();
            assert!(error.contains(url) && error.contains("file:///path"), "{error}");
        }
    }

    #[test]
    fn a_missing_folder_and_a_file_are_explained() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("nowhere");
        let error = open_model(missing.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("nowhere") && error.contains("hf download"), "{error}");
        let file = folder.path().join("model.ckpt");
        std::fs::write(&file, "x").unwrap();
        let error = open_model(file.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("model.ckpt is a file") && error.contains("model_index"), "{error}");
        let error = open_model(folder.path().to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("holds no model"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_hidden_files_are_not_listed_and_loops_end() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("snapshot");
        std::fs::create_dir_all(root.join("unet")).unwrap();
        std::fs::write(folder.path().join("blob"), "weights").unwrap();
        std::fs::write(root.join("model_index.json"), "{}").unwrap();
        std::fs::write(root.join(".gitattributes"), "").unwrap();
        let link = std::os::unix::fs::symlink::<&str, PathBuf>;
        link("../../blob", root.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
        link("../../gone", root.join("unet/broken.safetensors")).unwrap();
        link("..", root.join("loop")).unwrap();
        let model = open_model(root.to_str().unwrap()).unwrap();
        assert!(!model.names().iter().any(|name| name.contains("gitattributes")));
        assert_eq!(model.open("unet/diffusion_pytorch_model.safetensors").unwrap().1, 7);
        let error = model.open("unet/broken.safetensors").map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("cannot read") && error.contains("broken.safetensors"), "{error}");
    }
}
