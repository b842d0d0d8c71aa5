//! A kernel's launch: what the Rust side and `kernels.cu` must agree on, in one place.

#![allow(
    unsafe_code,
    reason = "a kernel takes bare addresses, and results are not cleared before they are written"
)]

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Shape, Tensor, bail};
#[cfg(feature = "cuda")]
use candle_core::{
    CudaStorage, Storage,
    backend::BackendStorage,
    cuda_backend::cudarc::driver::{
        CudaStream, DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg, SyncOnDrop,
    },
};

/// The kernels, compiled by `build.rs` for every device from compute capability 8.0 on.
#[cfg(feature = "cuda")]
const KERNELS: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));

/// Threads of a block whose threads each take one value.
const THREADS: u32 = 256;
/// Fewest and most threads of a block that works on a row; `kernels.cu` has the most as well.
const ROW_THREADS: [u32; 2] = [32, 1024];
/// Values of a row that a thread takes, so that not most of its time goes into sums over threads.
const VALUES_A_THREAD: u32 = 4;

/// What a kernel is given after the tensor that it writes.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(any(feature = "cuda", test)), expect(dead_code, reason = "nothing launches"))]
pub(super) enum Argument<'a> {
    /// A contiguous tensor that is read.
    Read(&'a Tensor),
    /// A contiguous tensor that is changed as well, and that nothing else uses meanwhile.
    Change(&'a Tensor),
    /// No tensor, where the kernel is told not to look.
    Nothing,
    /// A number of things.
    Count(u32),
    /// A factor.
    Number(f32),
}

/// A kernel on a grid of one dimension.
#[derive(Debug)]
#[cfg_attr(not(any(feature = "cuda", test)), expect(dead_code, reason = "nothing launches"))]
pub(super) struct Launch<'a> {
    /// The name in `kernels.cu` without its type.
    kernel: &'static str,
    /// The kernel is compiled for its type, and runs on its device.
    like: &'a Tensor,
    blocks: u32,
    threads: u32,
    arguments: Vec<Argument<'a>>,
}

/// A number of things as an argument.
pub(super) fn count(number: usize) -> Result<Argument<'static>> {
    whole(number).map(Argument::Count)
}

/// A number of things as kernels count them.
fn whole(number: usize) -> Result<u32> {
    match i32::try_from(number) {
        // Positions of the last block's idle threads must not wrap around.
        Ok(number) => Ok(number.unsigned_abs()),
        Err(_) => bail!(
            "{number} values are more than a CUDA kernel counts ({}); lower the batch or the size \
             of the pictures",
            i32::MAX
        ),
    }
}

impl<'a> Launch<'a> {
    /// A thread for each of `values`.
    pub(super) fn over_values(
        kernel: &'static str,
        like: &'a Tensor,
        values: usize,
        arguments: Vec<Argument<'a>>,
    ) -> Result<Self> {
        let blocks = whole(values)?.div_ceil(THREADS);
        Ok(Self { kernel, like, blocks, threads: THREADS, arguments })
    }

    /// A block for each of `rows` of `length` values.
    pub(super) fn over_rows(
        kernel: &'static str,
        like: &'a Tensor,
        (rows, length): (usize, usize),
        arguments: Vec<Argument<'a>>,
    ) -> Result<Self> {
        let [fewest, most] = ROW_THREADS;
        let threads = whole(length)?.div_ceil(VALUES_A_THREAD).next_power_of_two();
        let (blocks, threads) = (whole(rows)?, threads.clamp(fewest, most));
        Ok(Self { kernel, like, blocks, threads, arguments })
    }

    /// Runs the kernel into a new tensor, all of which it must write.
    pub(super) fn write(self, shape: impl Into<Shape>) -> Result<Tensor> {
        let dtype = self.like.dtype();
        self.write_as(dtype, shape)
    }

    /// The same for a kernel whose results are f32, whatever it reads.
    pub(super) fn write_f32(self, shape: impl Into<Shape>) -> Result<Tensor> {
        self.write_as(DType::F32, shape)
    }

    fn write_as(self, dtype: DType, shape: impl Into<Shape>) -> Result<Tensor> {
        let device = self.like.device();
        let y = if device.is_cuda() {
            // SAFETY: any bytes are a value of the three types, and the kernel writes all of them
            // before anything reads one, for both are queued on the device's one stream.
            unsafe { Tensor::empty(shape, dtype, device)? }
        } else {
            Tensor::zeros(shape, dtype, device)?
        };
        self.change(&y)?;
        Ok(y)
    }

    /// Runs the kernel on a contiguous tensor in place.
    pub(super) fn change(self, y: &Tensor) -> Result<()> {
        if self.blocks == 0 {
            return Ok(());
        }
        y.inplace_op1(&self)
    }

    /// The kernel's name with its type.
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn function(&self) -> Result<String> {
        match self.like.dtype() {
            dtype @ (DType::F32 | DType::F16 | DType::BF16) => {
                Ok(format!("{}_{}", self.kernel, dtype.as_str()))
            }
            other => bail!("{}: no kernel computes in {other:?}", self.kernel),
        }
    }

    #[cfg(test)]
    pub(super) fn parts(&self) -> (u32, u32, &[Argument<'a>]) {
        (self.blocks, self.threads, &self.arguments)
    }
}

impl InplaceOp1 for Launch<'_> {
    fn name(&self) -> &'static str {
        self.kernel
    }

    #[cfg(not(test))]
    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("{}: a kernel of CUDA met a tensor in host memory", self.kernel)
    }

    #[cfg(test)]
    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        super::emulator::run(self, storage, layout)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let function =
            storage.device.get_or_load_custom_func(&self.function()?, "keystep", KERNELS)?;
        let stream = storage.device.cuda_stream();
        let tensors = self.arguments.iter().filter_map(|argument| match argument {
            Argument::Read(tensor) | Argument::Change(tensor) => Some(*tensor),
            _ => None,
        });
        let held: Vec<_> = tensors.map(Tensor::storage_and_layout).collect();
        let mut addresses = Vec::with_capacity(held.len());
        for (storage, layout) in &held {
            let Storage::Cuda(storage) = &**storage else {
                bail!("{}: an argument is not on the device", self.kernel);
            };
            addresses.push(address(storage, layout, &stream)?);
        }
        let (target, _written) = target_address(storage, layout, &stream)?;
        let mut addresses_left = addresses.iter().map(|(address, _)| *address);
        let values: Vec<Value> = std::iter::once(Value::Address(target))
            .chain(self.arguments.iter().map(|argument| match argument {
                Argument::Read(_) | Argument::Change(_) => {
                    Value::Address(addresses_left.next().unwrap_or(0))
                }
                Argument::Nothing => Value::Address(0),
                Argument::Count(count) => Value::Count(*count),
                Argument::Number(number) => Value::Number(*number),
            }))
            .collect();
        let mut builder = function.builder();
        for value in &values {
            match value {
                Value::Address(address) => builder.arg(address),
                Value::Count(count) => builder.arg(count),
                Value::Number(number) => builder.arg(number),
            };
        }
        let grid = LaunchConfig {
            grid_dim: (self.blocks, 1, 1),
            block_dim: (self.threads, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the callers of this folder give each kernel the arguments of its declaration, in
        // order, type and length; the emulator's tests run the same calls and check all three. The
        // tensors are contiguous and held until the launch is queued; what frees or reads their
        // memory later is queued behind it on the same stream. A tensor that is changed through
        // `Argument::Change` is one of the optimiser's moments, which nothing else uses meanwhile.
        unsafe { builder.launch(grid) }.map_err(candle_core::Error::wrap)?;
        Ok(())
    }
}

/// A kernel's argument as the driver takes it.
#[cfg(feature = "cuda")]
enum Value {
    Address(u64),
    Count(u32),
    Number(f32),
}

/// Where a contiguous layout starts and ends.
#[cfg(any(feature = "cuda", test))]
fn offsets(layout: &Layout) -> Result<(usize, usize)> {
    match layout.contiguous_offsets() {
        Some(offsets) => Ok(offsets),
        None => bail!("a kernel of CUDA met a tensor that is not contiguous: {layout:?}"),
    }
}

/// The bytes that a contiguous layout selects of host memory's.
#[cfg(test)]
pub(super) fn byte_range(layout: &Layout, dtype: DType) -> Result<std::ops::Range<usize>> {
    let (start, end) = offsets(layout)?;
    Ok(start * dtype.size_in_bytes()..end * dtype.size_in_bytes())
}

/// The address of a tensor's first value, with what keeps the stream in order until the launch.
#[cfg(feature = "cuda")]
fn address<'a>(
    storage: &'a CudaStorage,
    layout: &Layout,
    stream: &'a CudaStream,
) -> Result<(u64, SyncOnDrop<'a>)> {
    let (start, _) = offsets(layout)?;
    let (base, order) = match storage.dtype() {
        DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(stream),
        DType::F16 => storage.as_cuda_slice::<half::f16>()?.device_ptr(stream),
        DType::BF16 => storage.as_cuda_slice::<half::bf16>()?.device_ptr(stream),
        other => bail!("no kernel takes a tensor of {other:?}"),
    };
    Ok((base + (start * storage.dtype().size_in_bytes()) as u64, order))
}

/// The same of the tensor that is written.
#[cfg(feature = "cuda")]
fn target_address<'a>(
    storage: &'a mut CudaStorage,
    layout: &Layout,
    stream: &'a CudaStream,
) -> Result<(u64, SyncOnDrop<'a>)> {
    let (start, _) = offsets(layout)?;
    let dtype = storage.dtype();
    let (base, order) = match dtype {
        DType::F32 => storage.as_cuda_slice_mut::<f32>()?.device_ptr_mut(stream),
        DType::F16 => storage.as_cuda_slice_mut::<half::f16>()?.device_ptr_mut(stream),
        DType::BF16 => storage.as_cuda_slice_mut::<half::bf16>()?.device_ptr_mut(stream),
        other => bail!("no kernel writes a tensor of {other:?}"),
    };
    Ok((base + (start * dtype.size_in_bytes()) as u64, order))
}
