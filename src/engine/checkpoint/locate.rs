//! Which files hold a component's weights: one file, or shards and their index; of one variant.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{header::OpenWeights, read_text};
use crate::{engine::EngineError, spec::ModelFiles};

/// Formats that hold pickled Python objects or another framework's tensors.
const OTHER_FORMATS: [&str; 7] = [".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx"];

/// Where the weights are.
pub(super) enum Located {
    /// All in one file.
    Single(String),
    /// In several: which tensors the index expects in each.
    Sharded(Shards),
}

/// What an index says.
pub(super) struct Shards {
    /// How messages name the index.
    pub(super) index: String,
    /// The shard of each tensor, as paths relative to the model's folder.
    pub(super) shard_of: BTreeMap<String, String>,
}

impl Shards {
    /// Every shard once.
    pub(super) fn files(&self) -> BTreeSet<&str> {
        self.shard_of.values().map(String::as_str).collect()
    }

    /// Refuses a shard that holds other tensors than the index says.
    pub(super) fn agree(&self, name: &str, open: &OpenWeights) -> Result<(), EngineError> {
        let damaged =
            |message| Err(EngineError::DamagedWeights { file: open.file.clone(), message });
        for (tensor, shard) in &self.shard_of {
            let is_here = open.tensors.contains_key(tensor);
            if shard == name && !is_here {
                return damaged(format!(
                    "it lacks the tensor \"{tensor}\" that {} places in it; fetch both again",
                    self.index
                ));
            }
            if shard != name && is_here {
                return damaged(format!(
                    "it holds the tensor \"{tensor}\" that {} places in {shard}; fetch both again",
                    self.index
                ));
            }
        }
        Ok(())
    }
}

/// Finds a component's weights.
pub(super) fn locate(
    files: &dyn ModelFiles,
    component: &str,
    variant: Option<&str>,
) -> Result<Located, EngineError> {
    let prefix = format!("{component}/");
    let mut candidates: Vec<_> =
        files.names().iter().filter_map(|name| Candidate::of(name, &prefix)).collect();
    let variants: BTreeSet<_> = candidates.iter().map(|found| found.variant).collect();
    let chosen = match variant {
        Some(_) => variant,
        // The plain one, or the only one that there is.
        None if variants.contains(&None) => None,
        None if variants.len() == 1 => variants.first().copied().flatten(),
        None => None,
    };
    candidates.retain(|found| found.variant == chosen);
    candidates.sort_by_key(|found| found.rank);
    let Some(best) = candidates.first() else {
        return Err(missing(files, component, variant, &variants));
    };
    if best.is_index {
        read_index(files, component, best.name).map(Located::Sharded)
    } else {
        Ok(Located::Single(best.name.to_owned()))
    }
}

/// Whether a component has weights of a variant.
pub(in crate::engine) fn has_variant(
    files: &dyn ModelFiles,
    component: &str,
    variant: &str,
) -> bool {
    let prefix = format!("{component}/");
    let mut candidates = files.names().iter().filter_map(|name| Candidate::of(name, &prefix));
    candidates.any(|found| found.variant == Some(variant))
}

/// A file that may hold a component's weights, or list those that do.
struct Candidate<'a> {
    name: &'a str,
    variant: Option<&'a str>,
    is_index: bool,
    /// Lower is taken first; as in diffusers and transformers where several forms lie together.
    rank: u8,
}

impl<'a> Candidate<'a> {
    fn of(name: &'a str, prefix: &str) -> Option<Self> {
        let file = name.strip_prefix(prefix)?;
        let (diffusers, rest) = match file.strip_prefix("diffusion_pytorch_model.") {
            Some(rest) => (true, rest),
            None => (false, file.strip_prefix("model.")?),
        };
        let (variant, is_index) = if rest == "safetensors" {
            (None, false)
        } else if rest == "safetensors.index.json" {
            (None, true)
        } else if let Some(variant) = rest.strip_suffix(".safetensors.index.json") {
            (Some(variant), true)
        } else if let Some(rest) = rest.strip_prefix("safetensors.index.") {
            (Some(rest.strip_suffix(".json")?), true)
        } else {
            (Some(rest.strip_suffix(".safetensors")?), false)
        };
        // `model.fp16-00001-of-00002.safetensors` is a shard, which only an index can name.
        if variant.is_some_and(|variant| variant.contains('.') || variant.contains("-of-")) {
            return None;
        }
        let rank = match (diffusers, is_index) {
            (true, true) => 0,
            (true, false) => 1,
            (false, false) => 2,
            (false, true) => 3,
        };
        Some(Self { name, variant, is_index, rank })
    }
}

fn missing(
    files: &dyn ModelFiles,
    component: &str,
    variant: Option<&str>,
    variants: &BTreeSet<Option<&str>>,
) -> EngineError {
    let infix = variant.map(|variant| format!(".{variant}")).unwrap_or_default();
    let looked_for = format!(
        "{component}/diffusion_pytorch_model{infix}.safetensors, {component}/model{infix}.safetensors and their .index.json"
    );
    let prefix = format!("{component}/");
    let other_format = |name: &&String| OTHER_FORMATS.iter().any(|end| name.ends_with(end));
    let inside: Vec<_> = files.names().iter().filter(|name| name.starts_with(&prefix)).collect();
    let whole = |name: &&String| {
        !name.contains('/') && (name.ends_with(".safetensors") || other_format(name))
    };

    let remedy = if !variants.is_empty() {
        let known: Vec<_> = variants
            .iter()
            .map(|variant| variant.map_or("the plain one".to_owned(), |name| format!("\"{name}\"")))
            .collect();
        format!("name one of the variants that are there: {}", known.join(", "))
    } else if let Some(name) = inside.iter().copied().find(other_format) {
        format!(
            "{name} is in another format, and unpickling would run code that the file brings; open the model in diffusers and save it with save_pretrained(FOLDER, safe_serialization=True)"
        )
    } else if let Some(name) = files.names().iter().find(whole) {
        format!(
            "{name} is a checkpoint in one file; convert it in diffusers with StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER, safe_serialization=True)"
        )
    } else if inside.is_empty() {
        format!(
            "there is no folder \"{component}\"; give the folder of a whole diffusers pipeline, the one with model_index.json"
        )
    } else {
        "fetch the folder again, with all of its files".to_owned()
    };
    EngineError::MissingWeights {
        location: files.location().to_owned(),
        component: component.to_owned(),
        looked_for,
        remedy,
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn read_index(files: &dyn ModelFiles, component: &str, name: &str) -> Result<Shards, EngineError> {
    let index = format!("{}/{name}", files.location());
    let refuse = |message: String| EngineError::Config { file: index.clone(), message };
    let json = read_text(files, name)?;
    let parsed: Index = crate::engine::python_json::read(&json)
        .map_err(|error| refuse(format!("is not an index of shards: {error}; fetch it again")))?;

    let mut shard_of = BTreeMap::new();
    for (tensor, shard) in parsed.weight_map {
        // The index comes from anywhere; its shards lie beside it.
        if shard.contains(['/', '\\']) || shard.starts_with('.') || !shard.ends_with(".safetensors")
        {
            return Err(refuse(format!(
                "weight_map places \"{tensor}\" in \"{shard}\", which is not the name of a .safetensors file beside it; fetch it again"
            )));
        }
        let path = format!("{component}/{shard}");
        if !files.names().contains(&path) {
            return Err(EngineError::MissingWeights {
                location: files.location().to_owned(),
                component: component.to_owned(),
                looked_for: path,
                remedy: format!("{name} lists this shard; fetch it"),
            });
        }
        shard_of.insert(tensor, path);
    }
    if shard_of.is_empty() {
        return Err(refuse("weight_map is empty; fetch it again".to_owned()));
    }
    Ok(Shards { index, shard_of })
}
