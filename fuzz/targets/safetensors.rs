//! A network's safetensors file, and what it says of itself.

#![no_main]

use std::io::Cursor;

use candle_core::Device;
use keystep::engine::checkpoint::{read_component, read_metadata};
use keystep_fuzz::Folder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = Folder::new([("unet/diffusion_pytorch_model.safetensors", bytes)]);
    let whole = read_component(&folder, "unet", None, &Device::Cpu);
    let reader = Box::new(Cursor::new(bytes.to_vec()));
    let header = read_metadata("file", reader, bytes.len() as u64);
    // What the header is refused for, the whole is refused for as well.
    assert!(header.is_ok() || whole.is_err());
});
