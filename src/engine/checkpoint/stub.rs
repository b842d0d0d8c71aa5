#![allow(missing_docs, unused)]
use super::*; use crate::{engine::EngineError, spec::ModelFiles}; use candle_core::{Device, DType}; use std::io::{Read, Write};
fn bytes(files: &dyn ModelFiles, n: &str) -> Result<Vec<u8>, EngineError> { let mut v = vec![]; files.open(n)?.0.read_to_end(&mut v).unwrap(); Ok(v) }
pub fn read_component(files: &dyn ModelFiles, component: &str, variant: Option<&str>, device: &Device) -> Result<StoredTensors, EngineError> {
 let n = files.names().iter().find(|n| n.starts_with(&format!("{component}/")) && n.ends_with("model.safetensors")).unwrap().clone(); read_single(files, &n, device) }
pub fn read_single(files: &dyn ModelFiles, path: &str, device: &Device) -> Result<StoredTensors, EngineError> {
 let b = bytes(files, path)?; let st = safetensors::SafeTensors::deserialize(&b).unwrap();
 let mut out = StoredTensors { location: path.to_owned(), ..Default::default() };
 let all = candle_core::safetensors::load_buffer(&b, device)?;
 for (k, t) in all { if k.ends_with("num_batches_tracked") || k.ends_with("position_ids") { continue; } let d = st.tensor(&k).unwrap().dtype(); out.tensors.insert(k, StoredTensor { tensor: t.to_dtype(DType::F32)?, file: path.to_owned(), dtype: d }); }
 Ok(out) }
pub fn read_text(files: &dyn ModelFiles, path: &str) -> Result<String, EngineError> { Ok(String::from_utf8(bytes(files, path)?).unwrap()) }
pub fn round_to(t: &Tensor, d: safetensors::Dtype) -> Result<Tensor, EngineError> { Ok(match d { safetensors::Dtype::F16 => t.to_dtype(DType::F16)?.to_dtype(DType::F32)?, _ => t.clone() }) }
pub fn write_safetensors(t: &BTreeMap<String,(Tensor, safetensors::Dtype)>, m: &BTreeMap<String,String>, o: &mut dyn Write) -> Result<(), EngineError> { unimplemented!() }
