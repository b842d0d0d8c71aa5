//! Sinusoidal embeddings of timesteps.

use candle_core::{Device, Tensor};

/// diffusers `get_timestep_embedding`, computed in f64 so that no timestep is rounded.
///
/// # Shapes
/// `[timesteps, channels]`.
pub(in crate::engine) fn sinusoidal_embedding(
    timesteps: &[f64],
    channels: usize,
    flip_sin_to_cos: bool,
    freq_shift: f64,
    device: &Device,
) -> candle_core::Result<Tensor> {
    const MAX_PERIOD: f64 = 10_000.0;
    let half = channels / 2;
    let mut values = Vec::with_capacity(timesteps.len() * channels);
    for timestep in timesteps {
        let angle = |index: usize| {
            // The frequency is rounded to f32, as PyTorch's is; the product then agrees with it.
            let exponent = -MAX_PERIOD.ln() * index as f64 / (half as f64 - freq_shift);
            timestep * f64::from(exponent.exp() as f32)
        };
        let sines = (0..half).map(|index| angle(index).sin() as f32);
        let cosines = (0..half).map(|index| angle(index).cos() as f32);
        if flip_sin_to_cos {
            values.extend(cosines.chain(sines));
        } else {
            values.extend(sines.chain(cosines));
        }
        values.resize(values.len() + channels % 2, 0.0);
    }
    Tensor::from_vec(values, (timesteps.len(), channels), device)
}
