//! The networks of Stable Diffusion 1.x and 2.x, driven by their `config.json`.

mod clip;
pub mod config;
mod layers;
mod projected_text;
mod resnet;
mod segments;
mod tokenizer;
mod transformer;
mod unet;
mod unet_blocks;
mod vae;
pub(in crate::engine) mod vae_tiles;
mod weights;

pub use clip::{ClipModel, ClipTextModel};
pub use config::{ClipConfig, ClipTextConfig, ClipVisionConfig, UnetConfig, VaeConfig};
pub use projected_text::ProjectedText;
pub use segments::MemoryPolicy;
pub use tokenizer::ClipTokenizer;
pub use unet::Unet;
pub use vae::{LatentDistribution, Vae};
pub use weights::{Origin, Scoped, Weights};
