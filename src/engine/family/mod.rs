//! Families of models: how each encodes a prompt, which networks it is made of, and which of their
//! tensors can be trained. Drawing, scoring, training and planning need not know which family they
//! work with.
//!
//! [`Family`] is what a family says of itself, and each has a folder (`sd`). Beside these lie the
//! networks that several are made of, each driven by its `config.json`: SDXL shares the U-Net, nearly
//! all share CLIP and the autoencoder, and the judges look at pictures with CLIP.

mod clip;
mod conditioning;
pub mod config;
mod denoiser;
mod detect;
mod key_map;
mod model_family;
mod sd;
#[cfg(test)]
mod tests;
mod text_tower;
mod tokenizer;
mod unet;
mod vae;
pub(in crate::engine) mod vae_tiles;

pub use clip::{ClipModel, ClipTextModel};
pub use conditioning::{Conditioning, ProjectedConditioning, Prompts};
pub use config::{ClipConfig, ClipTextConfig, ClipVisionConfig, UnetConfig, VaeConfig};
pub use denoiser::Denoiser;
pub(in crate::engine) use detect::open;
pub use model_family::Family;
pub(in crate::engine) use text_tower::PROMPTS_AT_ONCE;
pub use text_tower::{TextTower, TextTowerConfig};
pub use tokenizer::ClipTokenizer;
pub use unet::Unet;
pub use vae::{LatentDistribution, Vae};
