//! The layers and blocks that model families share, as PyTorch and diffusers name them, and how a
//! network takes its weights.

mod embeddings;
mod layers;
mod resnet;
mod segments;
mod text;
mod transformer;
mod unet_blocks;
mod weights;

pub(in crate::engine) use embeddings::sinusoidal_embedding;
pub(in crate::engine) use layers::{Conv2d, Conv2dSize, GroupNormLayer, LayerNorm, Linear};
pub(in crate::engine) use resnet::{Downsample, ResnetBlock, ResnetSize, Upsample};
pub use segments::MemoryPolicy;
pub(in crate::engine) use segments::{BlockInputs, Segment};
pub use text::{KeyValue, Rows, Text};
pub(in crate::engine) use transformer::{Transformer, TransformerSize};
pub(in crate::engine) use unet_blocks::{DownBlock, MidBlock, UpBlock};
pub use weights::{Origin, Scoped, Weights};
