//! The networks of Stable Diffusion 1.x and 2.x, driven by their `config.json`.

pub mod config;
mod weights;

pub use weights::{Scoped, Weights};
