//! Stable Diffusion 1.x and 2.x: a U-Net that reads the states of one CLIP text encoder.

use std::sync::Arc;

use candle_core::Tensor;

use super::{
    conditioning::Conditioning,
    config::{UnetConfig, VaeConfig},
    denoiser::Denoiser,
    model_family::Family,
    text_tower::{TextTower, TextTowerConfig},
    unet::Unet,
};
use crate::{
    engine::{EngineError, checkpoint::read_text, nn::Weights},
    spec::ModelFiles,
};

const UNET: &str = "unet";

/// The configs of diffusers' `StableDiffusionPipeline`.
#[derive(Debug)]
pub(super) struct StableDiffusion {
    unet: UnetConfig,
    /// How messages name the file of `unet`.
    unet_file: String,
    vae: VaeConfig,
    tower: [TextTowerConfig; 1],
}

impl StableDiffusion {
    /// Reads and checks each config alone.
    pub(super) fn read(files: &dyn ModelFiles) -> Result<Self, EngineError> {
        let config = |component: &str| {
            let name = format!("{component}/config.json");
            Ok::<_, EngineError>((read_text(files, &name)?, format!("{}/{name}", files.location())))
        };
        let (json, unet_file) = config(UNET)?;
        let unet = UnetConfig::parse(&json, &unet_file)?;
        let (json, file) = config("vae")?;
        let vae = VaeConfig::parse(&json, &file)?;
        let tower = [TextTowerConfig::first(files)?];
        Ok(Self { unet, unet_file, vae, tower })
    }

    fn text(&self) -> &TextTowerConfig {
        let [tower] = &self.tower;
        tower
    }
}

impl Family for StableDiffusion {
    fn denoiser_component(&self) -> &'static str {
        UNET
    }

    fn denoiser(&self, weights: &Weights<'_>) -> Result<Arc<dyn Denoiser>, EngineError> {
        Ok(Arc::new(Unet::new(weights, &self.unet)?))
    }

    fn latent_channels(&self) -> usize {
        self.unet.in_channels
    }

    fn own_size(&self) -> Result<[usize; 2], EngineError> {
        self.unet.own_size(&self.unet_file)
    }

    fn autoencoder(&self) -> &VaeConfig {
        &self.vae
    }

    fn text_towers(&self) -> &[TextTowerConfig] {
        &self.tower
    }

    fn conditioning_shape(&self) -> Conditioning<Vec<usize>> {
        let tokens = self.text().encoder.max_position_embeddings;
        let states = vec![tokens, self.unet.cross_attention_dim];
        Conditioning { states, pooled: None, extra: None }
    }

    fn encode(
        &self,
        towers: &[TextTower],
        prompts: &[&str],
        _picture: Option<[usize; 2]>,
    ) -> Result<Conditioning, EngineError> {
        // Those of several towers would lie beside each other on the width; here there is one.
        let states = towers.iter().map(|tower| tower.states(prompts));
        Ok(Tensor::cat(&states.collect::<Result<Vec<_>, _>>()?, 2)?.into())
    }

    fn repairs(&self) -> Vec<String> {
        self.unet.repairs(&self.unet_file).into_iter().collect()
    }

    fn check(&self) -> Result<(), EngineError> {
        let TextTowerConfig { encoder, file, .. } = self.text();
        if encoder.tower.hidden_size != self.unet.cross_attention_dim {
            return Err(EngineError::Config {
                file: file.clone(),
                message: format!(
                    "hidden_size is {}, the U-Net's cross_attention_dim is {}; the parts do not \
                     belong together",
                    encoder.tower.hidden_size, self.unet.cross_attention_dim
                ),
            });
        }
        let (unet, vae) = (&self.unet, &self.vae);
        if vae.latent_channels != unet.in_channels || unet.in_channels != unet.out_channels {
            return Err(EngineError::Config {
                file: self.unet_file.clone(),
                message: format!(
                    "in_channels is {} and out_channels {}, the autoencoder has {} latent \
                     channels; inpainting and depth models are not supported",
                    unet.in_channels, unet.out_channels, vae.latent_channels
                ),
            });
        }
        Ok(())
    }
}
