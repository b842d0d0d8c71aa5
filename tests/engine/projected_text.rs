//! Predictions under prompts that were projected once, against those that project them anew.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

use std::collections::BTreeSet;

use candle_core::{DType, Device, Tensor};
use keystep::{
    artifacts::open_model,
    engine::{
        checkpoint::{StoredTensors, read_component, read_text},
        family::{Conditioning, Denoiser, Unet, UnetConfig},
        nn::{MemoryPolicy, Scoped, Weights},
        ops::{Addends, linear},
        schedule::NoiseSource,
        tape::TapeTensor,
    },
    spec::Scope,
};

/// Of a prompt of Stable Diffusion, so that products are of many rows even for one.
const TOKENS: usize = 77;

struct Network {
    config: UnetConfig,
    stored: StoredTensors,
}

impl Network {
    fn load() -> Self {
        let files = open_model("builtin:emoji-canvas").unwrap();
        let config = read_text(files.as_ref(), "unet/config.json").unwrap();
        Self {
            config: UnetConfig::parse(&config, "unet").unwrap(),
            stored: read_component(files.as_ref(), "unet", None, &Device::Cpu).unwrap(),
        }
    }

    fn unet(&self) -> Unet {
        Unet::new(&Weights::frozen(&self.stored), &self.config).unwrap()
    }

    /// Latents, and as many prompts, all of them different.
    fn batch(&self, count: usize) -> (Tensor, Conditioning) {
        let mut noise = NoiseSource::new(7);
        let mut draw = |shape: &[usize]| noise.randn_tensor(shape, &Device::Cpu).unwrap();
        let [height, width] = self.config.own_size("unet").unwrap();
        (
            draw(&[count, self.config.in_channels, height, width]),
            draw(&[count, TOKENS, self.config.cross_attention_dim]).into(),
        )
    }
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// On this all equality here rests, at the sizes of Stable Diffusion 1.x and 2.x.
#[test]
fn a_prompt_is_projected_alike_however_many_are_beside_it() {
    let mut noise = NoiseSource::new(3);
    let mut draw = |shape: &[usize]| noise.randn_tensor(shape, &Device::Cpu).unwrap();
    let project = |x: &Tensor, weight: &Tensor| {
        let [x, weight] = [x, weight].map(TapeTensor::constant);
        linear(&x, &weight, Addends::default()).unwrap().into_tensor()
    };
    for (inputs, outputs) in [(768, 320), (768, 1280), (1024, 640)] {
        let (text, weight) = (draw(&[9, TOKENS, inputs]), draw(&[outputs, inputs]));
        for dtype in [DType::F32, DType::F16] {
            let weight = weight.to_dtype(dtype).unwrap();
            let all = project(&text, &weight);
            for (start, count) in [(0, 1), (8, 1), (3, 2), (4, 4), (1, 7)] {
                let some = project(&text.narrow(0, start, count).unwrap(), &weight);
                let expected = all.narrow(0, start, count).unwrap();
                assert!(bits(&some) == bits(&expected), "{inputs} {outputs} {dtype:?} {count}");
            }
        }
    }
}

#[test]
fn predictions_are_the_same_whenever_prompts_are_projected() {
    let network = Network::load();
    let unet = network.unet();
    let (z, text) = network.batch(9);
    // Alone, in a row, again and again, and mixed.
    for order in [
        [0, 1, 2, 3, 4, 5, 6, 7, 8],
        [0; 9],
        [0, 1, 2, 3, 3, 3, 3, 3, 3],
        [8, 1, 1, 5, 0, 0, 2, 8, 3],
    ] {
        let text = text.select(&order).unwrap();
        let projected = unet.project(&text).unwrap();
        for (start, count) in [(0, 4), (4, 4), (8, 1), (3, 2)] {
            let z = z.narrow(0, start, count).unwrap();
            let timesteps: Vec<f64> =
                (0..count).map(|index| 950.0 - 300.0 * index as f64).collect();
            let of_pass: Vec<u32> = (start as u32..).take(count).collect();
            let plain = unet.forward(&z, &timesteps, &text.select(&of_pass).unwrap());
            let pass = projected.narrow(start, count).unwrap();
            // Twice, as a walk reads it at every step.
            for _ in 0..2 {
                let again = unet.forward_projected(&z, &timesteps, &pass).unwrap();
                assert!(bits(plain.as_ref().unwrap()) == bits(&again), "{order:?} from {start}");
            }
        }
    }
}

#[test]
fn selected_rows_predict_as_they_would_alone() {
    let network = Network::load();
    let unet = network.unet();
    let (z, text) = network.batch(3);
    let projected = unet.project(&text).unwrap();
    let pair = projected.select(&[1, 1, 2]).unwrap();
    let timesteps = [700.0; 3];
    let plain = unet.forward(&z, &timesteps, &text.select(&[1, 1, 2]).unwrap()).unwrap();
    let selected = unet.forward_projected(&z, &timesteps, &pair).unwrap();
    assert!(bits(&plain) == bits(&selected));
    // A row a sample, or none at all.
    assert!(unet.forward_projected(&z, &timesteps, &projected.narrow(0, 2).unwrap()).is_err());
}

#[test]
fn a_network_in_training_projects_by_the_weights_that_it_has() {
    let network = Network::load();
    let scoped = Scoped::new(&network.stored, &Scope::CrossAttentionKeyValue).unwrap();
    let unet = Unet::new(&Weights::scoped(&network.stored, &scoped), &network.config).unwrap();
    // What is done again in a backward pass is not, where there is none.
    let memory_policy = MemoryPolicy { recomputed: (0..64).collect::<BTreeSet<_>>(), passes: None };
    let unet = unet.with_memory_policy(memory_policy);
    let (z, text) = network.batch(2);
    let timesteps = [500.0; 2];
    let before = unet.project(&text).unwrap();
    let plain = unet.forward(&z, &timesteps, &text).unwrap();
    assert!(bits(&plain) == bits(&unet.forward_projected(&z, &timesteps, &before).unwrap()));
    for variable in scoped.variables.values() {
        variable.set(&(variable.as_tensor() * 1.5).unwrap()).unwrap();
    }
    let plain = unet.forward(&z, &timesteps, &text).unwrap();
    let after = unet.project(&text).unwrap();
    assert!(bits(&plain) == bits(&unet.forward_projected(&z, &timesteps, &after).unwrap()));
    assert!(bits(&plain) != bits(&unet.forward_projected(&z, &timesteps, &before).unwrap()));
}
