//! Samplers and the noise they start from.

pub mod ddim;
pub mod noise;

pub use ddim::{Ddim, PredictionType, Schedule};
pub use noise::{NoiseSource, NoiseState};
