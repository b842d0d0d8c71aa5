//! Samplers and the noise they start from.
