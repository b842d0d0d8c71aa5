//! A model in a local folder.

use std::{
    fs::{self, DirEntry, File},
    io,
    path::{Path, PathBuf},
};

use super::ArtifactError;
use crate::spec::{FileError, ModelFiles, ReadSeek};

/// Levels below the folder that are listed; a pipeline has two.
const MAX_DEPTH: usize = 4;
/// Most files of a model; beyond, the folder is something else, such as a home directory.
const MAX_FILES: usize = 10_000;
/// Most files, folders and links that are looked at for them: links can lead to the same folders
/// over and over.
const MAX_ENTRIES: usize = 50_000;

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
        let is_sign = |name: &String| name == "model_index.json" || name.ends_with("/config.json");
        let lacks = "holds no model: neither model_index.json nor a config.json";
        Self::open_with(path, is_sign, lacks)
    }

    /// Lists the folder of a judge, which is a network's own.
    pub fn open_judge(path: &Path) -> Result<Self, ArtifactError> {
        let is_sign = |name: &String| name == "config.json" || name.ends_with("/config.json");
        Self::open_with(path, is_sign, "holds no judge: no config.json")
    }

    /// Lists a folder that holds a sign of what it is.
    fn open_with(
        path: &Path,
        is_sign: impl Fn(&String) -> bool,
        lacks: &str,
    ) -> Result<Self, ArtifactError> {
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
        let mut listing = Listing::default();
        listing.list(path, "")?;
        let names = listing.names;
        if !names.iter().any(is_sign) {
            return Err(not_a_model(lacks));
        }
        Ok(Self::listed(path.display().to_string(), path.to_owned(), names))
    }

    /// A folder whose files are known, under a name of the caller's: nothing is read.
    pub fn listed(location: String, root: PathBuf, mut names: Vec<String>) -> Self {
        names.sort();
        Self { location, root, names }
    }
}

/// A walk through a folder and what its links lead to.
#[derive(Debug, Default)]
struct Listing {
    names: Vec<String>,
    /// Entries that were looked at.
    seen: usize,
    /// The folders that the walk is in, by their paths without links.
    above: Vec<PathBuf>,
}

impl Listing {
    fn list(&mut self, folder: &Path, prefix: &str) -> Result<(), ArtifactError> {
        let unreadable = |source| ArtifactError::Unreadable { path: folder.to_owned(), source };
        let real = fs::canonicalize(folder).map_err(unreadable)?;
        // A link to a folder above brings nothing that is not listed already.
        if self.above.contains(&real) {
            return Ok(());
        }
        self.above.push(real);
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            self.add(&entry.map_err(unreadable)?, prefix)?;
            if self.names.len() > MAX_FILES || self.seen > MAX_ENTRIES {
                return Err(ArtifactError::NotAModel {
                    path: folder.to_owned(),
                    message: format!(
                        "holds more than {MAX_FILES} files, or {MAX_ENTRIES} files, folders and \
                         links, which no model does"
                    ),
                });
            }
        }
        self.above.pop();
        Ok(())
    }

    fn add(&mut self, entry: &DirEntry, prefix: &str) -> Result<(), ArtifactError> {
        self.seen += 1;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            return Err(ArtifactError::NotAModel {
                path: entry.path(),
                message: "has a name that is not UTF-8".to_owned(),
            });
        };
        if name.starts_with('.') {
            return Ok(());
        }
        let relative = format!("{prefix}{name}");
        match fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_dir() => {
                if self.above.len() <= MAX_DEPTH {
                    self.list(&entry.path(), &format!("{relative}/"))?;
                }
            }
            Ok(metadata) if metadata.is_file() => self.names.push(relative),
            // Opening a pipe or a device could block.
            Ok(_) => {}
            // An interrupted download leaves a broken link behind; listed, so that the error of a
            // missing file names it.
            Err(_) => self.names.push(relative),
        }
        Ok(())
    }
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

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder with a model's index and so many links to it.
    fn folder_with_links(links: usize, target: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("model_index.json"), "{}").unwrap();
        for link in 0..links {
            symlink(target, folder.path().join(format!("l{link}"))).unwrap();
        }
        folder
    }

    #[test]
    fn links_to_a_folder_above_bring_nothing() {
        let folder = folder_with_links(60, ".");
        let listed = ModelFolder::open(folder.path()).unwrap();
        assert_eq!(listed.names(), ["model_index.json"]);
    }

    #[test]
    fn a_link_to_another_folder_is_followed() {
        let other = folder_with_links(0, ".");
        let folder = folder_with_links(2, other.path().to_str().unwrap());
        let listed = ModelFolder::open(folder.path()).unwrap();
        let expected = ["l0/model_index.json", "l1/model_index.json", "model_index.json"];
        assert_eq!(listed.names(), expected);
    }

    #[test]
    fn links_that_multiply_folders_without_files_come_to_an_end() {
        // Each folder links sixty times to the next: 60⁴ ways to nothing.
        let root = folder_with_links(0, ".");
        let level = |depth: usize| root.path().join(format!("level-{depth}"));
        fs::create_dir(level(5)).unwrap();
        for depth in 0..5 {
            fs::create_dir(level(depth)).unwrap();
            for link in 0..60 {
                symlink(level(depth + 1), level(depth).join(format!("l{link}"))).unwrap();
            }
        }
        let error = ModelFolder::open(root.path()).unwrap_err().to_string();
        assert!(error.contains("50000 files, folders and links"), "{error}");
    }
}
