//! `Scope`: the tensors that an erasure trains.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Field, SpecError, prompt_rules::check_prompt};

/// Which of the U-Net's tensors are trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Every tensor of the cross-attention layers (`attn2`): ESD's `esd-x`.
    CrossAttention,
    /// Their keys and values alone: `esd-x-strict`.
    CrossAttentionKeyValue,
    /// Everything but the cross-attention layers: `esd-u`, "noxattn".
    NonCrossAttention,
    /// Every tensor.
    All,
    /// Every tensor whose name contains the text.
    NameContains(String),
}

/// As it stands in messages.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CrossAttention => f.write_str("cross-attention"),
            Self::CrossAttentionKeyValue => f.write_str("cross-attention, keys and values"),
            Self::NonCrossAttention => f.write_str("all but cross-attention"),
            Self::All => f.write_str("all"),
            Self::NameContains(text) => write!(f, "of names that contain {text:?}"),
        }
    }
}

impl Scope {
    /// Whether a tensor of the U-Net is trained, by its name in the checkpoint.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::CrossAttention => name.contains("attn2"),
            Self::CrossAttentionKeyValue => {
                name.contains("attn2.to_k") || name.contains("attn2.to_v")
            }
            Self::NonCrossAttention => !name.contains("attn2"),
            Self::All => true,
            Self::NameContains(text) => name.contains(text.as_str()),
        }
    }

    /// Checks the text of [`Scope::NameContains`].
    pub fn validate(&self) -> Result<(), SpecError> {
        match self {
            Self::NameContains(text) => check_prompt(Field::Scope, text),
            _ => Ok(()),
        }
    }
}

impl std::str::FromStr for Scope {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text {
            "cross-attention" => Ok(Self::CrossAttention),
            "cross-attention-key-value" => Ok(Self::CrossAttentionKeyValue),
            "non-cross-attention" => Ok(Self::NonCrossAttention),
            "all" => Ok(Self::All),
            _ => match text.strip_prefix("name:") {
                Some(part) if !part.is_empty() => Ok(Self::NameContains(part.to_owned())),
                _ => Err(SpecError::one(
                    Field::Scope,
                    format!(
                        "\"{text}\" is not a scope; use cross-attention, cross-attention-key-value, \
                         non-cross-attention, all or name:TEXT"
                    ),
                )),
            },
        }
    }
}
