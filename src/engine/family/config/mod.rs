//! The networks' `config.json` files, as diffusers and transformers write them: absent fields take
//! their defaults, and whatever we do not build is refused, since ignoring it would draw other
//! pictures than diffusers does.

mod clip;
mod fields;
#[cfg(test)]
mod tests;
mod unet;
mod vae;

pub use clip::{ClipActivation, ClipConfig, ClipTextConfig, ClipVisionConfig};
pub use unet::{DownBlockKind, UnetConfig, UpBlockKind};
pub use vae::VaeConfig;
