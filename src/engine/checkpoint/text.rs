//! The text files of a model folder, read with a bound.

use std::io::Read;

use crate::{
    engine::EngineError,
    spec::{FileError, ModelFiles},
};

/// Far above any vocabulary or index of shards, far below what would hurt.
const MAX_BYTES: u64 = 64 << 20;

/// A whole text file of the folder.
pub fn read_text(files: &dyn ModelFiles, name: &str) -> Result<String, EngineError> {
    let file = || format!("{}/{name}", files.location());
    let (reader, length) = files.open(name)?;
    if length > MAX_BYTES {
        let message = format!("has {length} bytes, the limit is {MAX_BYTES}");
        return Err(EngineError::Config { file: file(), message });
    }
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES).read_to_end(&mut bytes).map_err(|source| FileError::Unreadable {
        location: files.location().to_owned(),
        name: name.to_owned(),
        source,
    })?;
    String::from_utf8(bytes).map_err(|error| EngineError::Config {
        file: file(),
        message: format!("is not UTF-8 text: {error}; fetch it again"),
    })
}
