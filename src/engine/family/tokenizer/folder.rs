//! The tokenizer's files, each read whole within a bound.

use serde_json::{Map, Value};

use crate::{
    engine::{EngineError, checkpoint::read_text, python_json},
    spec::{FileError, ModelFiles},
};

/// The folder that is read, with a guard on the size of every file.
pub(super) struct Folder<'a> {
    pub(super) files: &'a dyn ModelFiles,
    /// Relative to the model's folder; empty for that itself.
    pub(super) path: &'a str,
}

impl Folder<'_> {
    pub(super) fn shown(&self, name: &str) -> String {
        format!("{}/{}", self.files.location(), self.name(name))
    }

    fn name(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) }
    }

    fn text(&self, name: &str) -> Result<Option<String>, EngineError> {
        match read_text(self.files, &self.name(name)) {
            Err(EngineError::File(FileError::Missing { .. })) => Ok(None),
            read => read.map(Some),
        }
    }

    pub(super) fn required_text(&self, name: &str) -> Result<String, EngineError> {
        self.text(name)?.ok_or_else(|| {
            FileError::Missing { location: self.files.location().to_owned(), name: self.name(name) }
                .into()
        })
    }

    pub(super) fn object(&self, name: &str) -> Result<Option<Map<String, Value>>, EngineError> {
        self.text(name)?.map(|text| self.parse(name, &text)).transpose()
    }

    pub(super) fn required_object(&self, name: &str) -> Result<Map<String, Value>, EngineError> {
        let text = self.required_text(name)?;
        self.parse(name, &text)
    }

    fn parse(&self, name: &str, text: &str) -> Result<Map<String, Value>, EngineError> {
        python_json::read(text)
            .map_err(|error| refuse(&self.shown(name), format!("is not a JSON object: {error}")))
    }
}

pub(super) fn refuse(file: &str, message: String) -> EngineError {
    EngineError::Config { file: file.to_owned(), message }
}
