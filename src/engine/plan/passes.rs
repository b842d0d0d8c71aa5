//! What passes of the networks hold in memory: dry runs of the networks themselves.

use std::collections::BTreeSet;

use crate::engine::{
    EngineError,
    family::{ClipTextModel, Conditioning, Denoiser, Vae},
    nn::MemoryPolicy,
    tape::{Meter, Peak, TapeTensor},
};

/// A pass of the denoiser, in which the tensors are trained that were variables when it was built.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) denoiser: &'a dyn Denoiser,
    /// `[channels, height, width]`.
    pub(super) latent: [usize; 3],
    /// The shape of a prompt.
    pub(super) prompt: &'a Conditioning<Vec<usize>>,
    pub(super) samples: usize,
}

/// What a training pass holds and does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemoryEstimate {
    /// Numbers that are kept between forward and backward pass.
    pub(super) kept: u64,
    pub(super) peak: Peak,
    /// Multiplications of forward passes, with those of segments that are done again.
    pub(super) multiplications: u64,
    /// Numbers of the largest buffer that is held for a moment.
    pub(super) largest_buffer: u64,
}

/// What a pass without gradients holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Forward {
    /// The most numbers that are held.
    pub(super) peak: u64,
    pub(super) multiplications: u64,
    /// Numbers of the largest buffer that is held for a moment.
    pub(super) largest_buffer: u64,
}

impl Pass<'_> {
    /// Forward and backward, with these segments done again in the backward pass.
    pub(super) fn train(self, recomputed: &BTreeSet<usize>) -> Result<MemoryEstimate, EngineError> {
        let policy = MemoryPolicy { recomputed: recomputed.clone(), passes: None };
        let denoiser = self.denoiser.with_memory_policy(policy);
        let meter = Meter::default();
        let prediction = {
            let sample = TapeTensor::sized_constant(&meter, self.latents())?;
            let prompts = self.prompts(|shape| TapeTensor::sized_constant(&meter, shape))?;
            denoiser.trace_inputs(&sample, &self.timesteps(), &prompts)?
        };
        let kept = meter.held();
        // What the prediction shall be, and by how much it is not.
        let errors = meter.hold(2 * prediction.tensor().elem_count() as u64);
        let gradients = prediction.dry_backward()?;
        drop((errors, gradients));
        Ok(MemoryEstimate {
            kept,
            peak: meter.peak(),
            multiplications: meter.multiplications(),
            largest_buffer: meter.largest_buffer(),
        })
    }

    /// A prediction without gradients.
    pub(super) fn predict(self) -> Result<Forward, EngineError> {
        let meter = Meter::default();
        let sample = TapeTensor::sized_no_grad(&meter, self.latents())?;
        let prompts = self.prompts(|shape| TapeTensor::sized_no_grad(&meter, shape))?;
        drop(self.denoiser.trace_inputs(&sample, &self.timesteps(), &prompts)?);
        Ok(Forward::of(&meter))
    }

    /// Numbers that are held of a prompt which is projected: the keys and values of its text in place
    /// of the states, where the denoiser has cross-attention.
    pub(super) fn projected(self) -> u64 {
        let Conditioning { states, pooled, extra } =
            self.prompt.map(|shape| shape.iter().product::<usize>());
        let tokens = self.prompt.states.first().copied().unwrap_or(0);
        let text = self.denoiser.projected_numbers(tokens).unwrap_or(states);
        (text + pooled.unwrap_or(0) + extra.unwrap_or(0)) as u64
    }

    fn latents(self) -> (usize, usize, usize, usize) {
        let [channels, height, width] = self.latent;
        (self.samples, channels, height, width)
    }

    fn prompts(
        self,
        sized: impl Fn(Vec<usize>) -> candle_core::Result<TapeTensor>,
    ) -> candle_core::Result<Conditioning<TapeTensor>> {
        self.prompt.try_map(|shape| sized([&[self.samples], shape.as_slice()].concat()))
    }

    fn timesteps(self) -> Vec<f64> {
        vec![0.0; self.samples]
    }
}

impl Forward {
    fn of(meter: &Meter) -> Self {
        Self {
            peak: meter.peak().total(),
            multiplications: meter.multiplications(),
            largest_buffer: meter.largest_buffer(),
        }
    }
}

/// Encoding some prompts.
pub(super) fn encode_text(
    text_encoder: &ClipTextModel,
    prompts: usize,
) -> Result<Forward, EngineError> {
    let meter = Meter::default();
    let config = text_encoder.config();
    let shape = (prompts, config.max_position_embeddings, config.tower.hidden_size);
    drop(text_encoder.trace(&TapeTensor::sized_no_grad(&meter, shape)?)?);
    Ok(Forward::of(&meter))
}

/// Encoding a picture to a latent of a height and width; nothing where the model has no encoder.
pub(super) fn encode(vae: &Vae, [height, width]: [usize; 2]) -> Result<Forward, EngineError> {
    let meter = Meter::default();
    if vae.encodes() {
        let shape = (1, vae.config().in_channels, height * vae.factor(), width * vae.factor());
        drop(vae.trace_encoding(&TapeTensor::sized_no_grad(&meter, shape)?)?);
    }
    Ok(Forward::of(&meter))
}

/// Decoding some latents of a height and width in one pass.
pub(super) fn decode(
    vae: &Vae,
    samples: usize,
    [height, width]: [usize; 2],
) -> Result<Forward, EngineError> {
    let meter = Meter::default();
    let shape = (samples, vae.config().latent_channels, height, width);
    drop(vae.trace_decoding(&TapeTensor::sized_no_grad(&meter, shape)?)?);
    Ok(Forward::of(&meter))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use candle_core::{DType, Device, Tensor};
    use safetensors::Dtype;

    use super::*;
    use crate::engine::{
        checkpoint::{StoredTensor, StoredTensors},
        family::{Unet, UnetConfig, config::BlockKind},
        nn::Weights,
    };

    /// Stable Diffusion 1.4's.
    fn config() -> UnetConfig {
        UnetConfig {
            in_channels: 4,
            out_channels: 4,
            sample_size: Some([64; 2]),
            mended_sample_size: None,
            block_out_channels: vec![320, 640, 1280, 1280],
            down_blocks: [vec![BlockKind::CrossAttention; 3], vec![BlockKind::Plain]].concat(),
            up_blocks: [vec![BlockKind::Plain], vec![BlockKind::CrossAttention; 3]].concat(),
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

    /// Tensors of the shapes that the network asks for.
    fn outline(config: &UnetConfig) -> StoredTensors {
        let mut outline = StoredTensors::default();
        let zero = Tensor::zeros((), DType::F32, &Device::Cpu).unwrap();
        while let Err(error) = Unet::new(&Weights::frozen(&outline), config) {
            let EngineError::MissingTensor { name, expected, .. } = error else {
                panic!("{error}")
            };
            let tensor = zero.broadcast_as(expected).unwrap();
            let stored = StoredTensor { tensor, file: String::new(), dtype: Dtype::F32 };
            outline.tensors.insert(name, stored);
        }
        outline
    }

    fn unet(outline: &StoredTensors, trained: impl Fn(&str) -> bool) -> Unet {
        let names = outline.tensors.keys().filter(|name| trained(name)).cloned().collect();
        Unet::new(&Weights::dry_run(outline, &names), &config()).unwrap()
    }

    fn is_key_or_value(name: &str) -> bool {
        name.contains("attn2.to_k") || name.contains("attn2.to_v")
    }

    static PROMPT: LazyLock<Conditioning<Vec<usize>>> =
        LazyLock::new(|| Conditioning { states: vec![77, 768], pooled: None, extra: None });

    fn pass(unet: &Unet) -> Pass<'_> {
        Pass { denoiser: unet, latent: [4, 64, 64], prompt: &PROMPT, samples: 1 }
    }

    fn gibibytes(numbers: u64) -> f64 {
        (4 * numbers) as f64 / f64::from(1 << 30)
    }

    #[test]
    fn stable_diffusion_takes_what_was_measured() {
        let outline = outline(&config());
        let unet = unet(&outline, is_key_or_value);
        let plain = pass(&unet).train(&BTreeSet::new()).unwrap();
        let trained = outline.tensors.iter().filter(|(name, _)| is_key_or_value(name));
        let parameters: u64 = trained.map(|(_, stored)| stored.tensor.elem_count() as u64).sum();
        assert_eq!(parameters, 19_169_280);
        assert_eq!(pass(&unet).projected(), 77 * parameters / 768);
        assert_eq!(unet.segment_count(), 8 + 2 + 12 + 3);
        // `bench/run --model sd14 --only train-kv-64` and `--only forward-64`: the weights in half
        // precision, what is beside them, and the program with the buffers of two threads. Training
        // took 3.57 GiB once: the system's allocator may leave gaps, which no plan knows.
        let program = 0.05 + 2.0 * 0.125;
        let training = 1.60 + gibibytes(2 * parameters + parameters + plain.peak.total()) + program;
        assert!((0.85..1.15).contains(&(training / 2.97)), "{training} GiB, 2.97 measured");
        let drawing = 1.60 + gibibytes(pass(&unet).predict().unwrap().peak) + program;
        assert!((0.85..1.15).contains(&(drawing / 1.84)), "{drawing} GiB, 1.84 measured");

        let all = (0..unet.segment_count()).collect();
        let least = pass(&unet).train(&all).unwrap();
        assert!(least.peak.total() * 2 < plain.peak.total(), "{least:?} {plain:?}");
        // Nearly all multiplications belong to a segment.
        let again = least.multiplications as f64 / plain.multiplications as f64;
        assert!((1.9..2.0).contains(&again), "{again}");
    }

    #[test]
    fn nothing_is_kept_before_the_first_layer_that_is_trained() {
        let outline = outline(&config());
        let of = |trained: &str| {
            let unet = unet(&outline, |name| name == trained);
            pass(&unet).train(&BTreeSet::new()).unwrap().kept
        };
        let (last, first) = (of("conv_out.bias"), of("conv_in.bias"));
        // The prediction, and no more.
        assert!(last < 4 * 4 * 64 * 64, "{last}");
        assert!(first > 100 * last, "{first}");
    }

    #[test]
    fn odd_sides_take_more_than_the_next_size_that_halves_evenly_below() {
        let outline = outline(&config());
        let unet = unet(&outline, |_| false);
        let of = |[height, width]: [usize; 2]| {
            Pass { latent: [4, height, width], ..pass(&unet) }.predict().unwrap().peak
        };
        let [below, odd, above] = [56, 57, 64].map(|side| of([side; 2]));
        assert!(below < odd && odd < above, "{below} {odd} {above}");
        assert!(of([57, 64]) > odd);
    }
}
