//! `Family`: what differs from one family of models to the next.

use std::{fmt, sync::Arc};

use super::{
    conditioning::Conditioning,
    config::VaeConfig,
    denoiser::Denoiser,
    text_tower::{TextTower, TextTowerConfig},
};
use crate::{
    engine::{EngineError, nn::Weights},
    spec::Scope,
};

/// A family of models, such as Stable Diffusion, as the configs of one folder describe it; it holds no
/// weights. Drawing, scoring, training and planning reach all that is peculiar to a family through
/// this trait and its [`Denoiser`].
pub trait Family: fmt::Debug + Send + Sync {
    /// The folder of the denoiser, such as `unet`.
    fn denoiser_component(&self) -> &'static str;

    /// Builds the denoiser, and takes every tensor that it is made of.
    fn denoiser(&self, weights: &Weights<'_>) -> Result<Arc<dyn Denoiser>, EngineError>;

    /// Whether a tensor of the denoiser is trained in a scope, by its name. A family leaves out those
    /// that no gradient reaches, and says what a scope means where its layers have other names.
    fn trains(&self, scope: &Scope, name: &str) -> bool {
        scope.contains(name)
    }

    /// Channels of the latents.
    fn latent_channels(&self) -> usize;

    /// Height and width of the latents that the model was trained at, which drawing without a size,
    /// scores and training need; an error where its folder does not say.
    fn own_size(&self) -> Result<[usize; 2], EngineError>;

    /// The architecture of the autoencoder.
    fn autoencoder(&self) -> &VaeConfig;

    /// The text encoders, in the order in which [`Family::encode`] takes them. Words are compared and
    /// measured by the tokens of the first.
    fn text_towers(&self) -> &[TextTowerConfig];

    /// The shape of one prompt's conditioning, without the axis of prompts.
    fn conditioning_shape(&self) -> Conditioning<Vec<usize>>;

    /// Encodes prompts for pictures of a height and width in pixels; of the model's own where none is
    /// given.
    fn encode(
        &self,
        towers: &[TextTower],
        prompts: &[&str],
        picture: Option<[usize; 2]>,
    ) -> Result<Conditioning, EngineError>;

    /// What classifier-free guidance steers away from: one row. Most families encode the negative
    /// prompt; SDXL takes zeros in place of an empty one.
    fn unconditional(
        &self,
        towers: &[TextTower],
        negative_prompt: &str,
        picture: Option<[usize; 2]>,
    ) -> Result<Conditioning, EngineError> {
        self.encode(towers, &[negative_prompt], picture)
    }

    /// What of the configs is read otherwise than it stands in its file, in words.
    fn repairs(&self) -> Vec<String> {
        Vec::new()
    }

    /// Refuses parts that do not belong together.
    fn check(&self) -> Result<(), EngineError>;
}
