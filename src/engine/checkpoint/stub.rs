#![allow(missing_docs, unused)]
use super::*;
use crate::{engine::EngineError, spec::ModelFiles};
use candle_core::Device;
use std::io::Write;
pub fn read_component(
    files: &dyn ModelFiles,
    component: &str,
    variant: Option<&str>,
    device: &Device,
) -> Result<StoredTensors, EngineError> {
    unimplemented!()
}
pub fn read_single(
    files: &dyn ModelFiles,
    path: &str,
    device: &Device,
) -> Result<StoredTensors, EngineError> {
    unimplemented!()
}
pub fn read_text(files: &dyn ModelFiles, path: &str) -> Result<String, EngineError> {
    unimplemented!()
}
pub fn round_to(t: &Tensor, d: safetensors::Dtype) -> Result<Tensor, EngineError> {
    unimplemented!()
}
pub fn write_safetensors(
    t: &BTreeMap<String, (Tensor, safetensors::Dtype)>,
    m: &BTreeMap<String, String>,
    o: &mut dyn Write,
) -> Result<(), EngineError> {
    unimplemented!()
}
