//! Samplers and the noise they start from.

mod noise;

pub use noise::NoiseSource;
