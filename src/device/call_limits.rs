//! What one call may ask of the device.

use crate::spec::{Field, GenerateSpec, ScoreSpec, SpecError};

/// Bounds on the products of what a request may name one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallLimits {
    /// Most of pictures × steps × pixels of a drawing.
    pub pixel_steps: u64,
    /// Most U-Net evaluations of a measurement of steps.
    pub score_evaluations: u64,
}

impl Default for CallLimits {
    fn default() -> Self {
        // 64 pictures of 512 by 512 pixels in 64 steps.
        Self { pixel_steps: 1 << 30, score_evaluations: 100_000 }
    }
}

impl CallLimits {
    /// Refuses a drawing, of pictures of the model's own width and height where it names none.
    pub fn check_drawing(
        &self,
        spec: &GenerateSpec,
        own_size: (usize, usize),
    ) -> Result<(), SpecError> {
        let of_image = spec.init_image.as_ref().map(|image| (image.width, image.height));
        let (width, height) = of_image.or(spec.size).unwrap_or(own_size);
        let factors = [spec.pictures.len(), spec.steps, width, height];
        let asked = factors.iter().fold(1, |product: u64, n| product.saturating_mul(*n as u64));
        if asked <= self.pixel_steps {
            return Ok(());
        }
        let message = format!(
            "{} pictures of {width} by {height} pixels in {} steps are {asked} pixels to denoise, \
             the limit of one call is {}; ask for fewer or smaller pictures, or for fewer steps",
            spec.pictures.len(),
            spec.steps,
            self.pixel_steps
        );
        Err(SpecError::one(Field::Steps, message))
    }

    /// Refuses a measurement.
    pub fn check_score(&self, spec: &ScoreSpec) -> Result<(), SpecError> {
        let asked = spec.most_evaluations();
        if asked <= self.score_evaluations {
            return Ok(());
        }
        let message = format!(
            "{} steps on {} trajectories take up to {asked} U-Net evaluations, the limit of one \
             call is {}; ask for fewer trajectories, steps or measures",
            spec.steps, spec.trajectories, self.score_evaluations
        );
        Err(SpecError::one(Field::Trajectories, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Concept, ConceptKind, Vocabulary};

    #[test]
    fn the_product_is_bounded_and_not_its_factors_alone() {
        let limits = CallLimits::default();
        let drawing = |count: usize, steps, size| GenerateSpec {
            size,
            ..GenerateSpec::new(vec![(String::new(), 0); count], steps, 1.0)
        };
        let check = |spec: &GenerateSpec| limits.check_drawing(spec, (512, 512));
        check(&drawing(64, 50, None)).unwrap();
        check(&drawing(4, 50, Some((1_024, 1_024)))).unwrap();
        for spec in [drawing(64, 65, None), drawing(64, 1_000, Some((1_024, 1_024)))] {
            let message = check(&spec).unwrap_err().to_string();
            assert!(message.contains("1073741824") && message.contains("fewer"), "{message}");
        }
        let concept = Concept::new("cat", ConceptKind::Object);
        let preset = ScoreSpec::new(concept, Vocabulary::default());
        limits.check_score(&preset).unwrap();
        let scores = ScoreSpec { steps: 1_000, trajectories: 1_024, ..preset };
        let message = limits.check_score(&scores).unwrap_err().to_string();
        assert!(message.contains("100000") && message.contains("fewer"), "{message}");
    }
}
