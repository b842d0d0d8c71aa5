//! Which device a verb's own work is done on.

use clap::Args;

use crate::engine::{ComputeSettings, ComputeType, DeviceChoice};

/// Device and type, for work in this process.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(super) struct ComputeArguments {
    /// What computes: auto, cpu, cuda or cuda:N; --local alone [default: auto, which is the first
    /// CUDA device where this build knows CUDA and one answers, else the CPU].
    #[arg(long, value_name = "DEVICE")]
    pub(super) device: Option<DeviceChoice>,
    /// What the U-Net computes in: f32, f16 or bf16, the CPU in f32 alone; trained weights stay f32;
    /// --local alone [default: f32].
    #[arg(long, value_name = "TYPE")]
    pub(super) compute_type: Option<ComputeType>,
}

impl ComputeArguments {
    /// What was given, and the defaults.
    pub(super) fn settings(self) -> ComputeSettings {
        ComputeSettings {
            device: self.device.unwrap_or_default(),
            compute_type: self.compute_type.unwrap_or_default(),
        }
    }
}
