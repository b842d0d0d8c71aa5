//! A part of a run's state as bytes: safetensors, with everything that is no tensor as JSON in the
//! metadata.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use candle_core::{Device, DeviceLocation, Tensor};
use safetensors::Dtype;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::{
    engine::{
        EngineError, Pipeline, StateError, StatePart,
        checkpoint::{SavedFile, write_safetensors},
    },
    spec::{ReadSeek, UnlearnSpec},
};

/// Changes with every change of what the parts hold.
const FORMAT: &str = "1";
/// Metadata keys beside the identity's.
const PART: &str = "keystep.part";
const BODY: &str = "keystep.body";

/// For which run a part was written: every field must be the same for it to be used.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Identity(BTreeMap<&'static str, String>);

impl Identity {
    /// Of an erasure on a model.
    pub(in crate::engine) fn of(
        pipeline: &Pipeline,
        spec: &UnlearnSpec,
    ) -> Result<Self, EngineError> {
        // Field order is the structs', so that the same spec gives the same text.
        let spec = serde_json::to_vec(spec).map_err(|error| StateError::Unwritable {
            file: StatePart::Training.file_name().to_owned(),
            source: error.into(),
        })?;
        let device = match pipeline.device.location() {
            DeviceLocation::Cpu => "cpu",
            DeviceLocation::Cuda { .. } => "cuda",
            DeviceLocation::Metal { .. } => "metal",
        };
        Ok(Self(BTreeMap::from([
            ("keystep.format", FORMAT.to_owned()),
            // Another version may draw or sum in another order.
            ("keystep.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("keystep.spec", hex::encode(Sha256::digest(spec))),
            ("keystep.model", pipeline.unet_tensors.digest()?),
            ("keystep.device", device.to_owned()),
            ("keystep.compute_type", pipeline.unet_dtype.as_str().to_owned()),
        ])))
    }

    /// Writes a part.
    pub(super) fn write(
        &self,
        part: StatePart,
        contents: &Contents<'_>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let mut metadata: BTreeMap<_, _> =
            self.0.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        metadata.insert(PART.to_owned(), part.file_name().to_owned());
        metadata.insert(BODY.to_owned(), (contents.body)()?);
        Ok(write_safetensors(&contents.tensors, &metadata, out)?)
    }
}

/// What a part holds.
pub(in crate::engine) struct Contents<'a> {
    /// Made when it is written.
    body: Box<dyn Fn() -> serde_json::Result<String> + 'a>,
    /// Handles, not copies.
    tensors: BTreeMap<String, (Tensor, Dtype)>,
}

impl<'a> Contents<'a> {
    /// Everything that is no tensor, and the tensors, which must be f32.
    pub(in crate::engine) fn new(
        body: &'a impl Serialize,
        tensors: impl IntoIterator<Item = (String, Tensor)>,
    ) -> Self {
        let tensors = tensors.into_iter().map(|(name, tensor)| (name, (tensor, Dtype::F32)));
        Self { body: Box::new(move || serde_json::to_string(body)), tensors: tensors.collect() }
    }
}

/// A part that was found; the error says what is wrong with it.
pub(in crate::engine) struct SavedPart {
    file: SavedFile,
}

impl SavedPart {
    /// Reads the header and refuses a part of another run.
    pub(super) fn open(
        identity: &Identity,
        part: StatePart,
        reader: Box<dyn ReadSeek>,
        length: u64,
    ) -> Result<Self, String> {
        let file = SavedFile::open(reader, length)?;
        let wanted = identity.0.iter().map(|(key, value)| (*key, value.as_str()));
        for (key, wanted) in wanted.chain([(PART, part.file_name())]) {
            match file.metadata().get(key) {
                Some(found) if found == wanted => {}
                Some(found) => return Err(format!("its {key} is {found:?}, not {wanted:?}")),
                None => return Err(format!("it does not say its {key}")),
            }
        }
        Ok(Self { file })
    }

    /// Everything that is no tensor.
    pub(in crate::engine) fn body<T: DeserializeOwned>(&self) -> Result<T, String> {
        let body = self.file.metadata().get(BODY).map_or("", String::as_str);
        serde_json::from_str(body).map_err(|error| format!("its {BODY} is damaged: {error}"))
    }

    /// Refuses a part that holds other tensors than these, by name and shape.
    pub(in crate::engine) fn require(
        &self,
        shapes: &BTreeMap<String, Vec<usize>>,
    ) -> Result<(), String> {
        self.file.require(shapes)
    }

    /// Reads a tensor.
    pub(in crate::engine) fn tensor(
        &mut self,
        name: &str,
        device: &Device,
    ) -> Result<Tensor, String> {
        self.file.read(name, device)
    }
}
