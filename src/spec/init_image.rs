//! `InitImage`: the picture that drawings begin with, in place of noise.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::{Field, SpecError, violation::Violations};

/// A picture that drawings begin with, in place of noise, and how far they go from it (diffusers:
/// `image` and `strength` of `StableDiffusionImg2ImgPipeline`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitImage {
    /// Pixels a row.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// 8-bit RGB, rows from the top, `width * height * 3` bytes.
    pub rgb: Vec<u8>,
    /// The share of the denoising steps that are taken, 0 to 1: near 0 little of the picture
    /// changes, at 1 little of it is left.
    pub strength: f64,
}

impl InitImage {
    /// The strength where none is given, as in diffusers.
    pub const STRENGTH: f64 = 0.8;
    /// How wide and how high it may be, in pixels.
    pub const SIDES: RangeInclusive<usize> = 8..=2_048;

    /// The first of so many denoising steps that is taken (`get_timesteps`): all are left out where
    /// this is their number.
    pub fn first_step(&self, steps: usize) -> usize {
        steps - ((steps as f64 * self.strength) as usize).min(steps)
    }

    /// Checks every field, for a run of so many steps.
    pub(super) fn validate(&self, steps: usize) -> Result<(), SpecError> {
        let mut found = Violations::default();
        for (side, pixels) in [("width", self.width), ("height", self.height)] {
            if !Self::SIDES.contains(&pixels) {
                let (least, most) = Self::SIDES.into_inner();
                let message =
                    format!("its {side} is {pixels} pixels, outside {least} to {most}; resize it");
                found.add(Field::InitImage, message);
            }
        }
        let bytes = self.width.checked_mul(self.height).and_then(|pixels| pixels.checked_mul(3));
        if bytes != Some(self.rgb.len()) {
            let message = format!(
                "has {} bytes, not three for each of {} by {} pixels",
                self.rgb.len(),
                self.width,
                self.height
            );
            found.add(Field::InitImage, message);
        }
        found.within(Field::Strength, self.strength, 0.0..=1.0);
        if (0.0..=1.0).contains(&self.strength) && steps > 0 && self.first_step(steps) == steps {
            let message = format!(
                "{} of {steps} steps is less than one; make it {} at least, or ask for more steps",
                self.strength,
                least_strength(steps)
            );
            found.add(Field::Strength, message);
        }
        found.finish()
    }
}

/// In thousandths, so that it can be typed.
fn least_strength(steps: usize) -> f64 {
    1_000_usize.div_ceil(steps.clamp(1, 1_000)) as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(strength: f64) -> InitImage {
        InitImage { width: 8, height: 8, rgb: vec![0; 192], strength }
    }

    fn refused(image: &InitImage, steps: usize) -> Vec<String> {
        let violations = image.validate(steps).err().map(|error| error.violations);
        violations.into_iter().flatten().map(|broken| broken.to_string()).collect()
    }

    #[test]
    fn steps_are_left_out_as_get_timesteps_leaves_them_out() {
        // `steps - min(int(steps * strength), steps)` by Python; 0.29 of 100 is 28.999999999999996.
        for (steps, strength, first) in [
            (6, 0.5, 3),
            (6, 0.9, 1),
            (25, 0.8, 5),
            (50, 0.75, 13),
            (25, 0.56, 11),
            (100, 0.29, 72),
            (1, 1.0, 0),
            (1_000, 1.0, 0),
            (10, 0.0, 10),
            (3, 0.3, 3),
        ] {
            assert_eq!(image(strength).first_step(steps), first, "{strength} of {steps}");
        }
    }

    #[test]
    fn the_least_strength_that_is_named_is_enough() {
        for steps in 1..=1_000 {
            let named = least_strength(steps);
            assert_eq!(refused(&image(named), steps), [""; 0], "{named} of {steps}");
            let below = refused(&image(0.999 / steps as f64), steps).join("\n");
            assert!(below.contains(&format!("make it {named} at least")), "{below}");
        }
    }

    #[test]
    fn pictures_and_strengths_out_of_range_are_refused() {
        for strength in [-0.1, 1.001, f64::NAN, f64::INFINITY] {
            assert!(refused(&image(strength), 25).join("\n").contains("outside 0 to 1"));
        }
        for (width, height) in [(0, 0), (7, 8), (8, 2_049), (usize::MAX, 2)] {
            let odd = InitImage { width, height, ..image(0.8) };
            let refused = refused(&odd, 25).join("\n");
            assert!(refused.contains("8 to 2048") && refused.contains("bytes"), "{refused}");
        }
        assert_eq!(refused(&image(1.0), 25), [""; 0]);
    }
}
