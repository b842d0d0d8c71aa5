//! An edited model as a folder that diffusers opens.

use std::io::{self, Write};

use super::{ArtifactError, StagedFolder};
use crate::spec::ModelFiles;

/// Where the edited U-Net's weights go.
pub const UNET_WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";

/// What weights end in, in any format that a model repository may hold.
const WEIGHT_ENDINGS: [&str; 10] =
    ["safetensors", "bin", "ckpt", "pt", "pth", "msgpack", "h5", "onnx", "gguf", "pkl"];

/// Fills a staged folder with the base model's files and the edited U-Net's weights.
///
/// All is copied but for weights of the base's U-Net in any format, and for whole checkpoints
/// beside the components' folders: they would bring back what was erased. A component that has
/// its weights as a variant only, such as `model.fp16.safetensors`, gets them under the plain
/// name, since `from_pretrained` looks for one and the same variant in all components.
///
/// Gives the names of the base's files that were left out.
pub fn write_checkpoint(
    staged: &mut StagedFolder,
    base: &dyn ModelFiles,
    write_unet: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<Vec<String>, ArtifactError> {
    // First, since this is what may fail for reasons beyond the disk.
    staged.write(UNET_WEIGHTS, write_unet)?;
    let mut left_out = Vec::new();
    for name in base.names() {
        if holds_unet(name) {
            left_out.push(name.clone());
        } else {
            let plain = plain_name(name, base.names());
            staged.copy(base, name, plain.as_deref().unwrap_or(name))?;
        }
    }
    Ok(left_out)
}

/// Whether a file may hold the base's U-Net.
fn holds_unet(name: &str) -> bool {
    match name.split_once('/') {
        // Of the U-Net's own folder only what is known to be text stays.
        Some(("unet", file)) => {
            let text = [".json", ".txt", ".md"].iter().any(|ending| file.ends_with(ending))
                || file.starts_with("LICENSE");
            !text || is_index(file)
        }
        Some(_) => false,
        None => name.rsplit_once('.').is_some_and(|(_, ending)| WEIGHT_ENDINGS.contains(&ending)),
    }
}

/// Whether a file lists shards of weights.
fn is_index(file: &str) -> bool {
    file.contains(".index.")
}

/// The name without its variant, where the folder has its weights in this one variant only.
fn plain_name(name: &str, all: &[String]) -> Option<String> {
    let (folder, file) = name.rsplit_once('/')?;
    let variant = variant_of(file)?;
    let siblings = all
        .iter()
        .filter_map(|other| other.rsplit_once('/'))
        .filter(|(other, _)| *other == folder)
        .map(|(_, file)| file);
    for sibling in siblings {
        let plain = ["model.", "diffusion_pytorch_model."].iter().any(|stem| {
            sibling.strip_prefix(stem).is_some_and(|rest| {
                matches!(rest, "safetensors" | "safetensors.index.json" | "bin" | "bin.index.json")
            })
        });
        if plain || variant_of(sibling).is_some_and(|other| other != variant) {
            return None;
        }
    }
    Some(format!("{folder}/{}", file.replacen(&format!(".{variant}"), "", 1)))
}

/// `fp16` of `model.fp16.safetensors`, `model.safetensors.index.fp16.json` and
/// `model.fp16.safetensors.index.json`.
fn variant_of(file: &str) -> Option<&str> {
    let rest =
        file.strip_prefix("model.").or_else(|| file.strip_prefix("diffusion_pytorch_model."))?;
    let variant = match rest.strip_prefix("safetensors.index.") {
        Some(rest) => rest.strip_suffix(".json")?,
        None => rest
            .strip_suffix(".safetensors")
            .or_else(|| rest.strip_suffix(".safetensors.index.json"))?,
    };
    // A shard's name stands in its index, so it stays.
    (!variant.contains('.') && !variant.contains("-of-")).then_some(variant)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::artifacts::{ModelFolder, open_model};

    #[test]
    fn the_result_is_the_base_with_other_unet_weights() {
        let place = tempfile::tempdir().unwrap();
        let base = open_model("builtin:emoji-canvas").unwrap();
        let target = place.path().join("erased");
        let mut staged = StagedFolder::create(&target, &[UNET_WEIGHTS]).unwrap();
        let left_out =
            write_checkpoint(&mut staged, base.as_ref(), |out| out.write_all(b"new")).unwrap();
        staged.commit().unwrap();
        assert_eq!(left_out, [UNET_WEIGHTS]);
        let result = ModelFolder::open(&target).unwrap();
        assert_eq!(result.names(), base.names());
        assert_eq!(fs::read(target.join(UNET_WEIGHTS)).unwrap(), b"new");
        for name in base.names().iter().filter(|name| *name != UNET_WEIGHTS) {
            let mut original = Vec::new();
            base.open(name).unwrap().0.read_to_end(&mut original).unwrap();
            assert!(fs::read(target.join(name)).unwrap() == original, "{name}");
        }
    }

    #[test]
    fn no_file_of_the_bases_unet_survives() {
        for name in [
            "unet/diffusion_pytorch_model.safetensors",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.json",
            "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
            "unet/diffusion_pytorch_model.bin",
            "unet/diffusion_flax_model.msgpack",
            "unet/model.onnx_data",
            "v1-5-pruned-emaonly.ckpt",
            "v1-5-pruned.safetensors",
        ] {
            assert!(holds_unet(name), "{name}");
        }
        for name in [
            "unet/config.json",
            "unet/README.md",
            "model_index.json",
            "vae/diffusion_pytorch_model.safetensors",
            "judge/judge.safetensors",
            "tokenizer/merges.txt",
        ] {
            assert!(!holds_unet(name), "{name}");
        }
    }

    #[test]
    fn a_lone_variant_loses_its_name() {
        let all = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let lone = all(&["vae/model.fp16.safetensors", "vae/config.json"]);
        assert_eq!(plain_name(&lone[0], &lone).as_deref(), Some("vae/model.safetensors"));
        assert_eq!(plain_name(&lone[1], &lone), None);
        let both = all(&["vae/model.fp16.safetensors", "vae/model.safetensors"]);
        assert_eq!(plain_name(&both[0], &both), None);
        let two = all(&["vae/model.fp16.safetensors", "vae/model.ema.safetensors"]);
        assert_eq!(plain_name(&two[0], &two), None);
        let sharded = all(&[
            "vae/model.safetensors.index.fp16.json",
            "vae/model.fp16-00001-of-00002.safetensors",
        ]);
        let index = plain_name(&sharded[0], &sharded);
        assert_eq!(index.as_deref(), Some("vae/model.safetensors.index.json"));
        assert_eq!(plain_name(&sharded[1], &sharded), None);
    }
}
