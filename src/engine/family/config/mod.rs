//! The networks' `config.json` files, as diffusers and transformers write them. Absent fields take
//! their defaults. A value that Keystep does not build is refused: ignoring it would draw other
//! pictures than diffusers.

mod clip;
mod fields;
#[cfg(test)]
mod tests;
mod unet;
mod vae;

pub use clip::{ClipActivation, ClipConfig, ClipTextConfig, ClipTowerConfig, ClipVisionConfig};
pub use unet::{BlockKind, UnetConfig};
pub use vae::VaeConfig;
