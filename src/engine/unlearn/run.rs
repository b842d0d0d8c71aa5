//! The parts of an erasure that every method uses.

use candle_core::Tensor;

use crate::{
    engine::{
        EngineError, Pipeline, denoise::EvaluationCounter, family::Conditioning,
        schedule::NoiseSource, state::Checkpointer,
    },
    spec::{ConceptKind, UnlearnSpec},
};

/// An erasure under way.
#[derive(Debug)]
pub(super) struct Run<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) spec: &'a UnlearnSpec,
    /// Every draw of the run, in order.
    pub(super) noise: NoiseSource,
    /// Evaluations of the method itself.
    pub(super) evaluations: &'a EvaluationCounter,
    /// Evaluations of the probe.
    pub(super) checks: &'a EvaluationCounter,
    /// Where the run's state goes.
    pub(super) checkpointer: Checkpointer,
}

impl Run<'_> {
    /// The bare concepts as the published methods speak them, a row each.
    pub(super) fn concept_texts(&self) -> Result<Vec<Conditioning>, EngineError> {
        let each = self.spec.concepts.iter();
        each.map(|concept| self.bare_text(&concept.text, concept.kind)).collect()
    }

    /// What shall appear in each concept's place, spoken alike.
    pub(super) fn replacement_texts(&self) -> Result<Vec<Option<Conditioning>>, EngineError> {
        let each = self.spec.concepts.iter();
        each.map(|concept| {
            let replacement = concept.replacement.as_ref();
            replacement.map(|text| self.bare_text(text, concept.kind)).transpose()
        })
        .collect()
    }

    fn bare_text(&self, text: &str, kind: ConceptKind) -> Result<Conditioning, EngineError> {
        self.pipeline.encode_prompts(&[match kind {
            ConceptKind::Style => format!("{text} style"),
            _ => text.to_owned(),
        }])
    }

    /// Noise at the model's own size, `[count, channels, h, w]`.
    pub(super) fn fresh_latents(&mut self, count: usize) -> Result<Tensor, EngineError> {
        let [channels, height, width] = self.pipeline.latent_shape(None)?;
        Ok(self.noise.randn_tensor(&[count, channels, height, width], &self.pipeline.device)?)
    }
}
