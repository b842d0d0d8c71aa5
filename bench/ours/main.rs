//! Keystep's side of `bench/run`: does one row's work as often as it is asked to.
//!
//! Reads commands from standard input and answers each with a line of JSON: `go N` repeats the work
//! N times and tells how long that took, `end` tells what was computed and how much memory was
//! needed. A first answer says that the model is loaded.

#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]
#![allow(clippy::print_stdout, reason = "the answers are the result")]

mod rows;

use std::{
    error::Error,
    fs,
    io::{BufRead, stdin},
    path::PathBuf,
    time::Instant,
};

use clap::Parser;
use serde_json::json;

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
struct Options {
    /// A folder, or `builtin:emoji-canvas`.
    #[arg(long)]
    model: String,
    /// The kind of work, as `bench/run` names it.
    #[arg(long)]
    work: String,
    /// Its tensors.
    #[arg(long)]
    inputs: PathBuf,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let mut row = rows::load(&options.work, &options.model, &options.inputs)?;
    println!("{}", json!({ "ready": true }));
    for line in stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ') {
            Some(("go", count)) => {
                let count: u32 = count.parse()?;
                let (start, cpu) = (Instant::now(), cpu_seconds());
                for _ in 0..count {
                    row.run()?;
                }
                let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
                let (seconds, cpu) = (seconds / f64::from(count), cpu / f64::from(count));
                println!("{}", json!({ "seconds": seconds, "cpu_seconds": cpu }));
            }
            _ => break,
        }
    }
    println!(
        "{}",
        json!({ "peak_bytes": peak_bytes(), "values": row.values()?, "notes": row.notes()? })
    );
    Ok(())
}

/// Processor time of all threads; zero where the system does not report it.
fn cpu_seconds() -> f64 {
    // Fixed by the kernel's interface to programs, whatever the kernel's own clock.
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the program's name, in brackets, and may hold spaces.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS_A_SECOND
}

/// The most memory that the process held; none where the system does not report it.
fn peak_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
}
