//! What users hand us that is broken, missing, hostile or in the way: every refusal names the file
//! and the remedy, and nothing is left on the disk.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use candle_core::Device;
use keystep::{
    artifacts::{
        StagedFile, StagedFolder,
        diffusers::{UNET_WEIGHTS, write_checkpoint},
        open_model,
    },
    engine::{
        checkpoint::{read_component, read_single},
        family::config::UnetConfig,
    },
};
use tempfile::TempDir;

/// A writable copy of the built-in model.
struct Model {
    place: TempDir,
}

impl Model {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let base = open_model("builtin:emoji-canvas").unwrap();
        let mut staged = StagedFolder::create(&place.path().join("model"), &[]).unwrap();
        for name in base.names() {
            staged.copy(base.as_ref(), name, name).unwrap();
        }
        staged.commit().unwrap();
        Self { place }
    }

    fn root(&self) -> PathBuf {
        self.place.path().join("model")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// What reading a component of the model complains of.
    fn refusal(&self, component: &str) -> String {
        let model = open_model(self.root().to_str().unwrap()).unwrap();
        read_component(model.as_ref(), component, None, &Device::Cpu).unwrap_err().to_string()
    }
}

fn assert_names(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no \"{part}\" in: {text}");
    }
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn the_untouched_copy_reads() {
    let model = Model::new();
    let files = open_model(model.root().to_str().unwrap()).unwrap();
    for component in ["unet", "vae", "text_encoder", "clip"] {
        let stored = read_component(files.as_ref(), component, None, &Device::Cpu).unwrap();
        assert!(!stored.tensors.is_empty());
    }
    read_single(files.as_ref(), "judge/judge.safetensors", &Device::Cpu).unwrap();
}

#[test]
fn a_missing_part() {
    let model = Model::new();
    fs::remove_dir_all(model.path("vae")).unwrap();
    assert_names(&model.refusal("vae"), &["no folder \"vae\"", "model_index.json"]);
    fs::remove_file(model.path(UNET_WEIGHTS)).unwrap();
    assert_names(&model.refusal("unet"), &[UNET_WEIGHTS, "fetch the folder again"]);
    fs::remove_file(model.path("judge/judge.safetensors")).unwrap();
    let files = open_model(model.root().to_str().unwrap()).unwrap();
    let error = read_single(files.as_ref(), "judge/judge.safetensors", &Device::Cpu).unwrap_err();
    assert_names(&error.to_string(), &["has no file \"judge/judge.safetensors\""]);
}

#[test]
fn a_truncated_file() {
    let model = Model::new();
    let path = model.path(UNET_WEIGHTS);
    let whole = fs::metadata(&path).unwrap().len();
    for length in [0, 7, 100, whole / 2, whole - 1] {
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(length).unwrap();
        let text = model.refusal("unet");
        assert_names(&text, &[path.to_str().unwrap(), "not a whole safetensors", "fetch it again"]);
        fs::write(&path, {
            let base = open_model("builtin:emoji-canvas").unwrap();
            let mut bytes = Vec::new();
            base.open(UNET_WEIGHTS).unwrap().0.read_to_end(&mut bytes).unwrap();
            bytes
        })
        .unwrap();
    }
}

#[test]
fn a_weight_that_is_not_a_number() {
    let model = Model::new();
    let path = model.path(UNET_WEIGHTS);
    let mut bytes = fs::read(&path).unwrap();
    // The last half-precision number of the file.
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(&[0x00, 0x7e]);
    fs::write(&path, bytes).unwrap();
    let text = model.refusal("unet");
    assert_names(&text, &[path.to_str().unwrap(), "tensor \"", "holds NaN at element", "fetch"]);
}

#[test]
fn an_absurd_config() {
    let model = Model::new();
    let path = model.path("unet/config.json");
    let json = fs::read_to_string(&path)
        .unwrap()
        .replace("\"in_channels\": 4", "\"in_channels\": 4000000000");
    let error = UnetConfig::parse(&json, path.to_str().unwrap()).unwrap_err().to_string();
    assert_names(&error, &[path.to_str().unwrap(), "in_channels is 4000000000", "1 to 65536"]);
}

#[test]
fn pickled_weights_only() {
    let model = Model::new();
    let pickled = model.path("unet/diffusion_pytorch_model.bin");
    fs::rename(model.path(UNET_WEIGHTS), pickled).unwrap();
    let text = model.refusal("unet");
    assert_names(
        &text,
        &["unet/diffusion_pytorch_model.bin", "save_pretrained(FOLDER, safe_serialization=True)"],
    );
}

#[test]
fn a_missing_shard_and_an_index_that_leads_outside() {
    let model = Model::new();
    fs::rename(model.path(UNET_WEIGHTS), model.place.path().join("stolen.safetensors")).unwrap();
    let index = model.path("unet/diffusion_pytorch_model.safetensors.index.json");
    let missing = "diffusion_pytorch_model-00001-of-00002.safetensors";
    fs::write(&index, format!(r#"{{"weight_map": {{"conv_in.bias": "{missing}"}}}}"#)).unwrap();
    assert_names(&model.refusal("unet"), &[missing, "lists this shard; fetch it"]);
    let outside = "../../stolen.safetensors";
    fs::write(&index, format!(r#"{{"weight_map": {{"conv_in.bias": "{outside}"}}}}"#)).unwrap();
    assert_names(&model.refusal("unet"), &[index.to_str().unwrap(), outside, "beside it"]);
}

#[test]
fn an_output_that_exists() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("erased");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("precious"), "x").unwrap();
    for error in [
        StagedFolder::create(&target, &[]).map(drop).unwrap_err(),
        StagedFile::create(&target).map(drop).unwrap_err(),
        StagedFile::create(&target.join("precious")).map(drop).unwrap_err(),
    ] {
        let text = error.to_string();
        assert_names(&text, &[target.to_str().unwrap(), "exists already; name another output"]);
    }
    assert_eq!(entries(place.path()), 1);
    assert_eq!(fs::read(target.join("precious")).unwrap(), b"x");
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_that_cannot_be_written() {
    // Read-only even for root, as whom tests run in containers.
    let target = Path::new("/proc/keystep-result");
    for error in [
        StagedFolder::create(target, &[]).map(drop).unwrap_err(),
        StagedFile::create(target).map(drop).unwrap_err(),
    ] {
        let text = error.to_string();
        assert_names(&text, &["cannot write /proc/keystep-result", "choose an output in a folder"]);
    }
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("file"), "").unwrap();
    for (path, remedy) in
        [("nowhere/erased", "create that first"), ("file/erased", "is a file; choose another")]
    {
        let error = StagedFolder::create(&place.path().join(path), &[]).map(drop).unwrap_err();
        assert_names(&error.to_string(), &[path, remedy]);
    }
    assert_eq!(entries(place.path()), 1);
}

#[test]
fn a_failure_in_the_midst_of_a_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    let base = open_model("builtin:emoji-canvas").unwrap();
    let mut staged = StagedFolder::create(&place.path().join("erased"), &[UNET_WEIGHTS]).unwrap();
    let error = write_checkpoint(&mut staged, base.as_ref(), |out| {
        out.write_all(&[0; 4096])?;
        Err(io::ErrorKind::StorageFull.into())
    })
    .unwrap_err();
    assert_names(&error.to_string(), &["the disk is full", UNET_WEIGHTS, "free some space"]);
    drop(staged);
    assert_eq!(entries(place.path()), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn the_kernels_own_full_disk() {
    let place = tempfile::tempdir().unwrap();
    let mut staged = StagedFile::create(&place.path().join("report.html")).unwrap();
    let error = staged
        .write(|_| fs::OpenOptions::new().write(true).open("/dev/full")?.write_all(b"x"))
        .unwrap_err();
    assert_names(&error.to_string(), &["the disk is full", "report.html", "free some space"]);
    drop(staged);
    assert_eq!(entries(place.path()), 0);
}

#[test]
fn a_base_model_that_shrinks_while_it_is_copied_is_not_taken_for_a_full_disk() {
    let model = Model::new();
    let files = open_model(model.root().to_str().unwrap()).unwrap();
    fs::remove_file(model.path("vocabulary.json")).unwrap();
    let target = model.place.path().join("erased");
    let mut staged = StagedFolder::create(&target, &[]).unwrap();
    let error =
        write_checkpoint(&mut staged, files.as_ref(), |out| out.write_all(b"new")).unwrap_err();
    assert_names(&error.to_string(), &["cannot read", "vocabulary.json"]);
    drop(staged);
    assert_eq!(entries(model.place.path()), 1);
}
