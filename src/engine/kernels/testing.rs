//! Values for tests, and how close results must come.

use candle_core::{Device, Tensor};

/// Reproducible values, about uniform in -1.5 to 1.5.
pub(in crate::engine) fn values(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 3.0
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub(in crate::engine) fn bytes(t: &Tensor) -> Vec<u32> {
    let values = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// Checks values within `tolerance` of the largest.
pub(in crate::engine) fn assert_close(got: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(got.dims(), expected.dims());
    let [got, expected] =
        [got, expected].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    let largest = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let fits = (got - expected).abs() <= tolerance * largest.max(1e-3);
        assert!(fits, "value {index}: {got}, expected {expected} (largest {largest})");
    }
}
