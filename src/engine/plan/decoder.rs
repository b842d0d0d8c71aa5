//! The decoder of `src/engine/model/vae.rs`, layer by layer, with tensors that have a size alone.

use std::rc::Rc;

use super::{
    dry_run::{Meter, SizedTensor},
    operations::{self as ops, Attention, Convolution, Features, Trained, norm},
};
use crate::engine::model::VaeConfig;

/// Latents that are decoded in a pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decoding<'a> {
    pub(super) config: &'a VaeConfig,
    /// Height and width of a latent.
    pub(super) size: [usize; 2],
    pub(super) samples: usize,
}

impl Decoding<'_> {
    /// The most numbers that the pass holds.
    pub(super) fn peak(self) -> u64 {
        self.rehearse().peak().total()
    }

    /// Numbers of the largest buffer that it holds for a moment.
    pub(super) fn buffer(self) -> u64 {
        self.rehearse().buffer()
    }

    fn rehearse(self) -> Rc<Meter> {
        let meter = Rc::<Meter>::default();
        drop(self.decode(&meter));
        meter
    }

    fn decode(self, meter: &Rc<Meter>) -> SizedTensor {
        let Self { config, size, samples } = self;
        let channels: Vec<u64> = config.block_out_channels.iter().map(|n| *n as u64).collect();
        let [first, last] = [channels.first(), channels.last()].map(|n| n.copied().unwrap_or(1));
        let latents = config.latent_channels as u64;
        let mut at = Plane {
            samples: samples as u64,
            pixels: size.map(|side| side as u64).into_iter().product(),
            groups: config.norm_num_groups as u64,
        };
        let mut x = SizedTensor::no_grad(meter, latents * at.all());
        x = at.convolution(&x, latents, last, None);
        x = at.resnet(&x, last, last);
        if config.mid_block_add_attention {
            x = at.attention(&x, last);
        }
        x = at.resnet(&x, last, last);
        let mut inputs = last;
        for (level, outputs) in channels.iter().rev().enumerate() {
            for _ in 0..=config.layers_per_block {
                x = at.resnet(&x, inputs, *outputs);
                inputs = *outputs;
            }
            if level + 1 < channels.len() {
                at.pixels *= 4;
                let large = ops::upsample(&x, inputs * at.all());
                x = at.convolution(&large, inputs, inputs, None);
            }
        }
        let normed = at.norm(&x);
        at.convolution(&normed, first, config.out_channels as u64, None)
    }
}

/// A level's size.
#[derive(Debug, Clone, Copy)]
struct Plane {
    samples: u64,
    /// Of a sample.
    pixels: u64,
    groups: u64,
}

impl Plane {
    fn all(self) -> u64 {
        self.samples * self.pixels
    }

    fn norm(self, x: &SizedTensor) -> SizedTensor {
        norm(x, self.samples * self.groups, Trained::default())
    }

    fn convolution(
        self,
        x: &SizedTensor,
        inputs: u64,
        outputs: u64,
        addend: Option<&SizedTensor>,
    ) -> SizedTensor {
        let features = Features { inputs, outputs, trained: Trained::default() };
        ops::convolution(x, Convolution { features, pixels: self.all(), strided: false, addend })
    }

    fn resnet(self, x: &SizedTensor, inputs: u64, outputs: u64) -> SizedTensor {
        let hidden = self.convolution(&self.norm(x), inputs, outputs, None);
        let shortcut = if inputs == outputs {
            x.clone()
        } else {
            let features = Features { inputs, outputs, trained: Trained::default() };
            ops::linear(x, None, features)
        };
        self.convolution(&self.norm(&hidden), outputs, outputs, Some(&shortcut))
    }

    fn attention(self, x: &SizedTensor, channels: u64) -> SizedTensor {
        let features =
            Features { inputs: channels, outputs: channels, trained: Trained::default() };
        let linear = |x: &SizedTensor| ops::linear(x, None, features);
        // Transposed, which is another norm's size.
        let sequence = self.norm(&self.norm(x));
        let [query, key, value] = [(); 3].map(|()| linear(&sequence));
        let sizes = Attention { queries: self.all(), keys: self.pixels, depth: channels };
        let attended = ops::attention([&query, &key, &value], sizes);
        ops::linear(&attended, Some(x), features)
    }
}
