//! Which device computes, and in which type.

use candle_core::{DType, Device};

use super::{ComputeType, DeviceChoice, EngineError};

/// What is asked for; [`ComputeSettings::open`] gives what there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ComputeSettings {
    /// Where tensors lie.
    pub device: DeviceChoice,
    /// What the U-Net computes in.
    pub compute_type: ComputeType,
}

/// A device that answered, and what the U-Net computes in on it.
#[derive(Debug, Clone)]
pub struct Compute {
    /// Where tensors lie.
    pub device: Device,
    /// f32, f16 or bf16.
    pub dtype: DType,
}

impl ComputeSettings {
    /// Opens the device.
    ///
    /// Fails where a CUDA device is asked for that this build or this machine does not have, and
    /// where a type of 16 bits is asked of the CPU; the message says what to do.
    pub fn open(self) -> Result<Compute, EngineError> {
        let device = match self.device {
            DeviceChoice::Cpu => Device::Cpu,
            DeviceChoice::Cuda(number) => open_cuda(number)?,
            // A missing device is what `auto` is for, so why it is missing is told nowhere.
            DeviceChoice::Auto => open_cuda(0).unwrap_or(Device::Cpu),
        };
        let dtype = match self.compute_type {
            ComputeType::F32 => DType::F32,
            ComputeType::F16 => DType::F16,
            ComputeType::Bf16 => DType::BF16,
        };
        if device.is_cpu() && dtype != DType::F32 {
            return Err(EngineError::UnsupportedComputeType { asked: self.compute_type });
        }
        Ok(Compute { device, dtype })
    }
}

impl Compute {
    /// f32 on the CPU, which every machine has.
    pub fn on_the_cpu() -> Self {
        Self { device: Device::Cpu, dtype: DType::F32 }
    }
}

/// The instructions by which kernels are chosen on this processor, and with them the last bits of what
/// they compute.
pub(super) fn instructions() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let known = [
        ("fma", is_x86_feature_detected!("fma")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512cd", is_x86_feature_detected!("avx512cd")),
        ("avx512dq", is_x86_feature_detected!("avx512dq")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let known: [(&str, bool); 0] = [];
    let there = known.into_iter().filter(|(_, there)| *there).map(|(name, _)| name);
    std::iter::once(std::env::consts::ARCH).chain(there).collect()
}

fn open_cuda(number: usize) -> Result<Device, EngineError> {
    let missing = |problem: String, remedy| EngineError::NoDevice {
        asked: DeviceChoice::Cuda(number),
        problem,
        remedy,
    };
    if !cfg!(feature = "cuda") {
        return Err(missing(
            "this build of Keystep knows no CUDA".to_owned(),
            "build it with deploy/cuda/build (docs/cuda.md), or choose the device cpu",
        ));
    }
    Device::new_cuda(number).map_err(|error| {
        // candle appends a backtrace.
        let said = error.to_string();
        missing(
            said.lines().next().unwrap_or_default().to_owned(),
            "look with nvidia-smi whether the driver is loaded and knows a device of this number, \
             and see docs/cuda.md for the libraries that must be found; or choose the device cpu",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_types_are_read_as_they_are_written() {
        for (text, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda:0", DeviceChoice::Cuda(0)),
            ("cuda:3", DeviceChoice::Cuda(3)),
        ] {
            assert_eq!(text.parse(), Ok(choice));
            assert_eq!(choice.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for wrong in ["", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda0"] {
            let error = wrong.parse::<DeviceChoice>().unwrap_err();
            assert!(error.contains("give auto, cpu, cuda or cuda:N"), "{error}");
        }
        for text in ["f32", "f16", "bf16"] {
            assert_eq!(text.parse::<ComputeType>().map(|t| t.to_string()), Ok(text.to_owned()));
        }
        assert!("float32".parse::<ComputeType>().is_err());
    }

    #[test]
    fn the_cpu_computes_in_f32_alone() {
        let on_the_cpu =
            |compute_type| ComputeSettings { device: DeviceChoice::Cpu, compute_type }.open();
        assert_eq!(on_the_cpu(ComputeType::F32).unwrap().dtype, DType::F32);
        for asked in [ComputeType::F16, ComputeType::Bf16] {
            let error = on_the_cpu(asked).unwrap_err().to_string();
            assert!(error.contains(&asked.to_string()) && error.contains("f32"), "{error}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_named_with_a_remedy() {
        // No machine has so many.
        let settings = ComputeSettings { device: DeviceChoice::Cuda(4096), ..Default::default() };
        let error = settings.open().unwrap_err();
        assert!(matches!(error, EngineError::NoDevice { .. }), "{error:?}");
        let said = error.to_string();
        assert!(said.contains("cuda:4096") && said.contains("docs/cuda.md"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(ComputeSettings::default().open().is_ok());
    }
}
