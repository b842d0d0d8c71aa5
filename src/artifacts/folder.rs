//! A model in a local folder.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::ArtifactError;
use crate::spec::{FileError, ModelFiles, ReadSeek};

/// Levels below the folder that are listed; a pipeline has two.
const MAX_DEPTH: usize = 4;
/// Most files of a model; beyond, the folder is something else, such as a home directory.
const MAX_FILES: usize = 10_000;

/// The files of a local folder.
///
/// Links are followed, since the cache of Hugging Face consists of them; hidden files are not part
/// of a model. Only what is listed at the start can be opened, so that no name leads outside.
#[derive(Debug)]
pub struct ModelFolder {
    location: String,
    root: PathBuf,
    names: Vec<String>,
}

impl ModelFolder {
    /// Lists a folder.
    pub fn open(path: &Path) -> Result<Self, ArtifactError> {
        let not_a_model = |message: &str| ArtifactError::NotAModel {
            path: path.to_owned(),
            message: message.to_owned(),
        };
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(not_a_model("is a file, not a folder")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(not_a_model(
                    "does not exist (a Hugging Face name must be downloaded first, such as with `hf download NAME --local-dir FOLDER`)",
                ));
            }
            Err(source) => {
                return Err(ArtifactError::Unreadable { path: path.to_owned(), source });
            }
        }
        let mut names = Vec::new();
        list(path, "", 0, &mut names)?;
        if !names.iter().any(|name| name == "model_index.json" || name.ends_with("/config.json")) {
            return Err(not_a_model("holds no model: neither model_index.json nor a config.json"));
        }
        Ok(Self::listed(path.display().to_string(), path.to_owned(), names))
    }

    /// A folder whose files are known, under a name of the caller's: nothing is read.
    pub fn listed(location: String, root: PathBuf, mut names: Vec<String>) -> Self {
        names.sort();
        Self { location, root, names }
    }
}

fn list(
    folder: &Path,
    prefix: &str,
    depth: usize,
    names: &mut Vec<String>,
) -> Result<(), ArtifactError> {
    let unreadable = |source| ArtifactError::Unreadable { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            return Err(ArtifactError::NotAModel {
                path: entry.path(),
                message: "has a name that is not UTF-8".to_owned(),
            });
        };
        if name.starts_with('.') {
            continue;
        }
        let relative = format!("{prefix}{name}");
        match fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_dir() => {
                // The limit also ends a loop of links.
                if depth < MAX_DEPTH {
                    list(&entry.path(), &format!("{relative}/"), depth + 1, names)?;
                }
            }
            Ok(metadata) if metadata.is_file() => names.push(relative),
            // A pipe or a device would block whoever opens it.
            Ok(_) => {}
            // A broken link is what an interrupted download leaves behind; listed, so that whoever
            // needs the file is told of it by name.
            Err(_) => names.push(relative),
        }
        if names.len() > MAX_FILES {
            return Err(ArtifactError::NotAModel {
                path: folder.to_owned(),
                message: format!("holds more than {MAX_FILES} files, which no model does"),
            });
        }
    }
    Ok(())
}

impl ModelFiles for ModelFolder {
    fn location(&self) -> &str {
        &self.location
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError> {
        if self.names.binary_search_by(|known| known.as_str().cmp(name)).is_err() {
            return Err(FileError::Missing {
                location: self.location.clone(),
                name: name.to_owned(),
            });
        }
        let open = || -> io::Result<(File, u64)> {
            let file = File::open(self.root.join(name))?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        let (file, length) = open().map_err(|source| FileError::Unreadable {
            location: self.location.clone(),
            name: name.to_owned(),
            source,
        })?;
        Ok((Box::new(file), length))
    }
}
