//! The built-in model with some of its files changed or left out.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

use std::{collections::BTreeMap, io::Cursor};

use keystep::{
    artifacts::open_model,
    engine::CandleEngine,
    spec::{FileError, ModelFiles, ReadSeek},
};
use serde_json::{Value, json};

#[derive(Debug)]
pub(crate) struct AlteredModel {
    builtin: Box<dyn ModelFiles>,
    names: Vec<String>,
    changed: BTreeMap<String, Vec<u8>>,
}

impl AlteredModel {
    /// As it is.
    pub(crate) fn builtin() -> Self {
        let builtin = open_model("builtin:emoji-canvas").unwrap();
        Self { names: builtin.names().to_vec(), builtin, changed: BTreeMap::new() }
    }

    /// For latents of a quarter of the pixels: runs take a third of the time, and are of as many
    /// steps, tensors and saves.
    pub(crate) fn small() -> Self {
        Self::builtin().with_json("unet/config.json", |config| config["sample_size"] = json!(8))
    }

    /// Without the files of some prefix.
    pub(crate) fn without(mut self, prefix: &str) -> Self {
        self.names.retain(|name| !name.starts_with(prefix));
        self
    }

    /// With the bytes of a file changed.
    pub(crate) fn with(mut self, name: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Self {
        let mut bytes = Vec::new();
        self.open(name).unwrap().0.read_to_end(&mut bytes).unwrap();
        self.changed.insert(name.to_owned(), change(bytes));
        self
    }

    /// With the fields of a JSON file changed.
    pub(crate) fn with_json(self, name: &str, change: impl FnOnce(&mut Value)) -> Self {
        self.with(name, |bytes| {
            let mut value = serde_json::from_slice(&bytes).unwrap();
            change(&mut value);
            value.to_string().into_bytes()
        })
    }

    pub(crate) fn load(&self) -> CandleEngine {
        CandleEngine::load(self, None).unwrap()
    }
}

impl ModelFiles for AlteredModel {
    fn location(&self) -> &'static str {
        "altered"
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError> {
        if !self.names.iter().any(|known| known == name) {
            return Err(FileError::Missing { location: "altered".into(), name: name.into() });
        }
        match self.changed.get(name) {
            Some(bytes) => Ok((Box::new(Cursor::new(bytes.clone())), bytes.len() as u64)),
            None => self.builtin.open(name),
        }
    }
}
