//! Samplers and the noise they start from.

mod ddim;
mod noise;

pub use ddim::{Ddim, PredictionType, Schedule};
pub use noise::NoiseSource;
