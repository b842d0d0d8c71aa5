//! The segments of the U-Net that a backward pass can compute again, where memory is too short to
//! keep their activations.

use std::{collections::BTreeSet, num::NonZeroUsize, sync::Arc};

use candle_core::Result;

use super::{
    resnet::{ResnetBlock, Upsample},
    text::Text,
    transformer::Transformer,
};
use crate::engine::{
    ops,
    tape::{TapeTensor, checkpointed},
};

/// How much time a U-Net takes to save memory. No result depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryPolicy {
    /// Segments of which nothing is kept for the backward pass, which does them again: numbered
    /// from 0 in the order in which they run, each a residual block with the transformer after it,
    /// or an upsampling.
    pub recomputed: BTreeSet<usize>,
    /// Most passes of a batch that run side by side; none where every thread may take one.
    pub passes: Option<NonZeroUsize>,
}

/// What every level reads beside its input.
#[derive(Debug)]
pub(in crate::engine) struct BlockInputs<'a> {
    /// The time embedding after its SiLU, `[batch, time]`.
    pub(in crate::engine) activated_time: &'a TapeTensor,
    pub(in crate::engine) text: Text<'a>,
}

/// A part of the U-Net with one result.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Segment {
    layers: Arc<Layers>,
    pub(in crate::engine) recomputed: bool,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "few, and each behind an `Arc`")]
enum Layers {
    Residual(ResnetBlock, Option<Transformer>),
    Upsample(Upsample),
}

impl Segment {
    pub(in crate::engine) fn residual(
        resnet: ResnetBlock,
        transformer: Option<Transformer>,
    ) -> Self {
        Self { layers: Arc::new(Layers::Residual(resnet, transformer)), recomputed: false }
    }

    pub(in crate::engine) fn upsample(upsample: Upsample) -> Self {
        Self { layers: Arc::new(Layers::Upsample(upsample)), recomputed: false }
    }

    /// Reads `x`, with the channels of `skip` beside its own where there is one.
    pub(in crate::engine) fn forward(
        &self,
        x: &TapeTensor,
        skip: Option<&TapeTensor>,
        inputs: &mut BlockInputs<'_>,
    ) -> Result<TapeTensor> {
        self.run(x, skip, None, inputs)
    }

    /// Reads `x`, to a height and width; to twice its own where none is given.
    pub(in crate::engine) fn enlarge(
        &self,
        x: &TapeTensor,
        size: Option<[usize; 2]>,
        inputs: &mut BlockInputs<'_>,
    ) -> Result<TapeTensor> {
        self.run(x, None, size, inputs)
    }

    fn run(
        &self,
        x: &TapeTensor,
        skip: Option<&TapeTensor>,
        size: Option<[usize; 2]>,
        inputs: &mut BlockInputs<'_>,
    ) -> Result<TapeTensor> {
        // Projected text has no gradient, so nothing is kept of what it has a part in.
        let text = match &inputs.text {
            Text::States(text) if self.recomputed => text,
            _ => return self.layers.forward(x, skip, size, inputs),
        };
        let activated_time = inputs.activated_time;
        let layers = Arc::clone(&self.layers);
        let inputs: Vec<&TapeTensor> = [activated_time, text, x].into_iter().chain(skip).collect();
        checkpointed(&inputs, move |inputs| {
            let text = Text::States(inputs[1].clone());
            let mut of_segment = BlockInputs { activated_time: &inputs[0], text };
            layers.forward(&inputs[2], inputs.get(3), size, &mut of_segment)
        })
    }

    pub(in crate::engine) fn transformer(&self) -> Option<&Transformer> {
        match &*self.layers {
            Layers::Residual(_, transformer) => transformer.as_ref(),
            Layers::Upsample(_) => None,
        }
    }
}

impl Layers {
    fn forward(
        &self,
        x: &TapeTensor,
        skip: Option<&TapeTensor>,
        size: Option<[usize; 2]>,
        inputs: &mut BlockInputs<'_>,
    ) -> Result<TapeTensor> {
        let joined = skip.map(|skip| ops::concatenate_channels(x, skip)).transpose()?;
        let x = joined.as_ref().unwrap_or(x);
        match self {
            Self::Residual(resnet, transformer) => {
                let hidden = resnet.forward(x, Some(inputs.activated_time))?;
                match transformer {
                    Some(transformer) => transformer.forward(&hidden, &mut inputs.text),
                    None => Ok(hidden),
                }
            }
            Self::Upsample(upsample) => upsample.forward(x, size),
        }
    }
}
