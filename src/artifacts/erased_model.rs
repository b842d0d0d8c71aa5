//! What a result holds of an erased model: the same files with the same metadata for
//! `--local` and the worker.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use super::{
    ArtifactError, StagedFolder,
    diffusers::{UNET_WEIGHTS, write_checkpoint},
    preflight::{check_readable, check_room, files_to_copy},
    refuse_erased_weights,
};
use crate::{
    outcome::result_layout::{DELTA, PIPELINE},
    spec::{ModelFiles, OutputFormat, UnlearnSpec},
};

/// What says how the U-Net is built.
const UNET_CONFIG: &str = "unet/config.json";

/// Bytes of an erased model's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EditedBytes {
    /// Of the edited U-Net.
    pub unet: u64,
    /// Of the edited tensors alone.
    pub delta: u64,
}

/// Which files of an erased model a result holds.
#[derive(Debug, Clone, Copy)]
pub struct ErasedModel<'a> {
    /// The model that it was made of.
    pub base: &'a dyn ModelFiles,
    /// What is written.
    pub formats: &'a [OutputFormat],
}

/// How an erased model's weights are written.
pub trait ErasedWeights {
    /// The edited U-Net as safetensors.
    fn write_unet(&self, out: &mut dyn Write) -> io::Result<()>;

    /// The edited tensors alone as safetensors.
    fn write_delta(
        &self,
        metadata: &BTreeMap<String, String>,
        out: &mut dyn Write,
    ) -> io::Result<()>;
}

impl ErasedModel<'_> {
    /// Finds what would stop [`ErasedModel::write`], before there is anything to write: every file of
    /// the base that goes along can be read, and the disk has room for all.
    pub fn check_before(
        &self,
        bytes: EditedBytes,
        staged: &StagedFolder,
    ) -> Result<(), ArtifactError> {
        let mut needed: u64 = 0;
        for format in self.formats {
            let (edited, copied) = match format {
                OutputFormat::Delta => (bytes.delta, Vec::new()),
                OutputFormat::Unet if has(self.base, UNET_CONFIG) => {
                    (bytes.unet, vec![UNET_CONFIG.to_owned()])
                }
                OutputFormat::Unet => (bytes.unet, Vec::new()),
                OutputFormat::Pipeline => (bytes.unet, files_to_copy(self.base)?),
            };
            let copied = check_readable(self.base, &copied)?;
            needed = needed.saturating_add(edited).saturating_add(copied);
        }
        check_room(staged.unfinished(), staged.target(), needed)
    }

    /// Writes the files; gives the base's that are no part of its pipeline and were left out.
    ///
    /// `metadata` is what the delta says of itself ([`delta_metadata`]). Fails where any other file
    /// of the result holds weights as they were before: `erased_stretches` are some of these.
    pub fn write(
        &self,
        weights: &dyn ErasedWeights,
        metadata: &BTreeMap<String, String>,
        erased_stretches: &[Vec<u8>],
        staged: &mut StagedFolder,
    ) -> Result<Vec<String>, ArtifactError> {
        let write_unet = |out: &mut dyn Write| weights.write_unet(out);
        let mut left_out = Vec::new();
        for format in self.formats {
            match format {
                OutputFormat::Delta => {
                    staged.write(DELTA, |out| weights.write_delta(metadata, out))?;
                }
                OutputFormat::Unet => {
                    staged.write(UNET_WEIGHTS, write_unet)?;
                    if has(self.base, UNET_CONFIG) {
                        staged.copy(self.base, UNET_CONFIG, UNET_CONFIG)?;
                    }
                }
                OutputFormat::Pipeline => {
                    left_out = staged.within(PIPELINE, |staged| {
                        write_checkpoint(staged, self.base, write_unet)
                    })?;
                }
            }
        }
        let pipeline_unet = format!("{PIPELINE}/{UNET_WEIGHTS}");
        let edited = [DELTA, UNET_WEIGHTS, &pipeline_unet];
        refuse_erased_weights(staged.unfinished(), erased_stretches, &edited)?;
        if !left_out.is_empty() {
            tracing::warn!(files = ?left_out, "files that are no part of the pipeline are left out of the result");
        }
        Ok(left_out)
    }
}

/// What a delta says of itself: the base model by its name and digest, the spec, and what made it.
pub fn delta_metadata(
    base: &str,
    base_digest: &str,
    spec: &UnlearnSpec,
) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("keystep.base".to_owned(), base.to_owned()),
        ("keystep.base_digest".to_owned(), base_digest.to_owned()),
        // A spec always has a form in JSON: it came out of one.
        ("keystep.spec".to_owned(), serde_json::to_string(spec).unwrap_or_default()),
        ("keystep.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ])
}

fn has(files: &dyn ModelFiles, name: &str) -> bool {
    files.names().iter().any(|file| file == name)
}
