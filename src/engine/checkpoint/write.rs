//! Tensors into safetensors bytes.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write},
};

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::Dtype;

/// Elements that are converted and written at once.
const CHUNK_ELEMENTS: usize = 1 << 16;

/// Why a checkpoint could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointWriteError {
    /// The sink refused bytes.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The tensor library refused an operation.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// A weight is NaN or infinite, or would be once stored.
    #[error(
        "the tensor \"{name}\" holds {value} at element {element}, which {dtype} cannot hold; store it as F32, or lower the learning rate if the value is absurd"
    )]
    Unrepresentable {
        /// The tensor.
        name: String,
        /// Flat index.
        element: usize,
        /// The value.
        value: f32,
        /// The type it was to be stored as.
        dtype: Dtype,
    },
    /// A type that we do not store.
    #[error("the tensor \"{name}\" cannot be stored as {dtype}; use F32, F16 or BF16")]
    UnsupportedDtype {
        /// The tensor.
        name: String,
        /// The type that was asked for.
        dtype: Dtype,
    },
}

/// For sinks whose writers speak `io::Result`; keeps the kind of an I/O error, so that a full disk
/// is still seen as one.
impl From<CheckpointWriteError> for io::Error {
    fn from(error: CheckpointWriteError) -> Self {
        match error {
            CheckpointWriteError::Io(error) => error,
            other => Self::other(other),
        }
    }
}

/// Writes tensors, each as the type it is given with, rounding to nearest, ties to even.
///
/// The bytes depend on the arguments alone. Tensors come by descending alignment and then by name,
/// as the `safetensors` libraries write them, so that a checkpoint that is read and written without
/// a change gives the same bytes.
pub fn write_safetensors(
    tensors: &BTreeMap<String, (Tensor, Dtype)>,
    metadata: &BTreeMap<String, String>,
    out: &mut dyn Write,
) -> Result<(), CheckpointWriteError> {
    let mut ordered: Vec<_> = tensors.iter().collect();
    ordered.sort_by(|(left_name, (_, left)), (right_name, (_, right))| {
        right.cmp(left).then(left_name.cmp(right_name))
    });
    let header = header(&ordered, metadata)?;
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;

    let mut bytes = Vec::with_capacity(8 * CHUNK_ELEMENTS);
    for (name, (tensor, dtype)) in ordered {
        let values = tensor
            .to_dtype(DType::F32)?
            .to_device(&Device::Cpu)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        for (chunk, values) in values.chunks(CHUNK_ELEMENTS).enumerate() {
            bytes.clear();
            convert(values, *dtype, &mut bytes).map_err(|index| {
                CheckpointWriteError::Unrepresentable {
                    name: name.clone(),
                    element: chunk * CHUNK_ELEMENTS + index,
                    value: values[index],
                    dtype: *dtype,
                }
            })?;
            out.write_all(&bytes)?;
        }
    }
    Ok(())
}

fn header(
    ordered: &[(&String, &(Tensor, Dtype))],
    metadata: &BTreeMap<String, String>,
) -> Result<String, CheckpointWriteError> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut entries = Vec::with_capacity(ordered.len() + 1);
    if !metadata.is_empty() {
        let pairs: Vec<_> = metadata
            .iter()
            .map(|(key, value)| format!("{}:{}", quoted(key), quoted(value)))
            .collect();
        entries.push(format!("\"__metadata__\":{{{}}}", pairs.join(",")));
    }
    let mut offset = 0;
    for (name, (tensor, dtype)) in ordered {
        if !matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(CheckpointWriteError::UnsupportedDtype {
                name: (*name).clone(),
                dtype: *dtype,
            });
        }
        let end = offset + tensor.elem_count() * dtype.bitsize() / 8;
        let shape: Vec<_> = tensor.dims().iter().map(usize::to_string).collect();
        let mut entry = quoted(name);
        // Writing to a string cannot fail.
        let _ = write!(
            entry,
            ":{{\"dtype\":\"{dtype}\",\"shape\":[{}],\"data_offsets\":[{offset},{end}]}}",
            shape.join(",")
        );
        entries.push(entry);
        offset = end;
    }
    let mut header = format!("{{{}}}", entries.join(","));
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    Ok(header)
}

/// Appends the values' bytes; gives the first index that the type cannot hold.
fn convert(values: &[f32], dtype: Dtype, bytes: &mut Vec<u8>) -> Result<(), usize> {
    for (index, &value) in values.iter().enumerate() {
        let finite = match dtype {
            Dtype::F64 => {
                bytes.extend_from_slice(&f64::from(value).to_le_bytes());
                value.is_finite()
            }
            Dtype::F16 => {
                let half = f16::from_f32(value);
                bytes.extend_from_slice(&half.to_le_bytes());
                half.is_finite()
            }
            Dtype::BF16 => {
                let half = bf16::from_f32(value);
                bytes.extend_from_slice(&half.to_le_bytes());
                half.is_finite()
            }
            _ => {
                bytes.extend_from_slice(&value.to_le_bytes());
                value.is_finite()
            }
        };
        if !finite {
            return Err(index);
        }
    }
    Ok(())
}
