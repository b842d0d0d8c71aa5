//! The networks of Stable Diffusion 1.x and 2.x, driven by their `config.json`.

mod tokenizer;
mod weights;

pub use tokenizer::ClipTokenizer;
pub use weights::{Scoped, Weights};
