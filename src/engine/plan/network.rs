//! The U-Net of `src/engine/model`, layer by layer, with tensors that have a size alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use super::{
    dry_run::{Memory, Meter, Peak, SizedTensor},
    operations::{self as ops, Attention, Convolution, Features, Trained, activation, gated, norm},
};
use crate::engine::model::{
    UnetConfig,
    config::{DownBlockKind, UpBlockKind},
};

/// What a pass is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) config: &'a UnetConfig,
    /// Height and width of a latent.
    pub(super) size: [usize; 2],
    /// Of a prompt.
    pub(super) tokens: usize,
    /// Numbers of each trained tensor, by name.
    pub(super) trained: &'a BTreeMap<String, u64>,
    pub(super) samples: usize,
}

/// What a pass holds and does.
#[derive(Debug, Clone)]
pub(super) struct MemoryEstimate {
    /// Numbers that are kept between forward and backward pass.
    pub(super) kept: u64,
    pub(super) peak: Peak,
    /// Multiplications of each segment.
    pub(super) segments: Vec<u64>,
    /// Numbers of the largest buffer that is held for a moment.
    pub(super) buffer: u64,
}

impl Pass<'_> {
    /// Forward and backward, with these segments done again in the backward pass.
    pub(super) fn train(self, recomputed: &BTreeSet<usize>) -> MemoryEstimate {
        let meter = Rc::<Meter>::default();
        let network = Rc::new(Network::new(self));
        let latent = network.latent();
        let mut segments = Vec::new();
        let prediction = {
            let sample = SizedTensor::constant(&meter, latent);
            network.predict(&sample, recomputed, &mut segments)
        };
        let kept = meter.held();
        // What the prediction shall be, by how much it is not, and the slope.
        let errors = Memory::new(&meter, 2 * latent);
        let gradient = Memory::new(&meter, latent);
        let gradients = prediction.backward(gradient);
        drop((errors, gradients));
        MemoryEstimate { kept, peak: meter.peak(), segments, buffer: meter.buffer() }
    }

    /// The most numbers that a forward pass alone holds.
    pub(super) fn predict(self) -> u64 {
        self.forward().peak().total()
    }

    /// Numbers of the largest buffer that a forward pass holds for a moment.
    pub(super) fn buffer(self) -> u64 {
        self.forward().buffer()
    }

    fn forward(self) -> Rc<Meter> {
        let meter = Rc::<Meter>::default();
        let network = Rc::new(Network::new(self));
        let sample = SizedTensor::no_grad(&meter, network.latent());
        drop(network.predict(&sample, &BTreeSet::new(), &mut Vec::new()));
        meter
    }

    /// Numbers of the keys and values that a prompt is projected to.
    pub(super) fn projected(self) -> u64 {
        let network = Network::new(self);
        let config = &network.config;
        let lowest = config.block_out_channels.len() - 1;
        let keys = |level: usize, transformers: usize| {
            let level = network.level(level);
            level.channels * (level.layers * transformers) as u64
        };
        let down = config.down_blocks.iter().enumerate();
        let down = down.filter(|(_, kind)| **kind == DownBlockKind::CrossAttention);
        let down = down.map(|(level, _)| keys(level, config.layers_per_block));
        let up = config.up_blocks.iter().enumerate();
        let up = up.filter(|(_, kind)| **kind == UpBlockKind::CrossAttention);
        let up = up.map(|(index, _)| keys(lowest - index, config.layers_per_block + 1));
        2 * network.tokens * (down.sum::<u64>() + keys(lowest, 1) + up.sum::<u64>())
    }
}

/// A place in the names of weights.
#[derive(Debug, Clone)]
struct Place {
    network: Rc<Network>,
    name: String,
}

#[derive(Debug)]
struct Network {
    config: UnetConfig,
    size: [usize; 2],
    trained: BTreeMap<String, u64>,
    samples: u64,
    tokens: u64,
}

/// A level's pixels and what its blocks are like.
#[derive(Debug, Clone, Copy)]
struct Level {
    channels: u64,
    /// Of all samples.
    pixels: u64,
    /// Of a sample.
    plane: u64,
    heads: u64,
    layers: usize,
}

impl Level {
    fn convolution(
        self,
        features: Features,
        strided: bool,
        addend: Option<&SizedTensor>,
    ) -> Convolution<'_> {
        Convolution { features, pixels: self.pixels, strided, addend }
    }
}

/// What every level reads beside its input.
#[derive(Debug, Clone)]
struct Conditioning {
    activated_time: SizedTensor,
    text: SizedTensor,
}

impl Network {
    fn new(pass: Pass<'_>) -> Self {
        Self {
            config: pass.config.clone(),
            size: pass.size,
            trained: pass.trained.clone(),
            samples: pass.samples as u64,
            tokens: pass.tokens as u64,
        }
    }

    fn latent(&self) -> u64 {
        self.samples * self.config.in_channels as u64 * self.plane(0)
    }

    /// Pixels of a sample's plane at a level: each halves upwards.
    fn plane(&self, level: usize) -> u64 {
        self.size.map(|side| side.div_ceil(1 << level) as u64).into_iter().product()
    }

    fn level(&self, index: usize) -> Level {
        let plane = self.plane(index);
        Level {
            channels: self.config.block_out_channels[index] as u64,
            pixels: self.samples * plane,
            plane,
            heads: self.config.heads[index] as u64,
            layers: self.config.transformer_layers[index],
        }
    }

    fn predict(
        self: &Rc<Self>,
        sample: &SizedTensor,
        recomputed: &BTreeSet<usize>,
        segments: &mut Vec<u64>,
    ) -> SizedTensor {
        let config = &self.config;
        let at = Place { network: Rc::clone(self), name: String::new() };
        let levels = config.block_out_channels.len();
        let lowest = levels - 1;
        let [first, last] = [0, lowest].map(|level| self.level(level));
        let time = 4 * first.channels;

        let embedding = sample.with_same_tracking(self.samples * first.channels);
        let text = sample
            .with_same_tracking(self.samples * self.tokens * config.cross_attention_dim as u64);
        let embedded = {
            let hidden = at.at("time_embedding.linear_1").linear(&embedding, first.channels, time);
            at.at("time_embedding.linear_2").linear(&activation(&hidden), time, time)
        };
        let conditioning = Conditioning { activated_time: activation(&embedded), text };
        let mut run = Run { recomputed, segments, conditioning };

        let mut x = at.at("conv_in").convolution(sample, config.in_channels as u64, first, false);
        let mut skips = vec![x.clone()];
        for (index, kind) in config.down_blocks.iter().enumerate() {
            let (level, at) = (self.level(index), at.at("down_blocks").at(index));
            for layer in 0..config.layers_per_block {
                let transformer = *kind == DownBlockKind::CrossAttention;
                x = run.residual(&at, layer, level, transformer, [&x].to_vec());
                skips.push(x.clone());
            }
            if index < lowest {
                let below = Level { channels: level.channels, ..self.level(index + 1) };
                x = at.at("downsamplers.0.conv").convolution(&x, level.channels, below, true);
                skips.push(x.clone());
            }
        }
        let middle = at.at("mid_block");
        for layer in 0..2 {
            x = run.residual(&middle, layer, last, layer == 0, [&x].to_vec());
        }
        for (index, kind) in config.up_blocks.iter().enumerate() {
            let height = lowest - index;
            let (level, at) = (self.level(height), at.at("up_blocks").at(index));
            for layer in 0..=config.layers_per_block {
                let skip = skips.pop();
                let inputs = [&x].into_iter().chain(&skip).collect();
                let transformer = *kind == UpBlockKind::CrossAttention;
                x = run.residual(&at, layer, level, transformer, inputs);
            }
            if height > 0 {
                let above = Level { channels: level.channels, ..self.level(height - 1) };
                let at = at.at("upsamplers.0.conv");
                x = run.segment([&x].to_vec(), move |_, x| {
                    let large = ops::upsample(&x[0], above.channels * above.pixels);
                    at.convolution(&large, above.channels, above, false)
                });
            }
        }
        let normed = at.at("conv_norm_out").group_norm(&x);
        let out = Level { channels: config.out_channels as u64, ..first };
        at.at("conv_out").convolution(&normed, first.channels, out, false)
    }
}

/// A forward pass under way.
struct Run<'a> {
    recomputed: &'a BTreeSet<usize>,
    segments: &'a mut Vec<u64>,
    conditioning: Conditioning,
}

impl Run<'_> {
    fn segment(
        &mut self,
        x: Vec<&SizedTensor>,
        layers: impl Fn(&Conditioning, &[SizedTensor]) -> SizedTensor + 'static,
    ) -> SizedTensor {
        let index = self.segments.len();
        let meter = Rc::clone(x[0].meter());
        let before = meter.work();
        let result = if self.recomputed.contains(&index) {
            let Conditioning { activated_time, text } = &self.conditioning;
            let inputs: Vec<_> = [activated_time, text].into_iter().chain(x).collect();
            SizedTensor::of_segment(&inputs, move |inputs| {
                let conditioning =
                    Conditioning { activated_time: inputs[0].clone(), text: inputs[1].clone() };
                layers(&conditioning, &inputs[2..])
            })
        } else {
            let x: Vec<SizedTensor> = x.into_iter().cloned().collect();
            layers(&self.conditioning, &x)
        };
        self.segments.push(meter.work() - before);
        result
    }

    fn residual(
        &mut self,
        at: &Place,
        layer: usize,
        level: Level,
        transformer: bool,
        x: Vec<&SizedTensor>,
    ) -> SizedTensor {
        let resnet = at.at("resnets").at(layer);
        let transformer = transformer.then(|| at.at("attentions").at(layer));
        self.segment(x, move |conditioning, x| {
            let joined = (x.len() > 1).then(|| ops::concatenate(&x[0], &x[1]));
            let x = joined.as_ref().unwrap_or(&x[0]);
            let hidden = resnet.resnet(x, level, &conditioning.activated_time);
            match &transformer {
                Some(transformer) => transformer.transformer(&hidden, level, &conditioning.text),
                None => hidden,
            }
        })
    }
}

impl Place {
    fn at(&self, name: impl std::fmt::Display) -> Self {
        let name =
            if self.name.is_empty() { name.to_string() } else { format!("{}.{name}", self.name) };
        Self { network: Rc::clone(&self.network), name }
    }

    fn trained(&self) -> Trained {
        let numbers = |part: &str| {
            let name = format!("{}.{part}", self.name);
            self.network.trained.get(&name).copied().unwrap_or(0)
        };
        Trained { weight: numbers("weight"), bias: numbers("bias") }
    }

    fn linear(&self, x: &SizedTensor, inputs: u64, outputs: u64) -> SizedTensor {
        ops::linear(x, None, Features { inputs, outputs, trained: self.trained() })
    }

    fn linear_onto(
        &self,
        residual: &SizedTensor,
        x: &SizedTensor,
        inputs: u64,
        outputs: u64,
    ) -> SizedTensor {
        ops::linear(x, Some(residual), Features { inputs, outputs, trained: self.trained() })
    }

    /// To the size and channels of a level.
    fn convolution(&self, x: &SizedTensor, inputs: u64, to: Level, strided: bool) -> SizedTensor {
        let features = Features { inputs, outputs: to.channels, trained: self.trained() };
        ops::convolution(x, to.convolution(features, strided, None))
    }

    /// The same, added to what keeps height and width.
    fn convolution_onto(
        &self,
        addend: &SizedTensor,
        x: &SizedTensor,
        inputs: u64,
        to: Level,
    ) -> SizedTensor {
        let features = Features { inputs, outputs: to.channels, trained: self.trained() };
        ops::convolution(x, to.convolution(features, false, Some(addend)))
    }

    fn group_norm(&self, x: &SizedTensor) -> SizedTensor {
        let groups = self.network.config.norm_num_groups as u64;
        norm(x, self.network.samples * groups, self.trained())
    }

    fn layer_norm(&self, x: &SizedTensor, channels: u64) -> SizedTensor {
        norm(x, x.numbers() / channels, self.trained())
    }

    fn resnet(&self, x: &SizedTensor, level: Level, activated_time: &SizedTensor) -> SizedTensor {
        let inputs = x.numbers() / level.pixels;
        let time = activated_time.numbers() / self.network.samples;
        let shift = self.at("time_emb_proj").linear(activated_time, time, level.channels);
        let hidden = {
            let normed = self.at("norm1").group_norm(x);
            self.at("conv1").convolution_onto(&shift, &normed, inputs, level)
        };
        let shortcut = if inputs == level.channels {
            x.clone()
        } else {
            self.at("conv_shortcut").linear(x, inputs, level.channels)
        };
        let normed = self.at("norm2").group_norm(&hidden);
        self.at("conv2").convolution_onto(&shortcut, &normed, level.channels, level)
    }

    fn transformer(&self, x: &SizedTensor, level: Level, text: &SizedTensor) -> SizedTensor {
        let channels = level.channels;
        let planes = self.at("norm").group_norm(x);
        let mut hidden = self.at("proj_in").linear(&planes, channels, channels);
        for layer in 0..level.layers {
            hidden = self.at("transformer_blocks").at(layer).block(&hidden, level, text);
        }
        self.at("proj_out").linear_onto(x, &hidden, channels, channels)
    }

    fn block(&self, x: &SizedTensor, level: Level, text: &SizedTensor) -> SizedTensor {
        let channels = level.channels;
        let normed = self.at("norm1").layer_norm(x, channels);
        let x = self.at("attn1").attention_onto(x, [&normed, &normed], level, level.plane);
        let x = {
            let normed = self.at("norm2").layer_norm(&x, channels);
            self.at("attn2").attention_onto(&x, [&normed, text], level, self.network.tokens)
        };
        let hidden = {
            let normed = self.at("norm3").layer_norm(&x, channels);
            gated(&self.at("ff.net.0.proj").linear(&normed, channels, 8 * channels))
        };
        self.at("ff.net.2").linear_onto(&x, &hidden, 4 * channels, channels)
    }

    fn attention_onto(
        &self,
        residual: &SizedTensor,
        [x, context]: [&SizedTensor; 2],
        level: Level,
        keys: u64,
    ) -> SizedTensor {
        let Level { channels, pixels, heads, .. } = level;
        let width = context.numbers() / (self.network.samples * keys);
        let query = self.at("to_q").linear(x, channels, channels);
        let key = self.at("to_k").linear(context, width, channels);
        let value = self.at("to_v").linear(context, width, channels);
        let sizes = Attention { queries: pixels * heads, keys, depth: channels / heads };
        let attended = ops::attention([&query, &key, &value], sizes);
        self.at("to_out.0").linear_onto(residual, &attended, channels, channels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stable Diffusion 1.4's.
    fn config() -> UnetConfig {
        UnetConfig {
            in_channels: 4,
            out_channels: 4,
            sample_size: Some([64; 2]),
            mended_sample_size: None,
            block_out_channels: vec![320, 640, 1280, 1280],
            down_blocks: [vec![DownBlockKind::CrossAttention; 3], vec![DownBlockKind::Plain]]
                .concat(),
            up_blocks: [vec![UpBlockKind::Plain], vec![UpBlockKind::CrossAttention; 3]].concat(),
            layers_per_block: 2,
            cross_attention_dim: 768,
            heads: vec![8; 4],
            transformer_layers: vec![1; 4],
            norm_num_groups: 32,
            norm_eps: 1e-5,
            use_linear_projection: false,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
        }
    }

    /// Cross-attention's keys and values.
    fn keys_and_values() -> BTreeMap<String, u64> {
        let down = [(0, 320), (1, 640), (2, 1280)].into_iter().flat_map(|(block, width)| {
            [0, 1].map(|at| (format!("down_blocks.{block}"), at, width))
        });
        let up = [(1, 1280), (2, 640), (3, 320)].into_iter().flat_map(|(block, width)| {
            [0, 1, 2].map(|at| (format!("up_blocks.{block}"), at, width))
        });
        let middle = [("mid_block".to_owned(), 0, 1280)];
        let each = down.chain(up).chain(middle).flat_map(|(block, at, width)| {
            ["to_k", "to_v"].map(|name| {
                let place = format!("{block}.attentions.{at}.transformer_blocks.0.attn2");
                (format!("{place}.{name}.weight"), 768 * width)
            })
        });
        each.collect()
    }

    fn gibibytes(numbers: u64) -> f64 {
        (4 * numbers) as f64 / f64::from(1 << 30)
    }

    #[test]
    fn stable_diffusion_takes_what_was_measured() {
        let (config, trained) = (config(), keys_and_values());
        let pass =
            Pass { config: &config, size: [64; 2], tokens: 77, trained: &trained, samples: 1 };
        let plain = pass.train(&BTreeSet::new());
        let parameters: u64 = trained.values().sum();
        assert_eq!(parameters, 19_169_280);
        assert_eq!(pass.projected(), 77 * parameters / 768);
        assert_eq!(plain.segments.len(), 8 + 2 + 12 + 3);
        // `bench/run --model sd14 --only train-kv-64` and `--only forward-64`: the weights in half
        // precision, what is beside them, and the program with the buffers of two threads. Training
        // took 3.57 GiB once: the system's allocator may leave gaps, which no plan knows.
        let program = 0.05 + 2.0 * 0.125;
        let training = 1.60 + gibibytes(2 * parameters + parameters + plain.peak.total()) + program;
        assert!((0.85..1.15).contains(&(training / 2.97)), "{training} GiB, 2.97 measured");
        let drawing = 1.60 + gibibytes(pass.predict()) + program;
        assert!((0.85..1.15).contains(&(drawing / 1.84)), "{drawing} GiB, 1.84 measured");

        let all = (0..plain.segments.len()).collect();
        let least = pass.train(&all);
        assert!(least.peak.total() * 2 < plain.peak.total(), "{least:?} {plain:?}");
        assert_eq!(least.segments, plain.segments);
    }

    #[test]
    fn nothing_is_kept_before_the_first_layer_that_is_trained() {
        let config = config();
        let of = |name: &str| {
            let trained = BTreeMap::from([(name.to_owned(), 4)]);
            let pass =
                Pass { config: &config, size: [64; 2], tokens: 77, trained: &trained, samples: 1 };
            pass.train(&BTreeSet::new()).kept
        };
        let (last, first) = (of("conv_out.bias"), of("conv_in.bias"));
        // The prediction, and no more.
        assert!(last < 4 * 4 * 64 * 64, "{last}");
        assert!(first > 100 * last, "{first}");
    }

    #[test]
    fn sides_halve_upwards() {
        let (config, trained) = (config(), BTreeMap::new());
        let of = |size| Pass { config: &config, size, tokens: 77, trained: &trained, samples: 1 };
        let planes = |size| [0, 1, 2, 3].map(|level| Network::new(of(size)).plane(level));
        assert_eq!(planes([64, 64]), [4_096, 1_024, 256, 64]);
        assert_eq!(planes([18, 9]), [18 * 9, 9 * 5, 5 * 3, 3 * 2]);
        // Larger than of the next size that halves evenly below, smaller than of the one above.
        let [below, odd, above] = [56, 57, 64].map(|side| of([side; 2]).predict());
        assert!(below < odd && odd < above, "{below} {odd} {above}");
        assert!(of([57, 64]).predict() > odd);
    }
}
