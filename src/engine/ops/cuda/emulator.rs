//! The kernels compiled as plain C++ and run by a child process, so that the tests hold them, and
//! every launch of them, against the CPU's operations on a machine without a GPU.
//!
//! Not emulated: speed, memory, streams, and what only warps that run at a time can get wrong. Each
//! block runs twice, its threads in either order, and must give the same bytes.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{LazyLock, Mutex, PoisonError},
};

use candle_core::{CpuStorage, DType, Error, Layout, Result, Storage, Tensor, bail};
use half::{bf16, f16};
use sha2::{Digest, Sha256};

use super::launch::{Argument, Launch, byte_range};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/engine/ops/cuda");

static PROCESS: LazyLock<Option<Mutex<Process>>> =
    LazyLock::new(|| Process::start().map(Mutex::new));

/// Whether kernels can be run; says once why not.
pub(super) fn is_there() -> bool {
    PROCESS.is_some()
}

struct Process {
    input: ChildStdin,
    output: ChildStdout,
    _child: Child,
}

impl Process {
    /// None where there is no C++ compiler; kernels that do not compile fail the test.
    fn start() -> Option<Self> {
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        if Command::new(&compiler).arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("skipped: no C++ compiler ({compiler}), so no kernel of CUDA is tested");
            return None;
        }
        let mut child = Command::new(compiled(&compiler))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Some(Self { input, output, _child: child })
    }

    /// Runs a launch; gives the buffers back.
    fn run(
        &mut self,
        request: &[u8],
        buffers: &[usize],
    ) -> std::result::Result<Vec<Vec<u8>>, String> {
        let away = |error: std::io::Error| format!("the emulator is away: {error}");
        self.input.write_all(request).map_err(away)?;
        self.input.flush().map_err(away)?;
        let mut length = [0; 4];
        self.output.read_exact(&mut length).map_err(away)?;
        let mut read = |length| {
            let mut bytes = vec![0; length];
            self.output.read_exact(&mut bytes).map_err(away)?;
            Ok::<_, String>(bytes)
        };
        match u32::from_le_bytes(length) {
            0 => buffers.iter().map(|length| read(*length)).collect(),
            length => Err(String::from_utf8_lossy(&read(length as usize)?).into_owned()),
        }
    }
}

/// The program, compiled once for each state of its sources.
fn compiled(compiler: &str) -> PathBuf {
    let source = |name: &str| fs::read_to_string(Path::new(FOLDER).join(name)).unwrap();
    let kernels = source("kernels.cu");
    let mut digest = Sha256::new();
    for text in [&kernels, &source("emulator/emulator.h"), &source("emulator/main.cpp")] {
        digest.update(text);
    }
    digest.update(compiler);
    let folder = Path::new(env!("OUT_DIR")).join("emulator");
    let program = folder.join(&hex::encode(digest.finalize())[..16]);
    if program.exists() {
        return program;
    }
    // Another test program may be at it as well.
    let scratch = folder.join(std::process::id().to_string());
    fs::create_dir_all(&scratch).unwrap();
    fs::write(scratch.join("entries.h"), entries(&kernels)).unwrap();
    let made = scratch.join("program");
    let output = Command::new(compiler)
        .args(["-std=c++17", "-O1", "-I"])
        .arg(&scratch)
        .arg("-o")
        .arg(&made)
        .arg(Path::new(FOLDER).join("emulator/main.cpp"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(made, &program).unwrap();
    fs::remove_dir_all(scratch).unwrap();
    program
}

/// A line for each kernel, read off its declaration.
fn entries(kernels: &str) -> String {
    let mut entries = String::new();
    for declaration in kernels.split("KERNEL ").skip(2) {
        let name = declaration.split('(').next().unwrap();
        match name.strip_suffix("_##t") {
            Some(name) => {
                for dtype in ["f32", "f16", "bf16"] {
                    writeln!(entries, "ENTRY({name}_{dtype})").unwrap();
                }
            }
            None => writeln!(entries, "ENTRY({name})").unwrap(),
        }
    }
    entries
}

/// Runs a launch on host memory.
pub(super) fn run(launch: &Launch<'_>, target: &mut CpuStorage, layout: &Layout) -> Result<()> {
    let Some(process) = &*PROCESS else {
        bail!("a kernel of CUDA met a tensor in host memory");
    };
    let (blocks, threads, arguments) = launch.parts();
    let name = launch.function()?;
    let mut request = Vec::new();
    let number = |request: &mut Vec<u8>, number: usize| {
        request.extend(u32::try_from(number).unwrap().to_le_bytes());
    };
    number(&mut request, name.len());
    request.extend(name.as_bytes());
    number(&mut request, blocks as usize);
    number(&mut request, threads as usize);
    number(&mut request, arguments.len() + 1);

    let mut buffers = Vec::new();
    let mut buffer = |request: &mut Vec<u8>, bytes: Vec<u8>| {
        number(request, 0);
        request.extend((bytes.len() as u64).to_le_bytes());
        buffers.push(bytes.len());
        request.extend(bytes);
    };
    buffer(&mut request, bytes_of(target, layout)?);
    for argument in arguments {
        match argument {
            Argument::Read(tensor) | Argument::Change(tensor) => {
                let (storage, layout) = tensor.storage_and_layout();
                let Storage::Cpu(storage) = &*storage else {
                    bail!("{name}: an argument is not in host memory");
                };
                buffer(&mut request, bytes_of(storage, layout)?);
            }
            Argument::Nothing => number(&mut request, 2),
            Argument::Count(count) => {
                number(&mut request, 1);
                request.extend(count.to_le_bytes());
            }
            Argument::Number(factor) => {
                number(&mut request, 1);
                request.extend(factor.to_le_bytes());
            }
        }
    }
    let mut process = process.lock().unwrap_or_else(PoisonError::into_inner);
    let results = process.run(&request, &buffers).map_err(Error::msg)?;
    drop(process);
    let mut results = results.into_iter();
    put(target, layout, &results.next().unwrap())?;
    for argument in arguments {
        match argument {
            Argument::Read(_) => drop(results.next()),
            Argument::Change(tensor) => {
                let values = of_bytes(&results.next().unwrap(), tensor)?;
                tensor.flatten_all()?.slice_set(&values, 0, 0)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The values of a contiguous layout as bytes.
fn bytes_of(storage: &CpuStorage, layout: &Layout) -> Result<Vec<u8>> {
    let bytes: Vec<u8> = match storage {
        CpuStorage::F32(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        CpuStorage::F16(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        CpuStorage::BF16(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        _ => bail!("no kernel takes such a tensor"),
    };
    let range = byte_range(layout, dtype_of(storage))?;
    Ok(bytes[range].to_vec())
}

fn dtype_of(storage: &CpuStorage) -> DType {
    match storage {
        CpuStorage::F16(_) => DType::F16,
        CpuStorage::BF16(_) => DType::BF16,
        _ => DType::F32,
    }
}

/// Overwrites the values of a contiguous layout.
fn put(storage: &mut CpuStorage, layout: &Layout, bytes: &[u8]) -> Result<()> {
    let (start, end) = layout.contiguous_offsets().unwrap();
    match storage {
        CpuStorage::F32(values) => {
            let new = bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b));
            values[start..end].iter_mut().zip(new).for_each(|(value, new)| *value = new);
        }
        CpuStorage::F16(values) => {
            let new = bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b));
            values[start..end].iter_mut().zip(new).for_each(|(value, new)| *value = new);
        }
        CpuStorage::BF16(values) => {
            let new = bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b));
            values[start..end].iter_mut().zip(new).for_each(|(value, new)| *value = new);
        }
        _ => bail!("no kernel writes such a tensor"),
    }
    Ok(())
}

/// A flat tensor of f32 bytes; only f32 tensors are changed beside the one that is written.
fn of_bytes(bytes: &[u8], like: &Tensor) -> Result<Tensor> {
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    Tensor::from_vec(values, like.elem_count(), like.device())
}
