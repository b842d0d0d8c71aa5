//! Targets of the methods, as pure functions of the frozen model's predictions.

use candle_core::Tensor;

use crate::engine::EngineError;

/// What the edited model shall predict: the anchor, and `strength` times the concept's direction
/// away from it, `anchor − strength · (concept − anchor)`.
///
/// With the empty prompt as anchor this is ESD's target (arXiv 2303.07345, equation 7) and the
/// first of KSCU's; with a prompt that keeps the concept's context, Keystep's.
pub(super) fn erase_target(
    concept: &Tensor,
    anchor: &Tensor,
    strength: f64,
) -> Result<Tensor, EngineError> {
    replacing_target(anchor, concept, anchor, strength)
}

/// ESD's target with a concept that shall appear instead: its prediction, and `strength` times the
/// erased concept's direction away, `replacement − strength · (concept − unconditional)`.
pub(super) fn replacing_target(
    replacement: &Tensor,
    concept: &Tensor,
    unconditional: &Tensor,
    strength: f64,
) -> Result<Tensor, EngineError> {
    Ok((replacement - ((concept - unconditional)? * strength)?)?)
}

/// KSCU's weight of the unconditional term's shift, `λ1(t) = (1000 − t) · slope`.
pub(super) fn unconditional_strength(timestep: usize, slope: f64) -> f64 {
    (1_000.0 - timestep as f64) * slope
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_target_lies_opposite_to_the_concept() {
        let concept = Tensor::new(&[3.0_f32, 1.0], &Device::Cpu).unwrap();
        let anchor = Tensor::new(&[1.0_f32, 2.0], &Device::Cpu).unwrap();
        let target = erase_target(&concept, &anchor, 1.0).unwrap();
        assert_eq!(target.to_vec1::<f32>().unwrap(), [-1.0, 3.0]);
        let neutral = erase_target(&concept, &anchor, 0.0).unwrap();
        assert_eq!(neutral.to_vec1::<f32>().unwrap(), [1.0, 2.0]);
    }

    #[test]
    fn a_replacement_is_drawn_towards() {
        let tensor = |value: f32| Tensor::new(&[value], &Device::Cpu).unwrap();
        let target = replacing_target(&tensor(5.0), &tensor(3.0), &tensor(1.0), 0.5).unwrap();
        assert_eq!(target.to_vec1::<f32>().unwrap(), [4.0]);
    }

    #[test]
    fn late_timesteps_are_shifted_more() {
        assert!((unconditional_strength(981, 2e-5) - 3.8e-4).abs() < 1e-12);
        assert!(unconditional_strength(1, 2e-5) > unconditional_strength(981, 2e-5));
    }
}
