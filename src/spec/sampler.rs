//! The samplers that pictures are drawn with.

use serde::{Deserialize, Serialize};

use super::SpecError;

/// A sampler's name, as on the command line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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
    Dpmpp2m,
    /// The same with `use_karras_sigmas`.
    #[serde(rename = "dpmpp-2m-karras")]
    Dpmpp2mKarras,
    /// Predictor and corrector of order 2 (diffusers: `UniPCMultistepScheduler`).
    Unipc,
    /// Few steps of a latent consistency model (diffusers: `LCMScheduler`).
    Lcm,
}

impl SamplerKind {
    /// All, the reference first.
    pub const ALL: [Self; 8] = [
        Self::Ddim,
        Self::Pndm,
        Self::Euler,
        Self::EulerAncestral,
        Self::Dpmpp2m,
        Self::Dpmpp2mKarras,
        Self::Unipc,
        Self::Lcm,
    ];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::Pndm => "pndm",
            Self::Euler => "euler",
            Self::EulerAncestral => "euler-ancestral",
            Self::Dpmpp2m => "dpmpp-2m",
            Self::Dpmpp2mKarras => "dpmpp-2m-karras",
            Self::Unipc => "unipc",
            Self::Lcm => "lcm",
        }
    }
}

impl std::str::FromStr for SamplerKind {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            let shown: String = text.chars().take(60).collect();
            SpecError::one("sampler", format!("\"{shown}\" is not a sampler; use one of {names}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_everywhere() {
        for kind in SamplerKind::ALL {
            assert_eq!(kind.name().parse::<SamplerKind>().unwrap(), kind);
            let json = serde_json::to_value(kind).unwrap();
            assert_eq!(json.as_str(), Some(kind.name()));
        }
        let error = "heun".parse::<SamplerKind>().unwrap_err().to_string();
        assert!(error.contains("heun") && error.contains("dpmpp-2m-karras"), "{error}");
    }
}
