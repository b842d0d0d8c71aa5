//! Each kernel alone, forward and backward, at sizes of the built-in model and of Stable Diffusion:
//!
//! ```sh
//! cargo bench --bench kernels -- convolution
//! ```

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a measurement that fails has nothing to tell"
)]

use std::{collections::BTreeMap, hint::black_box};

use candle_core::{Device, Result, Tensor, Var};
use criterion::{Criterion, criterion_group, criterion_main};
use keystep::engine::{
    ops::{
        Adam, AdamSettings, Addends, Convolution, GroupNorm, attention, conv2d, geglu, gelu_erf,
        group_norm, layer_norm, linear, quick_gelu, silu, upsample_nearest,
    },
    schedule::NoiseSource,
    tape::TapeTensor,
};

fn noise(shape: &[usize]) -> Tensor {
    let mut source = NoiseSource::new(shape.iter().sum::<usize>() as u64);
    source.randn_tensor(shape, &Device::Cpu).unwrap()
}

/// Times an operation, then the same with gradients of the arguments that `trained` marks.
fn both(
    criterion: &mut Criterion,
    name: &str,
    arguments: &[Tensor],
    trained: &[bool],
    operation: impl Fn(&[TapeTensor]) -> Result<TapeTensor>,
) {
    let frozen: Vec<TapeTensor> = arguments.iter().map(TapeTensor::no_grad).collect();
    criterion.bench_function(&format!("{name}/forward"), |bencher| {
        bencher.iter(|| operation(black_box(&frozen)).unwrap());
    });
    let followed = arguments.iter().zip(trained).map(|(argument, trained)| {
        if *trained {
            TapeTensor::variable(&Var::from_tensor(argument).unwrap())
        } else {
            TapeTensor::constant(argument)
        }
    });
    let followed: Vec<TapeTensor> = followed.collect();
    let gradient = operation(&frozen).unwrap().tensor().ones_like().unwrap();
    criterion.bench_function(&format!("{name}/gradients"), |bencher| {
        bencher.iter(|| {
            let result = operation(black_box(&followed)).unwrap();
            result.backward(gradient.clone()).unwrap()
        });
    });
}

fn convolutions(criterion: &mut Criterion) {
    // Batch, input and output channels, side, kernel, stride.
    for [batch, inputs, outputs, side, kernel, stride] in [
        [4, 64, 64, 16, 3, 1],
        [4, 128, 128, 4, 3, 1],
        [4, 96, 96, 8, 1, 1],
        [4, 64, 64, 16, 3, 2],
        [1, 320, 320, 64, 3, 1],
        [1, 640, 640, 32, 3, 1],
        [1, 1280, 1280, 16, 3, 1],
        [1, 320, 320, 64, 1, 1],
    ] {
        let geometry = Convolution { stride, padding: kernel / 2 };
        let arguments = [
            noise(&[batch, inputs, side, side]),
            noise(&[outputs, inputs, kernel, kernel]),
            noise(&[outputs]),
        ];
        let name = format!("convolution/{batch}x{inputs}to{outputs}at{side}k{kernel}s{stride}");
        let convolve = |t: &[TapeTensor]| conv2d(&t[0], &t[1], Addends::bias(&t[2]), geometry);
        both(criterion, &name, &arguments, &[true, true, true], convolve);
        both(criterion, &format!("{name}/frozen"), &arguments, &[true, false, false], convolve);
    }
}

fn linears(criterion: &mut Criterion) {
    for [rows, inputs, outputs] in
        [[1024, 64, 512], [256, 96, 96], [4096, 320, 2560], [77, 768, 1280]]
    {
        let arguments = [noise(&[rows, inputs]), noise(&[outputs, inputs]), noise(&[outputs])];
        let name = format!("linear/{rows}x{inputs}to{outputs}");
        both(criterion, &name, &arguments, &[true; 3], |t| {
            linear(&t[0], &t[1], Addends::bias(&t[2]))
        });
    }
}

fn attentions(criterion: &mut Criterion) {
    // Batch, queries, keys, heads, channels of a head.
    for [batch, queries, keys, heads, depth] in [
        [4, 256, 256, 2, 32],
        [4, 256, 32, 2, 32],
        [1, 4096, 4096, 8, 40],
        [1, 4096, 77, 8, 40],
        [1, 1024, 1024, 8, 80],
    ] {
        let channels = heads * depth;
        let arguments = [
            noise(&[batch, queries, channels]),
            noise(&[batch, keys, channels]),
            noise(&[batch, keys, channels]),
        ];
        let name = format!("attention/{batch}x{queries}by{keys}h{heads}d{depth}");
        both(criterion, &name, &arguments, &[true; 3], |t| {
            attention(&t[0], &t[1], &t[2], heads, None)
        });
    }
}

fn norms(criterion: &mut Criterion) {
    for (batch, channels, side, groups) in [(4, 64, 16, 16), (1, 320, 64, 32)] {
        for silu in [false, true] {
            let settings = GroupNorm { groups, eps: 1e-5, silu };
            let arguments =
                [noise(&[batch, channels, side, side]), noise(&[channels]), noise(&[channels])];
            let name = format!("group_norm/{batch}x{channels}at{side}silu{silu}");
            both(criterion, &name, &arguments, &[true; 3], |t| {
                group_norm(&t[0], &t[1], &t[2], settings)
            });
        }
        let arguments =
            [noise(&[batch * side * side, channels]), noise(&[channels]), noise(&[channels])];
        let name = format!("layer_norm/{}x{channels}", batch * side * side);
        both(criterion, &name, &arguments, &[true; 3], |t| layer_norm(&t[0], &t[1], &t[2], 1e-5));
    }
}

fn elementwise(criterion: &mut Criterion) {
    type Activation = fn(&TapeTensor) -> Result<TapeTensor>;
    let activations: [(&str, Activation); 4] =
        [("silu", silu), ("gelu_erf", gelu_erf), ("quick_gelu", quick_gelu), ("geglu", geglu)];
    for shape in [[1024, 512], [4096, 2560]] {
        for (name, function) in activations {
            let name = format!("{name}/{}x{}", shape[0], shape[1]);
            both(criterion, &name, &[noise(&shape)], &[true], |t| function(&t[0]));
        }
    }
    for shape in [[4, 96, 8, 8], [1, 640, 32, 32]] {
        let name = format!("upsample_nearest_2x/{}x{}at{}", shape[0], shape[1], shape[2]);
        both(criterion, &name, &[noise(&shape)], &[true], |t| {
            upsample_nearest(&t[0], [2 * shape[2], 2 * shape[3]])
        });
    }
}

fn optimiser(criterion: &mut Criterion) {
    let count = 1 << 20;
    let variable = Var::from_tensor(&noise(&[count])).unwrap();
    let variables = BTreeMap::from([("weight".to_owned(), variable)]);
    let gradients = BTreeMap::from([("weight".to_owned(), noise(&[count]))]);
    let mut adam = Adam::new(&variables, AdamSettings::default()).unwrap();
    criterion.bench_function("adam/1048576", |bencher| {
        bencher.iter(|| adam.step(&variables, black_box(&gradients), |_| 1e-5).unwrap());
    });
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(10);
    targets = convolutions, linears, attentions, norms, elementwise, optimiser
}
criterion_main!(kernels);
