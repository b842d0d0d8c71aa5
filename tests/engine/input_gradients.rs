//! Gradients to what a model reads: the latent, the text's hidden states, the token embeddings.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]
#![allow(clippy::print_stdout, reason = "measured errors are worth reading when a test fails")]

use candle_core::{Device, Tensor};
use keystep::{
    artifacts::open_model,
    engine::{
        Compute, Pipeline, family::Conditioning, nn::MemoryPolicy, schedule::NoiseSource,
        tape::TapeTensor,
    },
};

fn pipeline() -> Pipeline {
    let files = open_model("builtin:emoji-canvas").unwrap();
    Pipeline::load(files.as_ref(), None, &Compute::on_the_cpu()).unwrap()
}

fn product(a: &Tensor, b: &Tensor) -> f64 {
    let values = (a * b).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f64::from).sum()
}

/// Compares a gradient with how much `loss` changes along it and along other directions.
fn check(at: &Tensor, gradient: &Tensor, loss: impl Fn(&Tensor) -> f64) {
    const STEP: f64 = 1e-3;
    assert_eq!(gradient.dims(), at.dims());
    let length = product(gradient, gradient).sqrt();
    assert!(length > 0.0);
    let mut noise = NoiseSource::new(11);
    let mut other = || noise.randn_tensor(at.dims(), &Device::Cpu).unwrap();
    for direction in [gradient.clone(), other(), other()] {
        let direction = (&direction / product(&direction, &direction).sqrt()).unwrap();
        let beside = |by: f64| loss(&(at + (&direction * by).unwrap()).unwrap());
        let measured = (beside(STEP) - beside(-STEP)) / (2.0 * STEP);
        let expected = product(gradient, &direction);
        let off = (measured - expected).abs();
        println!("{measured:.3} by differences, {expected:.3}, of {length:.3}");
        assert!(off < 0.02 * length, "{measured} by differences, {expected}, of {length}");
    }
}

#[test]
fn gradients_flow_to_the_latent_and_the_text_and_not_to_frozen_weights() {
    let pipeline = pipeline();
    let denoiser = &pipeline.denoiser;
    let encoder = &pipeline.towers[0].encoder;
    let mut noise = NoiseSource::new(5);
    let mut draw = |shape: &[usize]| noise.randn_tensor(shape, &Device::Cpu).unwrap();
    let sample = draw(&[1, pipeline.family.latent_channels(), 16, 16]);
    let slope = draw(sample.dims());
    let ids = vec![vec![3, 17, 40, 2, 2, 2, 2, 2]];
    let embedded = encoder.token_embeddings(&ids).unwrap();
    let states = encoder.forward(&ids).unwrap();

    let prompt =
        |states: &TapeTensor| Conditioning { states: states.clone(), pooled: None, extra: None };
    let predict = |sample: &TapeTensor, states: &TapeTensor| {
        denoiser.trace_inputs(sample, &[300.0], &prompt(states)).unwrap()
    };
    let constant = TapeTensor::constant;
    let loss = |sample: &Tensor, states: &Tensor| {
        product(predict(&constant(sample), &constant(states)).tensor(), &slope)
    };

    let prediction = predict(&TapeTensor::followed(&sample), &TapeTensor::followed(&states));
    let mut gradients = prediction.backward(slope.clone()).unwrap();
    let [of_sample, of_states] =
        [&sample, &states].map(|input| gradients.take_of(input).expect("a followed input"));
    assert!(gradients.is_empty());
    check(&sample, &of_sample, |sample| loss(sample, &states));
    check(&states, &of_states, |states| loss(&sample, states));

    let encode = |embedded: &TapeTensor| encoder.trace(embedded).unwrap();
    assert_eq!(
        encode(&constant(&embedded)).tensor().to_vec3::<f32>().unwrap(),
        states.to_vec3::<f32>().unwrap()
    );
    let prediction = predict(&constant(&sample), &encode(&TapeTensor::followed(&embedded)));
    let mut gradients = prediction.backward(slope.clone()).unwrap();
    let of_embedded = gradients.take_of(&embedded).expect("a followed input");
    check(&embedded, &of_embedded, |embedded| loss(&sample, encode(&constant(embedded)).tensor()));

    // Where segments are done again, they are the same to the last bit.
    let lean = denoiser.with_memory_policy(MemoryPolicy {
        recomputed: (0..denoiser.segment_count()).collect(),
        passes: None,
    });
    let [followed_sample, followed_states] = [&sample, &states].map(TapeTensor::followed);
    let prediction =
        lean.trace_inputs(&followed_sample, &[300.0], &prompt(&followed_states)).unwrap();
    let mut gradients = prediction.backward(slope).unwrap();
    for (input, expected) in [(&sample, &of_sample), (&states, &of_states)] {
        let again = gradients.take_of(input);
        let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(again.map(|gradient| values(&gradient)), Some(values(expected)));
    }
}
