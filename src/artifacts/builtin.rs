//! Models that are compiled into the binary, so that the whole main job runs with no download.

use std::io::Cursor;

use include_dir::{Dir, include_dir};

use super::ArtifactError;
use crate::spec::{FileError, ModelFiles, ReadSeek};

static EMOJI_CANVAS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/assets/emoji-canvas/model");

/// Names and folders of all built-in models.
static MODELS: [(&str, &Dir<'static>); 1] = [("emoji-canvas", &EMOJI_CANVAS)];

/// A model within the binary.
#[derive(Debug)]
pub struct BuiltinModel {
    location: String,
    names: Vec<String>,
    folder: &'static Dir<'static>,
}

impl BuiltinModel {
    /// What precedes a built-in model's name.
    pub const SCHEME: &'static str = "builtin:";

    /// The model of that name, without `builtin:`.
    pub fn open(name: &str) -> Result<Self, ArtifactError> {
        let Some((_, folder)) = MODELS.iter().find(|(known, _)| *known == name) else {
            let known: Vec<_> =
                MODELS.iter().map(|(known, _)| format!("{}{known}", Self::SCHEME)).collect();
            return Err(ArtifactError::UnknownBuiltin {
                name: name.to_owned(),
                known: known.join(", "),
            });
        };
        let mut names = Vec::new();
        collect(folder, &mut names);
        names.sort();
        Ok(Self { location: format!("{}{name}", Self::SCHEME), names, folder })
    }
}

fn collect(folder: &Dir<'_>, names: &mut Vec<String>) {
    for file in folder.files() {
        let parts: Vec<_> =
            file.path().components().map(|part| part.as_os_str().to_string_lossy()).collect();
        names.push(parts.join("/"));
    }
    folder.dirs().for_each(|inner| collect(inner, names));
}

impl ModelFiles for BuiltinModel {
    fn location(&self) -> &str {
        &self.location
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError> {
        let file = self.folder.get_file(name).ok_or_else(|| FileError::Missing {
            location: self.location.clone(),
            name: name.to_owned(),
        })?;
        let contents: &'static [u8] = file.contents();
        Ok((Box::new(Cursor::new(contents)), contents.len() as u64))
    }
}
