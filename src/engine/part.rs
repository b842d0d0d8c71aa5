//! The networks of a model folder before their weights are read: which files hold each, and which
//! of the tensors it takes.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Device;

use super::{
    EngineError,
    checkpoint::{
        StoredTensors, check_dtype, has_variant, measure_large_named, outline_component,
        read_large, read_named,
    },
    family::{ClipTextModel, Family, Vae},
    nn::Weights,
};
use crate::spec::ModelFiles;

/// A network's files, of which only the headers were read so far: every tensor that the architecture
/// needs is there in its shape, and in a type that is computed with. What the files hold besides is never read.
pub(super) struct Part<'a> {
    files: &'a dyn ModelFiles,
    component: &'static str,
    variant: Option<&'a str>,
    /// Each tensor that the network is made of, in its shape and without its values.
    outline: StoredTensors,
    names: BTreeSet<String>,
}

impl<'a> Part<'a> {
    /// Looks at a component, such as `unet`. `build` makes the network of its weights, which are all
    /// zeros here and take no memory; tensors that it has no place for become `warnings`, as
    /// diffusers and transformers only warn of them.
    pub(super) fn find(
        files: &'a dyn ModelFiles,
        (component, variant): (&'static str, Option<&'a str>),
        build: impl FnOnce(&Weights) -> Result<(), EngineError>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, EngineError> {
        let mut outline = outline_component(files, component, variant)?;
        let weights = Weights::frozen(&outline);
        build(&weights)?;
        warnings.extend(surplus(&outline, &weights));
        let names = weights.taken();
        for name in &names {
            if let Some(stored) = outline.tensors.get(name) {
                check_dtype(&stored.file, name, stored.dtype)?;
            }
        }
        outline.tensors.retain(|name, _| names.contains(name));
        Ok(Self { files, component, variant, outline, names })
    }

    /// Reads its weights as f32.
    pub(super) fn read(&self, device: &Device) -> Result<StoredTensors, EngineError> {
        read_named(self.files, self.component, self.variant, &self.names, device)
    }

    /// The same, but that a large network's matrices in half precision stay so in host memory
    /// ([`super::checkpoint::read_large`]).
    pub(super) fn read_large(&self, device: &Device) -> Result<StoredTensors, EngineError> {
        read_large(self.files, self.component, self.variant, Some(&self.names), device)
    }

    /// Bytes that [`Part::read_large`] takes.
    pub(super) fn large_bytes(&self) -> Result<u64, EngineError> {
        measure_large_named(self.files, self.component, self.variant, &self.names)
    }

    /// Numbers of all its weights.
    pub(super) fn count(&self) -> u64 {
        self.outline.tensors.values().map(|stored| stored.tensor.elem_count() as u64).sum()
    }

    /// Its tensors in their shapes, of zeros that take no memory.
    pub(super) fn into_outline(self) -> StoredTensors {
        self.outline
    }
}

/// A model's networks, of which only the headers were read so far.
pub(super) struct NetworkParts<'a> {
    pub(super) denoiser: Part<'a>,
    pub(super) vae: Part<'a>,
    /// The text encoders, in the family's order.
    pub(super) towers: Vec<Part<'a>>,
}

impl<'a> NetworkParts<'a> {
    /// Looks at all of them, as [`Part::find`] does, in a variant where they have it ([`variants`]).
    pub(super) fn find(
        files: &'a dyn ModelFiles,
        family: &dyn Family,
        variant: Option<&'a str>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, EngineError> {
        let towers = family.text_towers();
        let mut components = vec![family.denoiser_component(), "vae"];
        components.extend(towers.iter().map(|tower| tower.component));
        let chosen = variants(files, &components, variant, warnings)?;
        let mut part = |component, build: &dyn Fn(&Weights) -> Result<(), EngineError>| {
            Part::find(files, (component, chosen.get(component).copied()), build, warnings)
        };
        let denoiser = part(family.denoiser_component(), &|w| family.denoiser(w).map(drop))?;
        let vae = part("vae", &|w| Vae::new(w, family.autoencoder()).map(drop))?;
        let towers = towers.iter().map(|tower| {
            part(tower.component, &|w| ClipTextModel::new(w, &tower.encoder).map(drop))
        });
        Ok(Self { denoiser, vae, towers: towers.collect::<Result<_, _>>()? })
    }
}

/// Which components to read in the variant that was asked for, if one was: those that have it; the
/// others are read without, with a warning, as diffusers reads such a folder. Fails where no component
/// has it.
fn variants<'a>(
    files: &dyn ModelFiles,
    components: &[&'static str],
    variant: Option<&'a str>,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<&'static str, &'a str>, EngineError> {
    let Some(name) = variant else { return Ok(BTreeMap::new()) };
    let has_it = |component: &&&str| has_variant(files, component, name);
    let chosen: BTreeMap<_, _> =
        components.iter().filter(has_it).map(|component| (*component, name)).collect();
    if chosen.is_empty() {
        // Any of them may come first: the message lists what there is.
        outline_component(files, components.first().copied().unwrap_or(""), variant)?;
    }
    for component in components.iter().filter(|component| !chosen.contains_key(**component)) {
        warnings.push(format!(
            "{}/{component} has no weights of the variant {name:?}; those without one are read",
            files.location()
        ));
    }
    Ok(chosen)
}

/// What to say of tensors that a network has no place for.
fn surplus(outline: &StoredTensors, weights: &Weights) -> Option<String> {
    /// A hostile file may have any number of them, with names of any length.
    const NAMED: usize = 3;
    let names = weights.surplus();
    let shown: Vec<String> = names
        .iter()
        .take(NAMED)
        .map(|name| format!("{:?}", name.chars().take(80).collect::<String>()))
        .collect();
    let rest = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let left_out = match names.len() {
        0 => return None,
        1 => "a tensor that the network has no place for, which is left out",
        _ => "tensors that the network has no place for, which are left out",
    };
    Some(format!("{} holds {left_out}: {}{rest}", outline.location, shown.join(", ")))
}
