//! An edited model as a folder that diffusers opens.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use serde_json::Value;

use super::{ArtifactError, StagedFolder};
use crate::spec::ModelFiles;

/// Where the edited U-Net's weights go.
pub const UNET_WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";

/// What names the pipeline's parts.
const MODEL_INDEX: &str = "model_index.json";
/// The part that an erasure edits.
const UNET: &str = "unet";
/// Parts of every pipeline that Keystep opens, whether or not `model_index.json` names them.
const REQUIRED_PARTS: [&str; 5] = ["scheduler", "text_encoder", "tokenizer", UNET, "vae"];
/// Keystep's own additions: judges, and the words that the model draws.
const JUDGES: [&str; 2] = ["clip", "judge"];
const VOCABULARY: &str = "vocabulary.json";
/// Configs and tokenizer files, as diffusers and transformers name them.
const PART_FILES: [&str; 14] = [
    "added_tokens.json", "config.json", "generation_config.json", "merges.txt",
    "preprocessor_config.json", "scheduler_config.json", "sentencepiece.bpe.model",
    "special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "vocab.json", "vocab.txt",
];
/// What weights that are no shard begin with.
const WEIGHT_STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];
/// A `model_index.json` is a few kilobytes; whatever is larger is none.
const MOST_INDEX_BYTES: u64 = 1 << 20;

/// A file of the base that becomes one of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedFile {
    /// Its name in the base.
    pub from: String,
    /// Its name in the result.
    pub to: String,
}

/// Which of the base's files an erased pipeline is made of, beside the edited U-Net's weights.
///
/// A list of what belongs to a pipeline, not of what does not: a folder may hold the U-Net under
/// any name (`checkpoint-500/unet`, `unet_ema`, an archive), and each would bring back what was
/// erased.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PipelineFiles {
    /// The parts that `model_index.json` names, with their configs, weights and tokenizer files;
    /// Keystep's judges and vocabulary; licence and model card.
    pub copied: Vec<CopiedFile>,
    /// All others but for the weights in `unet/`, which the edited ones replace.
    pub left_out: Vec<String>,
}

impl PipelineFiles {
    /// Tells the files of a base model apart. Fails where `model_index.json` cannot be read.
    pub fn of(base: &dyn ModelFiles) -> Result<Self, ArtifactError> {
        let parts = pipeline_parts(base)?;
        let names = base.names();
        let mut files = Self::default();
        for name in names {
            if belongs(name, &parts, names) {
                let to = plain_name(name, names).unwrap_or_else(|| name.clone());
                files.copied.push(CopiedFile { from: name.clone(), to });
            } else if !is_replaced(name) {
                files.left_out.push(name.clone());
            }
        }
        Ok(files)
    }
}

/// Fills a staged folder with the base model's files and the edited U-Net's weights.
///
/// A component that has its weights as a variant only, such as `model.fp16.safetensors`, gets them
/// under the plain name, since `from_pretrained` looks for one and the same variant in all
/// components.
///
/// Gives the names of the base's files that were left out.
pub fn write_checkpoint(
    staged: &mut StagedFolder,
    base: &dyn ModelFiles,
    write_unet: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<Vec<String>, ArtifactError> {
    // First, since this is what may fail for reasons beyond the disk.
    staged.write(UNET_WEIGHTS, write_unet)?;
    let files = PipelineFiles::of(base)?;
    for CopiedFile { from, to } in &files.copied {
        staged.copy(base, from, to)?;
    }
    Ok(files.left_out)
}

/// The folders of a pipeline's parts.
fn pipeline_parts(base: &dyn ModelFiles) -> Result<BTreeSet<String>, ArtifactError> {
    let mut parts: BTreeSet<String> = REQUIRED_PARTS.iter().map(|&part| part.to_owned()).collect();
    if !base.names().iter().any(|name| name == MODEL_INDEX) {
        return Ok(parts);
    }
    let unreadable = |source| {
        ArtifactError::File(crate::spec::FileError::Unreadable {
            location: base.location().to_owned(),
            name: MODEL_INDEX.to_owned(),
            source,
        })
    };
    let (reader, _) = base.open(MODEL_INDEX)?;
    let index: Value = serde_json::from_reader(io::Read::take(reader, MOST_INDEX_BYTES))
        .map_err(|error| unreadable(error.into()))?;
    let named = index.as_object().into_iter().flatten();
    // A part is `[library, class]`; `[null, null]` is one that the pipeline goes without.
    parts.extend(named.filter(|(_, value)| is_class(value)).map(|(name, _)| name.clone()));
    Ok(parts)
}

fn is_class(value: &Value) -> bool {
    value.as_array().is_some_and(|pair| pair.len() == 2 && pair.iter().all(Value::is_string))
}

/// Whether a file is one that the pipeline is made of.
fn belongs(name: &str, parts: &BTreeSet<String>, all: &[String]) -> bool {
    let Some((folder, file)) = name.split_once('/') else {
        return name == MODEL_INDEX || name == VOCABULARY || is_licence_or_card(name);
    };
    if file.contains('/') {
        return false;
    }
    if folder == UNET {
        return file == "config.json";
    }
    if !parts.contains(folder) && !JUDGES.contains(&folder) {
        return false;
    }
    PART_FILES.contains(&file)
        || is_weights(file)
        || (folder == "judge" && file == "judge.safetensors")
        || (is_pickle(file) && !has_safetensors(folder, all))
}

/// `LICENSE`, `LICENSE.md`, `NOTICE.txt`, `README.md` and their like.
pub fn is_licence_or_card(name: &str) -> bool {
    let (stem, ending) = name.split_once('.').unwrap_or((name, ""));
    let text = ["", "md", "txt", "rst"].contains(&ending);
    let stem = stem.to_ascii_uppercase();
    text && (stem == "README"
        || ["LICENSE", "LICENCE", "NOTICE", "COPYING", "COPYRIGHT"]
            .iter()
            .any(|known| stem.starts_with(known)))
}

/// Weights of the base's U-Net under the names that diffusers gives them.
fn is_replaced(name: &str) -> bool {
    name.split_once('/').is_some_and(|(folder, file)| folder == UNET && is_weights(file))
}

/// Safetensors of any variant, their shards, and the index of those.
fn is_weights(file: &str) -> bool {
    let Some(rest) = WEIGHT_STEMS.iter().find_map(|stem| file.strip_prefix(stem)) else {
        return false;
    };
    // `.safetensors`, `.fp16.safetensors`, `-00001-of-00002.safetensors`,
    // `.fp16-00001-of-00002.safetensors`.
    let is_name = |text: &str| {
        text.is_empty()
            || (text.starts_with(['.', '-'])
                && text.chars().skip(1).all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)))
    };
    rest.strip_suffix(".safetensors").is_some_and(is_name) || is_index(rest)
}

/// `.safetensors.index.json`, `.safetensors.index.fp16.json`, `.fp16.safetensors.index.json`.
fn is_index(rest: &str) -> bool {
    rest.split_once(".safetensors.index.").is_some_and(|(before, after)| {
        let is_variant =
            |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        match after.strip_suffix("json") {
            Some("") => before.strip_prefix('.').map_or(before.is_empty(), is_variant),
            Some(variant) => before.is_empty() && is_variant(variant.trim_end_matches('.')),
            None => false,
        }
    })
}

/// The weights of a part that Keystep does not open, such as a safety checker of which there is no
/// other form: without them diffusers could not open the result.
fn is_pickle(file: &str) -> bool {
    ["pytorch_model.bin", "diffusion_pytorch_model.bin"].contains(&file)
}

fn has_safetensors(folder: &str, all: &[String]) -> bool {
    let inside = all.iter().filter_map(|name| name.split_once('/'));
    inside.filter(|(other, _)| *other == folder).any(|(_, file)| is_weights(file))
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

    /// A folder of empty files, with a safety checker among the named parts.
    fn folder_of(names: &[&str]) -> (tempfile::TempDir, ModelFolder) {
        let place = tempfile::tempdir().unwrap();
        let index = r#"{
            "_class_name": "StableDiffusionPipeline",
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
            "image_encoder": [null, null],
            "requires_safety_checker": true
        }"#;
        fs::write(place.path().join(MODEL_INDEX), index).unwrap();
        for name in names {
            let path = place.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let folder = ModelFolder::open(place.path()).unwrap();
        (place, folder)
    }

    #[test]
    fn the_result_is_the_base_with_other_unet_weights() {
        let place = tempfile::tempdir().unwrap();
        let base = open_model("builtin:emoji-canvas").unwrap();
        let target = place.path().join("erased");
        let mut staged = StagedFolder::create(&target, &[UNET_WEIGHTS]).unwrap();
        let left_out =
            write_checkpoint(&mut staged, base.as_ref(), |out| out.write_all(b"new")).unwrap();
        staged.commit().unwrap();
        assert!(left_out.is_empty(), "{left_out:?}");
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
    fn whatever_is_no_part_of_the_pipeline_is_left_out_and_named() {
        let left_out = [
            "README.html",
            "checkpoint-500/model.safetensors",
            "checkpoint-500/unet/config.json",
            "checkpoint-500/unet/diffusion_pytorch_model.safetensors",
            "controlnet/diffusion_pytorch_model.safetensors",
            "fp16/unet/diffusion_pytorch_model.safetensors",
            "image_encoder/model.safetensors",
            "licenses/unet.safetensors",
            "loras/cat.safetensors",
            "model.SAFETENSORS",
            "model.safetensors",
            "model.safetensors.part",
            "onnx/unet/model.onnx",
            "text_encoder/onnx/model.onnx",
            "text_encoder/openvino_model.bin",
            "text_encoder/pytorch_model.bin",
            "text_encoder/unet.safetensors",
            "unet/diffusion_flax_model.msgpack",
            "unet/diffusion_pytorch_model.bin",
            "unet/model.onnx_data",
            "unet_ema/diffusion_pytorch_model.safetensors",
            "v1-5-pruned-emaonly.ckpt",
            "v1-5.CKPT",
            "v1-5.ckpt.bak",
            "vae/diffusion_pytorch_model.safetensors.part",
            "weights.zip",
        ];
        let kept = [
            "LICENSE",
            "NOTICE.txt",
            "README.md",
            "clip/config.json",
            "judge/judge.safetensors",
            "model_index.json",
            "safety_checker/config.json",
            "safety_checker/pytorch_model.bin",
            "text_encoder/model.safetensors",
            "tokenizer/added_tokens.json",
            "tokenizer/merges.txt",
            "unet/config.json",
            "vae/diffusion_pytorch_model-00001-of-00002.safetensors",
            "vae/diffusion_pytorch_model.fp16.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.safetensors.index.json",
            "vocabulary.json",
        ];
        let replaced = [
            UNET_WEIGHTS,
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.json",
            "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
        ];
        let all = [&left_out[..], &kept, &replaced].concat();
        let (_place, folder) =
            folder_of(&all.iter().copied().filter(|name| *name != MODEL_INDEX).collect::<Vec<_>>());
        let files = PipelineFiles::of(&folder).unwrap();
        assert_eq!(files.left_out, left_out);
        let copied: Vec<&str> = files.copied.iter().map(|file| file.from.as_str()).collect();
        assert_eq!(copied, kept);
    }

    #[test]
    fn a_model_index_that_cannot_be_read_is_an_error() {
        let (place, _) = folder_of(&[]);
        fs::write(place.path().join(MODEL_INDEX), "{").unwrap();
        let folder = ModelFolder::open(place.path()).unwrap();
        let error = PipelineFiles::of(&folder).unwrap_err().to_string();
        assert!(error.contains(MODEL_INDEX), "{error}");
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
