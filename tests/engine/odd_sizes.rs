//! Gradients through a U-Net whose levels do not halve evenly.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

use candle_core::{Device, Tensor};
use keystep::{
    artifacts::open_model,
    engine::{
        checkpoint::{read_component, read_text},
        family::{Denoiser, Unet, UnetConfig},
        nn::{MemoryPolicy, Scoped, Weights},
        schedule::NoiseSource,
    },
    spec::Scope,
};

fn number(tensor: &Tensor) -> f64 {
    let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f64::from).sum()
}

#[test]
fn gradients_flow_through_sizes_that_do_not_halve_evenly() {
    let files = open_model("builtin:emoji-canvas").unwrap();
    let config = read_text(files.as_ref(), "unet/config.json").unwrap();
    let config = UnetConfig::parse(&config, "unet").unwrap();
    let stored = read_component(files.as_ref(), "unet", None, &Device::Cpu).unwrap();
    let mut noise = NoiseSource::new(3);
    let mut draw = |shape: &[usize]| noise.randn_tensor(shape, &Device::Cpu).unwrap();
    // Levels of 18 and 9, 9 and 5, 5 and 3 cells; then of two odd sides, and of one cell.
    for [height, width] in [[18, 9], [7, 5], [1, 3]] {
        let sample = draw(&[1, config.in_channels, height, width]);
        let text = draw(&[1, 32, config.cross_attention_dim]).into();
        let slope = draw(&[1, config.out_channels, height, width]);
        let scoped = Scoped::new(&stored, &Scope::All).unwrap();
        let gradients = |memory_policy: MemoryPolicy| {
            let unet = Unet::new(&Weights::scoped(&stored, &scoped), &config).unwrap();
            let prediction =
                unet.with_memory_policy(memory_policy).trace(&sample, &[500.0], &text).unwrap();
            assert_eq!(prediction.tensor().dims(), slope.dims());
            let mut gradients = prediction.backward(slope.clone()).unwrap();
            let of_variables = scoped.variables.iter();
            of_variables.map(|(name, v)| (name, gradients.take(v).unwrap())).collect::<Vec<_>>()
        };
        let plain = gradients(MemoryPolicy::default());
        let again = gradients(MemoryPolicy { recomputed: (0..64).collect(), passes: None });
        for ((name, one), (_, other)) in plain.iter().zip(&again) {
            assert!(number(&(one - other).unwrap().abs().unwrap()) <= 0.0, "{name}");
        }

        // The loss along the gradient of each tensor that comes before or after an upsampling.
        let loss = || {
            let unet = Unet::new(&Weights::scoped(&stored, &scoped), &config).unwrap();
            number(&(unet.forward(&sample, &[500.0], &text).unwrap() * &slope).unwrap())
        };
        let mut checked = 0;
        for (name, gradient) in &plain {
            if !name.ends_with("samplers.0.conv.weight") && !name.ends_with("conv1.weight") {
                continue;
            }
            let variable = &scoped.variables[*name];
            let kept = variable.as_tensor().copy().unwrap();
            let length = number(&gradient.sqr().unwrap()).sqrt();
            let along = (gradient / length).unwrap();
            let step = 1e-2;
            let shifted = |by: f64| {
                variable.set(&(&kept + (&along * by).unwrap()).unwrap()).unwrap();
                loss()
            };
            let difference = (shifted(step) - shifted(-step)) / (2.0 * step);
            variable.set(&kept).unwrap();
            assert!(
                (difference - length).abs() < 2e-2 * length + 1e-3,
                "{height} x {width}, {name}: {length} along the gradient, {difference} by differences"
            );
            checked += 1;
        }
        println!("{height} x {width}: {checked} tensors' gradients are the loss's differences");
        assert!(checked > 4, "{checked}");
    }
}
