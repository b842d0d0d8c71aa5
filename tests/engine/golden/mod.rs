//! Golden tensors: what the reference implementation gave, and how close we must come.

#![allow(unreachable_pub, reason = "a test has no public interface")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]
#![allow(clippy::print_stdout, reason = "measured errors are worth reading when a test fails")]
#![allow(missing_debug_implementations, reason = "nobody prints a whole golden file")]

mod networks;
mod primitives;

use std::{collections::HashMap, io::Write, path::PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use keystep::engine::{Compute, ComputeSettings, DeviceChoice};

/// Makes two tests of each function of a device: on the CPU, and on CUDA, which is ignored without
/// the feature and says past the harness that it is skipped where no device answers.
macro_rules! on_each_device {
    ($($name:ident,)+) => {
        mod on_the_cpu {
            $(#[test]
            fn $name() {
                super::$name(&keystep::engine::Compute::on_the_cpu());
            })+
        }

        mod on_cuda {
            $(#[test]
            #[cfg_attr(not(feature = "cuda"), ignore = "needs a build with the feature cuda")]
            fn $name() {
                if let Some(compute) = crate::golden::cuda() {
                    super::$name(&compute);
                }
            })+
        }
    };
}
pub(crate) use on_each_device;

/// The first CUDA device; `None`, which is printed, where none answers.
pub fn cuda() -> Option<Compute> {
    let settings = ComputeSettings { device: DeviceChoice::Cuda(0), ..Default::default() };
    match settings.open() {
        Ok(compute) => Some(compute),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "skipped: {error}");
            None
        }
    }
}

/// How far a result may lie from its reference, in norms over the whole tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Largest difference of an element where the reference is zero everywhere.
    pub absolute: f64,
    /// Largest `‖got − want‖ / ‖want‖`.
    pub relative: f64,
}

impl Tolerance {
    /// No test may allow more: what gradients deep in a network need.
    pub const LIMIT: Self = Self { absolute: 1e-6, relative: 1e-4 };
    /// A network's output: between rounding (1e-6) and the mildest mistake, a tanh GELU (4e-5).
    pub const NETWORK: Self = Self { absolute: 1e-6, relative: 1e-5 };
    /// A single formula in single precision.
    pub const FORMULA: Self = Self { absolute: 1e-6, relative: 1e-6 };
}

/// A file of `tests/golden`.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The tensors of an `expected.safetensors`, by the key names that `README.md` lists.
pub struct Golden {
    file: String,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    /// Reads a file of `tests/golden`.
    pub fn read(file: &str) -> Self {
        Self::read_on(file, &Device::Cpu)
    }

    /// Reads a file of this folder onto a device.
    pub fn read_on(file: &str, device: &Device) -> Self {
        let tensors = safetensors::load(path(file), device).unwrap();
        Self { file: file.to_owned(), tensors }
    }

    /// One tensor.
    pub fn get(&self, key: &str) -> Tensor {
        let tensor = self.tensors.get(key);
        tensor.unwrap_or_else(|| panic!("{} has no {key}", self.file)).clone()
    }

    /// Every key, sorted.
    pub fn keys(&self) -> Vec<&str> {
        let mut keys: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    /// One tensor's elements as whole numbers.
    pub fn integers(&self, key: &str) -> Vec<i64> {
        self.get(key).to_dtype(DType::I64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }
}

/// Elements in double precision, in order.
pub fn elements(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor.to_device(&Device::Cpu).unwrap();
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// `‖got − want‖ / ‖want‖`; infinite where a value of `got` is not finite.
pub fn relative_error(got: &Tensor, want: &Tensor) -> f64 {
    let (got, want) = (elements(got), elements(want));
    if got.iter().any(|value| !value.is_finite()) {
        return f64::INFINITY;
    }
    let distance: f64 = got.iter().zip(&want).map(|(a, b)| (a - b).powi(2)).sum();
    let size: f64 = want.iter().map(|b| b * b).sum();
    if distance == 0.0 { 0.0 } else { (distance / size).sqrt() }
}

/// Fails unless `got` lies within the tolerance, and never allows more than
/// [`Tolerance::LIMIT`]; gives and prints the relative error.
pub fn assert_close(name: &str, got: &Tensor, want: &Tensor, tolerance: Tolerance) -> f64 {
    assert_eq!(got.dims(), want.dims(), "{name}: shape");
    let relative = relative_error(got, want);
    let allowed = tolerance.relative.min(Tolerance::LIMIT.relative);
    if elements(want).iter().all(|&value| value == 0.0) {
        let largest = elements(got).into_iter().map(f64::abs).fold(0.0, f64::max);
        let allowed = tolerance.absolute.min(Tolerance::LIMIT.absolute);
        assert!(largest <= allowed, "{name}: {largest:.2e} where zeros are expected");
        return 0.0;
    }
    println!("{name}: relative error {relative:.2e}");
    assert!(relative <= allowed, "{name}: relative error {relative:.2e} above {allowed:.0e}");
    relative
}
