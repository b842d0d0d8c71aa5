//! The header of a safetensors file, checked against the file's length before any tensor is read.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    io::{self, Read},
};

use safetensors::{
    Dtype, SafeTensorError,
    tensor::{Metadata, TensorInfo},
};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use crate::{
    engine::EngineError,
    spec::{FileError, ModelFiles, ReadSeek},
};

/// The format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The eight bytes that hold the header's length.
const LENGTH_BYTES: u64 = 8;

/// Whether tensors of this type are counters, indices or masks rather than weights.
pub(super) fn is_bookkeeping(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::I64 | Dtype::U64 | Dtype::I32 | Dtype::U32 | Dtype::BOOL)
}

/// A safetensors file that is open and whose header is sound.
pub(super) struct OpenWeights {
    /// How messages name the file.
    pub(super) file: String,
    pub(super) reader: Box<dyn ReadSeek>,
    /// Where the tensors' data begins.
    pub(super) data_start: u64,
    /// What the file says of itself.
    pub(super) metadata: BTreeMap<String, String>,
    /// Every tensor, by name.
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

/// Why a header cannot be used.
pub(super) enum HeaderFault {
    /// It contradicts itself or its file, in words.
    Damaged(String),
    /// What Git LFS leaves in a file's place.
    LfsPointer,
    /// The bytes could not be read.
    Unreadable(io::Error),
}

impl OpenWeights {
    /// Opens a file of a model and reads its header.
    pub(super) fn open(files: &dyn ModelFiles, name: &str) -> Result<Self, EngineError> {
        let file = format!("{}/{name}", files.location());
        let (reader, length) = files.open(name)?;
        let damaged = |message| EngineError::DamagedWeights { file: file.clone(), message };
        Self::read(file.clone(), reader, length).map_err(|fault| match fault {
            HeaderFault::Damaged(message) => damaged(format!("{message}; fetch it again")),
            HeaderFault::LfsPointer => damaged(
                "it is a Git LFS pointer in place of the file; run `git lfs pull` where it came from"
                    .to_owned(),
            ),
            HeaderFault::Unreadable(source) => unreadable(files, name, source),
        })
    }

    /// Reads the header of a file of `length` bytes.
    pub(super) fn read(
        file: String,
        mut reader: Box<dyn ReadSeek>,
        length: u64,
    ) -> Result<Self, HeaderFault> {
        let mut read = |bytes: &mut [u8]| match reader.read_exact(bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(HeaderFault::Damaged("it ends within its header".to_owned()))
            }
            Err(source) => Err(HeaderFault::Unreadable(source)),
            Ok(()) => Ok(()),
        };

        let mut length_bytes = [0; LENGTH_BYTES as usize];
        read(&mut length_bytes)?;
        if &length_bytes == b"version " {
            return Err(HeaderFault::LfsPointer);
        }
        let header_length = u64::from_le_bytes(length_bytes);
        if header_length > MAX_HEADER_BYTES || header_length > length.saturating_sub(LENGTH_BYTES) {
            return Err(HeaderFault::Damaged(format!(
                "its header claims {header_length} bytes, the file has {length} and the limit is {MAX_HEADER_BYTES}"
            )));
        }
        let mut header = vec![0; header_length as usize];
        read(&mut header)?;
        let described = parse(&header).map_err(HeaderFault::Damaged)?;

        let data_start = LENGTH_BYTES + header_length;
        let end = data_start.saturating_add(described.data_len() as u64);
        if end != length {
            return Err(HeaderFault::Damaged(format!(
                "it has {length} bytes, its header describes {end}"
            )));
        }
        let metadata = described.metadata().clone().unwrap_or_default().into_iter().collect();
        let tensors =
            described.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok(Self { file, reader, data_start, metadata, tensors })
    }
}

/// A read that failed for another reason than the file's contents.
pub(super) fn unreadable(files: &dyn ModelFiles, name: &str, source: io::Error) -> EngineError {
    EngineError::File(FileError::Unreadable {
        location: files.location().to_owned(),
        name: name.to_owned(),
        source,
    })
}

fn parse(header: &[u8]) -> Result<Metadata, String> {
    let Entries { metadata, mut tensors } = serde_json::from_slice(header)
        .map_err(|error| format!("its header is damaged: {error}"))?;
    // The checks of `Metadata` want the tensors in the order of their data.
    tensors.sort_by(|(left_name, left), (right_name, right)| {
        (left.data_offsets, left_name).cmp(&(right.data_offsets, right_name))
    });
    Metadata::new(metadata, tensors).map_err(|error| match error {
        SafeTensorError::InvalidOffset(name) => {
            format!("the data of tensor \"{name}\" overlaps another's, leaves a gap or ends before it begins")
        }
        SafeTensorError::TensorInvalidInfo => {
            "a tensor's shape and type do not give the length of its data".to_owned()
        }
        SafeTensorError::ValidationOverflow => {
            "a tensor's shape multiplies to more than a machine can address".to_owned()
        }
        other => format!("its header is unsound: {other}"),
    })
}

/// The header's entries, read by hand because a map would let a name that stands twice pass.
struct Entries {
    metadata: Option<HashMap<String, String>>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut metadata = None;
        let mut tensors = Vec::new();
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format!("the name \"{name}\" stands twice")));
            }
            if name == "__metadata__" {
                metadata = map.next_value()?;
            } else {
                let info = map.next_value()?;
                tensors.push((name, info));
            }
        }
        Ok(Entries { metadata, tensors })
    }
}
