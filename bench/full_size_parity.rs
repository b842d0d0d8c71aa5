//! The U-Net of Stable Diffusion 1.4's full size against diffusers, as a Markdown table. The folder
//! comes from `tests/parity/full_size.py`; `docs/parity.md` holds the figures of one run.
//!
//! ```sh
//! python tests/parity/full_size.py FOLDER
//! cargo run --release --example full_size_parity -- FOLDER
//! ```
//!
//! Fails where an output lies further from diffusers' than the golden tests allow.

use std::{
    error::Error,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

use candle_core::{DType, Device, Tensor, safetensors};
use clap::Parser;
use keystep::{
    engine::{
        checkpoint::{read_component, read_text},
        family::{Denoiser, Unet, UnetConfig},
        nn::Weights,
    },
    spec::{FileError, ModelFiles, ReadSeek},
};

/// Largest `‖got − want‖ / ‖want‖`, the limit that no golden test may exceed either.
const LIMIT: f64 = 1e-4;
const SIDES: [usize; 2] = [32, 64];
const TIMESTEPS: [u32; 3] = [1, 500, 981];
const COMPONENT: &str = "unet";

#[derive(Debug, Parser)]
struct Options {
    /// Holds `config.json`, the weights and `expected.safetensors`.
    folder: PathBuf,
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Options::parse().folder;
    let mut out = std::io::stdout();
    let expected = safetensors::load(folder.join("expected.safetensors"), &Device::Cpu)?;
    let expected = |key: &str| {
        expected.get(key).ok_or_else(|| format!("expected.safetensors has no {key}; write it anew"))
    };

    let start = Clocks::now();
    let files = FlatFolder::open(&folder)?;
    let config_name = format!("{COMPONENT}/config.json");
    let config = UnetConfig::parse(&read_text(&files, &config_name)?, &config_name)?;
    let tensors = read_component(&files, COMPONENT, None, &Device::Cpu)?;
    let unet = Unet::new(&Weights::frozen(&tensors), &config)?;
    let parameters: usize = tensors.tensors.values().map(|stored| stored.tensor.elem_count()).sum();
    let (wall, cpu) = start.elapsed();
    writeln!(out, "{parameters} parameters, read in {wall:.1} s ({} of CPU)\n", seconds(cpu))?;

    writeln!(
        out,
        "| latent | timestep | relative error | largest difference | wall s | CPU s |\n\
         | --- | --- | --- | --- | --- | --- |"
    )?;
    let mut worst = 0.0_f64;
    for side in SIDES {
        let sample = expected(&format!("{side}.sample"))?;
        for timestep in TIMESTEPS {
            let want = expected(&format!("{side}.t{timestep}"))?;
            let start = Clocks::now();
            let got = unet.forward(sample, &[f64::from(timestep)], &expected("context")?.into())?;
            let (wall, cpu) = start.elapsed();
            let (relative, largest) = distances(&got, want)?;
            worst = worst.max(relative);
            writeln!(
                out,
                "| {side} × {side} | {timestep} | {relative:.1e} | {largest:.1e} | {wall:.1} | {} |",
                seconds(cpu)
            )?;
        }
    }
    if let Some(line) = status_line("VmHWM:") {
        writeln!(out, "\nPeak memory: {line}")?;
    }
    if worst > LIMIT {
        return Err(format!("a relative error of {worst:.1e} is above {LIMIT:.0e}").into());
    }
    Ok(())
}

/// `‖got − want‖ / ‖want‖` and the largest difference of an element, both infinite where a value
/// is not a number: no comparison would show it.
fn distances(got: &Tensor, want: &Tensor) -> Result<(f64, f64), Box<dyn Error>> {
    if got.dims() != want.dims() {
        return Err(format!("the output is {:?}, expected {:?}", got.dims(), want.dims()).into());
    }
    let elements = |x: &Tensor| x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let (got, want) = (elements(got)?, elements(want)?);
    let differences: Vec<f64> = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).collect();
    if differences.iter().any(|difference| !difference.is_finite()) {
        return Ok((f64::INFINITY, f64::INFINITY));
    }
    let norm = |x: &[f64]| x.iter().map(|value| value * value).sum::<f64>().sqrt();
    Ok((norm(&differences) / norm(&want), differences.iter().copied().fold(0.0, f64::max)))
}

/// A component's files without a pipeline around them.
#[derive(Debug)]
struct FlatFolder {
    folder: PathBuf,
    location: String,
    names: Vec<String>,
}

impl FlatFolder {
    fn open(folder: &Path) -> Result<Self, Box<dyn Error>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            names.push(format!("{COMPONENT}/{}", entry?.file_name().to_string_lossy()));
        }
        names.sort();
        Ok(Self { folder: folder.to_owned(), location: folder.display().to_string(), names })
    }
}

impl ModelFiles for FlatFolder {
    fn location(&self) -> &str {
        &self.location
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError> {
        let unreadable = |source| FileError::Unreadable {
            location: self.location.clone(),
            name: name.to_owned(),
            source,
        };
        let Some((_, file)) = name.split_once('/') else {
            return Err(FileError::Missing {
                location: self.location.clone(),
                name: name.to_owned(),
            });
        };
        let file = File::open(self.folder.join(file)).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        Ok((Box::new(file), length))
    }
}

/// Wall time and processor time: only the second is comparable on a machine that does other work.
struct Clocks {
    wall: Instant,
    cpu: Option<f64>,
}

impl Clocks {
    #[allow(clippy::disallowed_methods, reason = "how long a pass takes is what is asked for")]
    fn now() -> Self {
        Self { wall: Instant::now(), cpu: cpu_seconds() }
    }

    fn elapsed(&self) -> (f64, Option<f64>) {
        let cpu = cpu_seconds().zip(self.cpu).map(|(now, then)| now - then);
        (self.wall.elapsed().as_secs_f64(), cpu)
    }
}

fn seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1}"))
}

/// Processor time of all threads of this process; none where the system does not report it.
fn cpu_seconds() -> Option<f64> {
    // Fixed by the kernel's interface to programs, whatever the kernel's own clock.
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name, in brackets, and may hold spaces.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_A_SECOND)
}

fn status_line(key: &str) -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim().to_owned())
}
