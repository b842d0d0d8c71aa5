//! The weights in an ONNX file: its initialisers, and nothing of its graph. The file is protobuf
//! (onnx.proto: `ModelProto.graph`, `GraphProto.initializer`, `TensorProto`), walked here field by
//! field, so that a hostile one costs no more memory than it is long.

use std::io::Read;

use candle_core::{Device, Tensor};
use half::f16;
use safetensors::Dtype;

use crate::{
    engine::{
        EngineError,
        checkpoint::{StoredTensor, StoredTensors},
    },
    spec::{FileError, ModelFiles},
};

/// Ten times the detectors that are meant.
const MAX_BYTES: u64 = 128 << 20;
/// More axes than any weight has.
const MAX_AXES: usize = 8;

/// Numbers of fields in onnx.proto.
mod field {
    /// Of `ModelProto`.
    pub(super) const GRAPH: u64 = 7;
    /// Of `GraphProto`.
    pub(super) const INITIALIZER: u64 = 5;
    /// Of `TensorProto`.
    pub(super) const DIMS: u64 = 1;
    pub(super) const DATA_TYPE: u64 = 2;
    pub(super) const FLOAT_DATA: u64 = 4;
    pub(super) const NAME: u64 = 8;
    pub(super) const RAW_DATA: u64 = 9;
    pub(super) const DATA_LOCATION: u64 = 14;
}

/// `TensorProto.DataType`.
const FLOAT: u64 = 1;
const FLOAT16: u64 = 10;

/// Reads the initialisers of single and half precision as f32; others (shapes, indices) are no
/// weights.
pub(super) fn read_initializers(
    files: &dyn ModelFiles,
    name: &str,
    device: &Device,
) -> Result<StoredTensors, EngineError> {
    let file = format!("{}/{name}", files.location());
    let (reader, length) = files.open(name)?;
    let damaged = |message: String| EngineError::DamagedWeights { file: file.clone(), message };
    if length > MAX_BYTES {
        return Err(damaged(format!("it has {length} bytes, the limit is {MAX_BYTES}")));
    }
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES).read_to_end(&mut bytes).map_err(|source| FileError::Unreadable {
        location: files.location().to_owned(),
        name: name.to_owned(),
        source,
    })?;
    let mut stored = StoredTensors { location: file.clone(), ..StoredTensors::default() };
    for graph in messages(&bytes, field::GRAPH) {
        for tensor in messages(graph.map_err(damaged)?, field::INITIALIZER) {
            let Some(weight) = Weight::read(tensor.map_err(damaged)?).map_err(damaged)? else {
                continue;
            };
            let Weight { name, shape, values } = weight;
            if let Some(element) = values.iter().position(|value| !value.is_finite()) {
                let value = values[element];
                return Err(EngineError::NonFiniteWeight { file, name, element, value });
            }
            if stored.tensors.contains_key(&name) {
                return Err(damaged(format!("it holds the tensor \"{name}\" twice")));
            }
            let tensor = Tensor::from_vec(values, shape.as_slice(), device)?;
            let tensor = StoredTensor { tensor, file: file.clone(), dtype: Dtype::F32 };
            stored.tensors.insert(name, tensor);
        }
    }
    Ok(stored)
}

/// A tensor of numbers that are computed with.
struct Weight {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Weight {
    /// None where it holds other numbers.
    fn read(message: &[u8]) -> Result<Option<Self>, String> {
        let (mut shape, mut name, mut kind) = (Vec::new(), "", 0);
        let (mut raw, mut floats) = (None, Vec::new());
        for entry in Fields(message) {
            match entry? {
                (field::DIMS, Value::Number(side)) => shape.push(side),
                (field::DIMS, Value::Bytes(mut packed)) => {
                    while !packed.is_empty() && shape.len() <= MAX_AXES {
                        shape.push(varint(&mut packed)?);
                    }
                }
                (field::DATA_TYPE, Value::Number(number)) => kind = number,
                (field::NAME, Value::Bytes(bytes)) => {
                    name = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
                }
                (field::RAW_DATA, Value::Bytes(bytes)) => raw = Some(bytes),
                (field::FLOAT_DATA, Value::Bytes(bytes)) => floats.push(bytes),
                (field::DATA_LOCATION, Value::Number(1)) => {
                    return Err(format!(
                        "the values of \"{}\" lie in another file; export it in one piece",
                        shown(name)
                    ));
                }
                _ => {}
            }
            if shape.len() > MAX_AXES {
                return Err(format!("\"{}\" has more than {MAX_AXES} axes", shown(name)));
            }
        }
        let sides = shape.iter().map(|side| usize::try_from(*side).ok());
        let shape: Option<Vec<usize>> = sides.collect();
        let count =
            shape.as_ref().and_then(|it| it.iter().try_fold(1, |n: usize, k| n.checked_mul(*k)));
        let (Some(shape), Some(count)) = (shape, count) else {
            return Err(format!("\"{}\" has more values than there is memory", shown(name)));
        };
        let values: Vec<f32> = match (kind, raw) {
            (FLOAT, Some(raw)) => singles(raw),
            (FLOAT, None) => singles(&floats.concat()),
            (FLOAT16, Some(raw)) => {
                raw.as_chunks().0.iter().map(|pair| f16::from_le_bytes(*pair).to_f32()).collect()
            }
            _ => return Ok(None),
        };
        if values.len() != count {
            return Err(format!(
                "\"{}\" of shape {shape:?} has {} values",
                shown(name),
                values.len()
            ));
        }
        Ok(Some(Self { name: name.to_owned(), shape, values }))
    }
}

fn singles(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// A name of any length, cut short.
fn shown(name: &str) -> String {
    name.chars().take(80).collect()
}

/// The messages in a field of a message.
fn messages(message: &[u8], number: u64) -> impl Iterator<Item = Result<&[u8], String>> {
    Fields(message).filter_map(move |entry| match entry {
        Ok((found, Value::Bytes(bytes))) if found == number => Some(Ok(bytes)),
        Ok(_) => None,
        Err(message) => Some(Err(message)),
    })
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, one after the other; ends with the first that is damaged.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let entry = self.read();
        if entry.is_err() {
            self.0 = &[];
        }
        Some(entry)
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Result<(u64, Value<'a>), String> {
        let key = varint(&mut self.0)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut self.0)?),
            1 => Value::Bytes(self.cut(8)?),
            2 => {
                let length = varint(&mut self.0)?;
                Value::Bytes(self.cut(length)?)
            }
            5 => Value::Bytes(self.cut(4)?),
            kind => return Err(format!("it holds a field of the type {kind}, which ONNX has not")),
        };
        Ok((key >> 3, value))
    }

    fn cut(&mut self, length: u64) -> Result<&'a [u8], String> {
        let cut = usize::try_from(length).ok().and_then(|length| self.0.split_at_checked(length));
        let (bytes, rest) = cut.ok_or("it ends within a field; fetch it again")?;
        self.0 = rest;
        Ok(bytes)
    }
}

/// A number in protobuf's base of 128.
fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or("it ends within a number; fetch it again")?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("it holds a number of more than 64 bits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::checkpoint::testing::MemoryModel;

    /// A field of bytes.
    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        assert!(length < 0x80);
        [&[number << 3 | 2, length], content].concat()
    }

    fn number(field: u8, value: u8) -> Vec<u8> {
        vec![field << 3, value]
    }

    fn read(tensors: &[Vec<u8>]) -> Result<StoredTensors, EngineError> {
        let graph: Vec<u8> = tensors.iter().flat_map(|tensor| bytes(5, tensor)).collect();
        read_file(bytes(7, &graph))
    }

    fn read_file(file: Vec<u8>) -> Result<StoredTensors, EngineError> {
        read_initializers(&MemoryModel::new([("model.onnx", file)]), "model.onnx", &Device::Cpu)
    }

    /// A tensor of two rows of one value.
    fn tensor(kind: u8, data: &[u8]) -> Vec<u8> {
        [number(1, 2), number(1, 1), number(2, kind), bytes(8, b"a.weight"), data.to_vec()].concat()
    }

    fn raw(values: &[f32]) -> Vec<u8> {
        let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        bytes(9, &values)
    }

    #[test]
    fn initialisers_are_read_in_every_form() {
        let floats = bytes(4, &[1.0_f32.to_le_bytes(), 2.5_f32.to_le_bytes()].concat());
        let halves = bytes(
            9,
            &[f16::from_f32(1.0).to_le_bytes(), f16::from_f32(2.5).to_le_bytes()].concat(),
        );
        for (kind, data) in [(1, raw(&[1.0, 2.5])), (1, floats), (10, halves)] {
            let stored = read(&[tensor(kind, &data)]).unwrap();
            let values = stored.tensors["a.weight"].tensor.to_vec2::<f32>().unwrap();
            assert_eq!(values, [[1.0], [2.5]]);
        }
        // Whole numbers are no weights.
        assert!(read(&[tensor(7, &bytes(9, &[0; 16]))]).unwrap().tensors.is_empty());
        assert!(read_file(Vec::new()).unwrap().tensors.is_empty());
    }

    #[test]
    fn what_is_no_weight_is_refused() {
        let good = tensor(1, &raw(&[1.0, 2.0]));
        let huge =
            [vec![1 << 3], vec![0xff; 8], vec![0x7f], vec![1 << 3, 9], good.clone()].concat();
        let cases = [
            (read(&[tensor(1, &raw(&[1.0]))]), "has 1 values"),
            (read(&[tensor(1, &raw(&[1.0, f32::NAN]))]), "NaN"),
            (read(&[good.clone(), good.clone()]), "twice"),
            (read(&[huge]), "memory"),
            (read(&[[number(14, 1), good.clone()].concat()]), "another file"),
            (read(&[[number(1, 1).repeat(9), good].concat()]), "axes"),
            (read_file(vec![7 << 3 | 2, 100, 1]), "ends within a field"),
            (read_file(vec![0xff; 12]), "64 bits"),
            (read_file(vec![7 << 3 | 3]), "type 3"),
        ];
        for (read, said) in cases {
            let error = read.unwrap_err().to_string();
            assert!(error.contains(said), "{said}: {error}");
        }
    }
}
