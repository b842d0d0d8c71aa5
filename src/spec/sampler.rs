//! The samplers that pictures are drawn with.

use serde::{Deserialize, Serialize};
use strum::VariantArray;

use super::{Field, SpecError};

/// A sampler's name, as on the command line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[derive(strum::EnumString, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "kebab-case", parse_err_ty = SpecError, parse_err_fn = unknown_sampler)]
pub enum SamplerKind {
    /// Deterministic DDIM (diffusers: `DDIMScheduler`); for models whose own sampler Keystep has not.
    #[default]
    Ddim,
    /// Pseudo linear multistep (diffusers: `PNDMScheduler` with `skip_prk_steps`).
    Pndm,
    /// Euler (diffusers: `EulerDiscreteScheduler`).
    Euler,
    /// Ancestral Euler (diffusers: `EulerAncestralDiscreteScheduler`).
    EulerAncestral,
    /// DPM-Solver++ of order 2 (diffusers: `DPMSolverMultistepScheduler`).
    #[serde(rename = "dpmpp-2m")]
    #[strum(serialize = "dpmpp-2m")]
    Dpmpp2m,
    /// The same with `use_karras_sigmas`.
    #[serde(rename = "dpmpp-2m-karras")]
    #[strum(serialize = "dpmpp-2m-karras")]
    Dpmpp2mKarras,
    /// Predictor and corrector of order 2 (diffusers: `UniPCMultistepScheduler`).
    Unipc,
    /// Few steps of a latent consistency model (diffusers: `LCMScheduler`).
    Lcm,
}

impl SamplerKind {
    /// All, the reference first.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Every name, as messages list them.
    pub(crate) fn names() -> String {
        Self::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ")
    }
}

fn unknown_sampler(text: &str) -> SpecError {
    let shown: String = text.chars().take(60).collect();
    let names = SamplerKind::names();
    SpecError::one(Field::Sampler, format!("\"{shown}\" is not a sampler; use one of {names}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_everywhere() {
        for &kind in SamplerKind::ALL {
            assert_eq!(kind.name().parse::<SamplerKind>().unwrap(), kind);
            let json = serde_json::to_value(kind).unwrap();
            assert_eq!(json.as_str(), Some(kind.name()));
        }
        let error = "heun".parse::<SamplerKind>().unwrap_err().to_string();
        assert!(error.contains("heun") && error.contains("dpmpp-2m-karras"), "{error}");
    }
}
