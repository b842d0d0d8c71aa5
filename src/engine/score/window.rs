//! The recommended window.

use crate::{outcome::StepScore, spec::StepIndex};

/// Share of the guidance's effect that the window holds.
const SHARE: f64 = 0.7;

/// The rule in words, for reports.
pub(super) const RULE: &str = "the shortest band of steps that holds 70 % of the concept's effect \
on the picture (guidance energy times the sampler's coefficient)";

/// First and last step of the shortest band that holds [`SHARE`] of the effect; of several equally
/// short ones, the one that holds most.
pub(super) fn recommend(steps: &[StepScore]) -> (StepIndex, StepIndex) {
    let effects: Vec<f64> = steps.iter().map(|step| step.guidance_effect.mean.max(0.0)).collect();
    let enough = effects.iter().sum::<f64>() * SHARE;
    let mut best = (0, effects.len().saturating_sub(1));
    for length in 1..=effects.len() {
        let held = |first: usize| effects[first..first + length].iter().sum::<f64>();
        let most = (0..=effects.len() - length).max_by(|a, b| held(*a).total_cmp(&held(*b)));
        if let Some(first) = most
            && held(first) >= enough
        {
            best = (first, first + length - 1);
            break;
        }
    }
    (steps[best.0].step, steps[best.1].step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{outcome::Estimate, spec::Timestep};

    fn steps(effects: &[f64]) -> Vec<StepScore> {
        let estimate = |mean| Estimate { mean, standard_error: 0.0 };
        effects
            .iter()
            .enumerate()
            .map(|(index, effect)| StepScore {
                step: StepIndex(index),
                timestep: Timestep(0),
                log_snr: index as f64,
                guidance_energy: estimate(0.0),
                guidance_effect: estimate(*effect),
                concept_until: None,
                concept_from: None,
                gradient_share: None,
            })
            .collect()
    }

    #[test]
    fn the_window_is_the_shortest_band_that_holds_enough() {
        let found = recommend(&steps(&[0.0, 0.3, 5.0, 4.0, 0.3, 0.1]));
        assert_eq!(found, (StepIndex(2), StepIndex(3)));
    }

    #[test]
    fn without_any_effect_a_window_is_still_given() {
        assert_eq!(recommend(&steps(&[0.0; 4])), (StepIndex(3), StepIndex(3)));
    }
}
