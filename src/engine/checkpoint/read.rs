//! Weights out of safetensors files: whatever is wrong with a file ends in an error that names it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read, Seek, SeekFrom},
};

use candle_core::{Device, Tensor};
use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorInfo};

use super::{
    StoredTensor, StoredTensors,
    header::{HeaderFault, OpenWeights, is_bookkeeping, unreadable},
    locate::{Located, locate},
    measure::keeps_halves,
};
use crate::{
    engine::EngineError,
    spec::{FileError, ModelFiles, ReadSeek},
};

/// Bytes read at once; a whole number of elements of every type.
const CHUNK_BYTES: usize = 1 << 20;

/// Reads the weights of a component, such as `unet`, as f32.
///
/// Looks for `diffusion_pytorch_model[.variant].safetensors` and `model[.variant].safetensors`, in
/// one file or in shards with their index. Without a variant, the only one that there is will do.
/// Integer tensors (`position_ids`, `num_batches_tracked`) are no weights and are left out.
pub fn read_component(
    files: &dyn ModelFiles,
    component: &str,
    variant: Option<&str>,
    device: &Device,
) -> Result<StoredTensors, EngineError> {
    let located = locate(files, component, variant)?;
    read_located(files, component, located, None, Halves::Widened, device)
}

/// The weights of these names alone; all others are passed over unread.
pub(in crate::engine) fn read_named(
    files: &dyn ModelFiles,
    component: &str,
    variant: Option<&str>,
    names: &BTreeSet<String>,
    device: &Device,
) -> Result<StoredTensors, EngineError> {
    let located = locate(files, component, variant)?;
    read_located(files, component, located, Some(names), Halves::Widened, device)
}

/// [`read_component`] of a network whose layers widen their own weights: in host memory, a component
/// that would take more than 1 GiB as f32 keeps matrices and kernels in the half precision
/// in which a file stores them. Every number is the same either way. Where names are given, the
/// weights of these names alone are read.
pub fn read_large(
    files: &dyn ModelFiles,
    component: &str,
    variant: Option<&str>,
    names: Option<&BTreeSet<String>>,
    device: &Device,
) -> Result<StoredTensors, EngineError> {
    let halves = if device.is_cpu() && keeps_halves(files, component, variant, names)? {
        Halves::Kept
    } else {
        Halves::Widened
    };
    let located = locate(files, component, variant)?;
    read_located(files, component, located, names, halves, device)
}

/// What becomes of matrices and kernels that a file stores in half precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Halves {
    Widened,
    Kept,
}

pub(super) fn read_located(
    files: &dyn ModelFiles,
    component: &str,
    located: Located,
    names: Option<&BTreeSet<String>>,
    halves: Halves,
    device: &Device,
) -> Result<StoredTensors, EngineError> {
    let mut stored = StoredTensors {
        location: format!("{}/{component}", files.location()),
        ..StoredTensors::default()
    };
    let mut read = |name: &str, open| {
        read_all(open, names, halves, device, &mut stored)
            .map_err(|fault| fault.in_model(files, name))
    };
    match located {
        Located::Single(name) => read(&name, OpenWeights::open(files, &name)?)?,
        Located::Sharded(shards) => {
            for name in shards.files() {
                let open = OpenWeights::open(files, name)?;
                shards.agree(name, &open)?;
                read(name, open)?;
            }
        }
    }
    Ok(stored)
}

/// Reads one file, such as a judge's, as f32; integer tensors are left out.
pub fn read_single(
    files: &dyn ModelFiles,
    path: &str,
    device: &Device,
) -> Result<StoredTensors, EngineError> {
    read_single_file(files, path, None, device)
}

/// The weights of these names alone; all others are passed over unread.
pub(in crate::engine) fn read_single_named(
    files: &dyn ModelFiles,
    path: &str,
    names: &BTreeSet<String>,
    device: &Device,
) -> Result<StoredTensors, EngineError> {
    read_single_file(files, path, Some(names), device)
}

fn read_single_file(
    files: &dyn ModelFiles,
    path: &str,
    names: Option<&BTreeSet<String>>,
    device: &Device,
) -> Result<StoredTensors, EngineError> {
    let mut stored = StoredTensors {
        location: format!("{}/{path}", files.location()),
        ..StoredTensors::default()
    };
    let open = OpenWeights::open(files, path)?;
    read_all(open, names, Halves::Widened, device, &mut stored)
        .map_err(|fault| fault.in_model(files, path))?;
    Ok(stored)
}

/// Refuses a type of numbers that is not computed with.
pub(in crate::engine) fn check_dtype(
    file: &str,
    name: &str,
    dtype: Dtype,
) -> Result<(), EngineError> {
    match dtype {
        Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(()),
        dtype => Err(EngineError::UnsupportedDtype {
            file: file.to_owned(),
            name: name.to_owned(),
            dtype,
        }),
    }
}

/// What a safetensors file of no model says of itself; its header is checked, and no tensor read.
/// `file` is how messages name the file that `reader` reads.
pub fn read_metadata(
    file: &str,
    reader: Box<dyn ReadSeek>,
    length: u64,
) -> Result<BTreeMap<String, String>, EngineError> {
    Ok(open_alone(file, reader, length)?.metadata)
}

/// Opens a file that lies in no model's folder.
fn open_alone(
    file: &str,
    reader: Box<dyn ReadSeek>,
    length: u64,
) -> Result<OpenWeights, EngineError> {
    let damaged = |message| EngineError::DamagedWeights { file: file.to_owned(), message };
    OpenWeights::read(file.to_owned(), reader, length).map_err(|fault| match fault {
        HeaderFault::Damaged(message) => damaged(message),
        HeaderFault::LfsPointer => damaged("it is a Git LFS pointer".to_owned()),
        HeaderFault::Unreadable(source) => unreadable_alone(file, source),
    })
}

fn unreadable_alone(file: &str, source: io::Error) -> EngineError {
    EngineError::File(FileError::Unreadable {
        location: file.to_owned(),
        name: String::new(),
        source,
    })
}

/// Reads tensors that replace some of a component's, such as an erasure's edited ones; all others
/// are shared with `base`. `file` is how messages name the file that `reader` reads.
///
/// A tensor that the base has no place for, or has in another shape, is refused: the edited tensors
/// are then of another model.
pub fn read_edited(
    file: &str,
    reader: Box<dyn ReadSeek>,
    length: u64,
    base: &StoredTensors,
    device: &Device,
) -> Result<StoredTensors, EngineError> {
    let mut open = open_alone(file, reader, length)?;
    let surplus = open.tensors.keys().filter(|name| !base.tensors.contains_key(*name)).count();
    // All of it before the first tensor is read.
    for (name, info) in &open.tensors {
        match base.tensors.get(name) {
            None => {
                return Err(EngineError::SurplusTensor {
                    file: file.to_owned(),
                    name: name.clone(),
                    found: info.shape.clone(),
                    count: surplus,
                });
            }
            Some(stored) if stored.tensor.dims() != info.shape => {
                return Err(EngineError::MisshapenTensor {
                    file: file.to_owned(),
                    name: name.clone(),
                    expected: stored.tensor.dims().to_vec(),
                    found: info.shape.clone(),
                });
            }
            Some(_) => check_dtype(file, name, info.dtype)?,
        }
    }
    let mut edited = StoredTensors { location: file.to_owned(), tensors: base.tensors.clone() };
    let infos: Vec<_> =
        open.tensors.iter().map(|(name, info)| (name.clone(), info.clone())).collect();
    let mut buffer = Vec::new();
    for (name, info) in infos {
        let tensor = match read_tensor(&mut open, &name, &info, device, &mut buffer) {
            Ok(tensor) => tensor,
            Err(ReadFault::Io(source)) => return Err(unreadable_alone(file, source)),
            Err(ReadFault::Other(error)) => return Err(error),
        };
        let stored = StoredTensor { tensor, file: file.to_owned(), dtype: info.dtype };
        edited.tensors.insert(name, stored);
    }
    Ok(edited)
}

/// Reads the tensors of an open file that are named, or all where no names are given, one by one, so
/// that never more than one lies in memory beside the result.
fn read_all(
    mut open: OpenWeights,
    names: Option<&BTreeSet<String>>,
    halves: Halves,
    device: &Device,
    stored: &mut StoredTensors,
) -> Result<(), ReadFault> {
    let mut by_position: Vec<_> =
        open.tensors.iter().map(|(name, info)| (name.clone(), info.clone())).collect();
    by_position.sort_by_key(|(_, info)| info.data_offsets);
    let mut buffer = Vec::new();
    for (tensor_name, info) in by_position {
        let is_named = names.is_none_or(|names| names.contains(&tensor_name));
        if is_bookkeeping(info.dtype) || !is_named {
            continue;
        }
        let is_matrix = info.shape.len() > 1;
        let halves = if is_matrix { halves } else { Halves::Widened };
        let tensor =
            read_values(&mut open, (&tensor_name, &info), halves, &mut buffer)?.on(device)?;
        stored.tensors.insert(
            tensor_name,
            StoredTensor { tensor, file: open.file.clone(), dtype: info.dtype },
        );
    }
    Ok(())
}

/// Why a tensor could not be read.
pub(super) enum ReadFault {
    Io(io::Error),
    Other(EngineError),
}

impl ReadFault {
    fn in_model(self, files: &dyn ModelFiles, name: &str) -> EngineError {
        match self {
            Self::Io(source) => unreadable(files, name, source),
            Self::Other(error) => error,
        }
    }
}

impl From<EngineError> for ReadFault {
    fn from(error: EngineError) -> Self {
        Self::Other(error)
    }
}

/// Reads one tensor of an open file as f32; `buffer` is for its bytes, chunk by chunk.
pub(super) fn read_tensor(
    open: &mut OpenWeights,
    name: &str,
    info: &TensorInfo,
    device: &Device,
    buffer: &mut Vec<u8>,
) -> Result<Tensor, ReadFault> {
    Ok(read_values(open, (name, info), Halves::Widened, buffer)?.on(device)?)
}

fn read_values<'a>(
    open: &mut OpenWeights,
    (name, info): (&'a str, &'a TensorInfo),
    halves: Halves,
    buffer: &mut Vec<u8>,
) -> Result<Values<'a>, ReadFault> {
    let start = open.data_start + info.data_offsets.0 as u64;
    open.reader.seek(SeekFrom::Start(start)).map_err(ReadFault::Io)?;
    let mut values = Values::new(&open.file, name, info, halves)?;
    let mut left = info.data_offsets.1 - info.data_offsets.0;
    buffer.resize(CHUNK_BYTES, 0);
    while left > 0 {
        let chunk = &mut buffer[..left.min(CHUNK_BYTES)];
        open.reader.read_exact(chunk).map_err(|error| match error.kind() {
            // It had its whole length when it was opened.
            io::ErrorKind::UnexpectedEof => ReadFault::Other(EngineError::DamagedWeights {
                file: open.file.clone(),
                message: format!("it ends within the tensor \"{name}\"; fetch it again"),
            }),
            _ => ReadFault::Io(error),
        })?;
        values.extend(chunk)?;
        left -= chunk.len();
    }
    Ok(values)
}

/// One tensor's values while they are read.
struct Values<'a> {
    file: String,
    name: &'a str,
    info: &'a TensorInfo,
    numbers: Numbers,
}

enum Numbers {
    Single(Vec<f32>),
    Half(Vec<f16>),
    Brain(Vec<bf16>),
}

impl<'a> Values<'a> {
    fn new(
        file: &str,
        name: &'a str,
        info: &'a TensorInfo,
        halves: Halves,
    ) -> Result<Self, EngineError> {
        check_dtype(file, name, info.dtype)?;
        let numbers = match info.dtype {
            Dtype::F16 if halves == Halves::Kept => room(file, name, info).map(Numbers::Half)?,
            Dtype::BF16 if halves == Halves::Kept => room(file, name, info).map(Numbers::Brain)?,
            _ => room(file, name, info).map(Numbers::Single)?,
        };
        Ok(Self { file: file.to_owned(), name, info, numbers })
    }

    /// Takes a chunk of whole elements.
    fn extend(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        let dtype = self.info.dtype;
        let not_finite = match &mut self.numbers {
            Numbers::Single(numbers) => match dtype {
                Dtype::F64 => take(numbers, bytes, |bytes| f64::from_le_bytes(bytes) as f32),
                Dtype::F16 => take(numbers, bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
                Dtype::BF16 => take(numbers, bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
                _ => take(numbers, bytes, f32::from_le_bytes),
            },
            Numbers::Half(numbers) => take(numbers, bytes, f16::from_le_bytes),
            Numbers::Brain(numbers) => take(numbers, bytes, bf16::from_le_bytes),
        };
        match not_finite {
            None => Ok(()),
            Some((element, value)) => Err(EngineError::NonFiniteWeight {
                file: self.file.clone(),
                name: self.name.to_owned(),
                element,
                value,
            }),
        }
    }

    fn on(self, device: &Device) -> Result<Tensor, EngineError> {
        let shape = self.info.shape.as_slice();
        Ok(match self.numbers {
            Numbers::Single(numbers) => Tensor::from_vec(numbers, shape, device)?,
            Numbers::Half(numbers) => Tensor::from_vec(numbers, shape, device)?,
            Numbers::Brain(numbers) => Tensor::from_vec(numbers, shape, device)?,
        })
    }
}

/// Room for all of a tensor's values.
fn room<T>(file: &str, name: &str, info: &TensorInfo) -> Result<Vec<T>, EngineError> {
    // The header has been checked: the product is no larger than the file.
    let count = info.shape.iter().product();
    let mut numbers = Vec::new();
    numbers.try_reserve_exact(count).map_err(|_| EngineError::DamagedWeights {
        file: file.to_owned(),
        message: format!(
            "the tensor \"{name}\" of shape {:?} does not fit into memory",
            info.shape
        ),
    })?;
    Ok(numbers)
}

/// Appends a chunk's elements; names the first that is not finite.
fn take<T: Copy + Into<f32>, const N: usize>(
    numbers: &mut Vec<T>,
    bytes: &[u8],
    element: impl Fn([u8; N]) -> T,
) -> Option<(usize, f32)> {
    let done = numbers.len();
    numbers.extend(bytes.as_chunks().0.iter().map(|bytes| element(*bytes)));
    let added = numbers[done..].iter().enumerate();
    added
        .map(|(index, value)| (done + index, (*value).into()))
        .find(|(_, value): &(usize, f32)| !value.is_finite())
}
