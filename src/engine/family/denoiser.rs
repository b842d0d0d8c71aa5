//! `Denoiser`: the network that predicts the noise in latents, of any family.

use std::{fmt, sync::Arc};

use candle_core::Tensor;

use super::conditioning::{Conditioning, ProjectedConditioning, Prompts};
use crate::engine::{
    EngineError, finite,
    nn::{KeyValue, MemoryPolicy},
    ops,
    tape::TapeTensor,
};

/// A network that predicts the noise in latents, or their velocity, as the scheduler's config says.
///
/// A network implements [`Denoiser::predict`] on [`TapeTensor`]s, once: gradients, dry runs and
/// predictions that keep nothing come from there.
pub trait Denoiser: fmt::Debug + Send + Sync {
    /// How messages name the component, such as `folder/unet`.
    fn location(&self) -> &str;

    /// The prediction, in f32 as its inputs are, whatever is computed in between.
    ///
    /// # Shapes
    /// `sample: [batch, channels, h, w]`, one timestep a sample, a row of prompts a sample, result
    /// shaped as `sample`.
    fn predict(
        &self,
        sample: &TapeTensor,
        timesteps: &[f64],
        prompts: Prompts<'_>,
    ) -> candle_core::Result<TapeTensor>;

    /// The keys and values that each cross-attention makes of text states, `[prompts, tokens,
    /// channels]`, in the order in which they run; none where text changes from block to block.
    fn project_text(&self, states: &TapeTensor) -> candle_core::Result<Option<Vec<KeyValue>>> {
        let _ = states;
        Ok(None)
    }

    /// Numbers of the keys and values that [`Denoiser::project_text`] makes of a prompt's `tokens`.
    fn projected_numbers(&self, tokens: usize) -> Option<usize> {
        let _ = tokens;
        None
    }

    /// What the prediction's gradient must be multiplied by on its way in, and the variables'
    /// gradients divided by when it has come out: in `f16` small ones would vanish.
    fn gradient_scale(&self) -> f64 {
        1.0
    }

    /// How many parts a backward pass can do again.
    fn segment_count(&self) -> usize {
        0
    }

    /// How it saves memory.
    fn memory_policy(&self) -> &MemoryPolicy;

    /// The same network, with the same variables, that saves memory at the cost of time.
    fn with_memory_policy(&self, memory_policy: MemoryPolicy) -> Arc<dyn Denoiser>;

    /// A prediction of which nothing is kept for gradients.
    ///
    /// # Shapes
    /// As [`Denoiser::predict`].
    fn forward(
        &self,
        sample: &Tensor,
        timesteps: &[f64],
        conditioning: &Conditioning,
    ) -> Result<Tensor, EngineError> {
        let sample = TapeTensor::no_grad(sample);
        let conditioning = conditioning.map(TapeTensor::no_grad);
        Ok(self.trace_inputs(&sample, timesteps, &conditioning)?.into_tensor())
    }

    /// Prepares prompts for any number of predictions by [`Denoiser::forward_projected`], each that
    /// differs from the others once.
    fn project(&self, conditioning: &Conditioning) -> Result<ProjectedConditioning, EngineError> {
        let (distinct, rows) = conditioning.distinct()?;
        let states = TapeTensor::no_grad(&distinct.states);
        let blocks = ops::in_pool(|| self.project_text(&states))?;
        Ok(ProjectedConditioning::new(distinct, blocks, rows))
    }

    /// [`Denoiser::forward`] under prompts that this network has projected, with the weights that it
    /// still has; a row a sample. A prediction that is not finite is an error.
    fn forward_projected(
        &self,
        sample: &Tensor,
        timesteps: &[f64],
        conditioning: &ProjectedConditioning,
    ) -> Result<Tensor, EngineError> {
        let sample = TapeTensor::no_grad(sample);
        let predict = || self.predict(&sample, timesteps, conditioning.prompts()?);
        let prediction = ops::in_pool(predict)?.into_tensor();
        finite::check(self.location(), "a prediction", &prediction)?;
        Ok(prediction)
    }

    /// The prediction from which gradients flow back to the network's variables.
    fn trace(
        &self,
        sample: &Tensor,
        timesteps: &[f64],
        conditioning: &Conditioning,
    ) -> Result<TapeTensor, EngineError> {
        let sample = TapeTensor::constant(sample);
        self.trace_inputs(&sample, timesteps, &conditioning.map(TapeTensor::constant))
    }

    /// The same of latents and prompts that may be followed themselves, or that have a shape and no
    /// values: a dry run ([`Meter`](crate::engine::tape::Meter)). Gradients of frozen weights are not
    /// computed.
    fn trace_inputs(
        &self,
        sample: &TapeTensor,
        timesteps: &[f64],
        conditioning: &Conditioning<TapeTensor>,
    ) -> Result<TapeTensor, EngineError> {
        let prompts = Prompts::from(conditioning.clone());
        Ok(ops::in_pool(|| self.predict(sample, timesteps, prompts))?)
    }
}
