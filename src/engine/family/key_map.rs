//! Maps tensor names that other versions of diffusers and transformers write to those of today. The
//! names of single-file checkpoints belong here.

use crate::engine::nn::Weights;

/// What the layers of an attention are called.
pub(super) struct AttentionNames {
    pub(super) query: &'static str,
    pub(super) key: &'static str,
    pub(super) value: &'static str,
    pub(super) out: &'static str,
}

/// Of the attention in an autoencoder's middle: checkpoints older than diffusers 0.17 have other names.
pub(super) fn autoencoder_attention(attention: &Weights) -> AttentionNames {
    if attention.has("query.weight") {
        AttentionNames { query: "query", key: "key", value: "value", out: "proj_attn" }
    } else {
        AttentionNames { query: "to_q", key: "to_k", value: "to_v", out: "to_out.0" }
    }
}

/// Where a CLIP text encoder's tensors lie: transformers 5 saves without the prefix that older
/// versions wrote.
pub(super) fn text_encoder<'a>(component: &Weights<'a>) -> Weights<'a> {
    const PREFIX: &str = "text_model";
    if component.has_any_below(PREFIX) { component.at(PREFIX) } else { component.clone() }
}
