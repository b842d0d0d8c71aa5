//! A text encoder with its tokenizer.

use std::sync::Arc;

use candle_core::Tensor;

use super::{clip::ClipTextModel, config::ClipTextConfig, tokenizer::ClipTokenizer};
use crate::{
    engine::{EngineError, checkpoint::read_text},
    spec::ModelFiles,
};

/// A bound on a text encoder's activations; hidden states are small beside them.
pub(in crate::engine) const PROMPTS_AT_ONCE: usize = 64;

/// Where a text tower lies in a model's folder, and its architecture.
#[derive(Debug, Clone)]
pub struct TextTowerConfig {
    /// The text encoder's folder.
    pub component: &'static str,
    /// The tokenizer's.
    pub tokenizer: &'static str,
    /// The text encoder's architecture.
    pub encoder: ClipTextConfig,
    /// How messages name the file that says so.
    pub file: String,
}

impl TextTowerConfig {
    /// The CLIP tower that every supported family has.
    pub(in crate::engine) fn first(files: &dyn ModelFiles) -> Result<Self, EngineError> {
        Self::read(files, "text_encoder", "tokenizer")
    }

    /// Reads and checks the text encoder's config.
    pub(super) fn read(
        files: &dyn ModelFiles,
        component: &'static str,
        tokenizer: &'static str,
    ) -> Result<Self, EngineError> {
        let name = format!("{component}/config.json");
        let file = format!("{}/{name}", files.location());
        let encoder = ClipTextConfig::parse(&read_text(files, &name)?, &file)?;
        Ok(Self { component, tokenizer, encoder, file })
    }
}

/// A CLIP text encoder in memory, and its tokenizer.
#[derive(Debug, Clone)]
pub struct TextTower {
    /// Prompts to token ids.
    pub tokenizer: Arc<ClipTokenizer>,
    /// Token ids to hidden states.
    pub encoder: Arc<ClipTextModel>,
}

impl TextTower {
    /// `last_hidden_state` of prompts, `[prompts, tokens, channels]`.
    pub(super) fn states(&self, prompts: &[&str]) -> Result<Tensor, EngineError> {
        let mut parts = Vec::new();
        for prompts in prompts.chunks(PROMPTS_AT_ONCE) {
            let ids = prompts.iter().map(|prompt| self.tokenizer.encode(prompt));
            parts.push(self.encoder.forward(&ids.collect::<Result<Vec<_>, _>>()?)?);
        }
        Ok(Tensor::cat(&parts, 0)?)
    }
}
