//! Settings of this process: environment variables that the tensor libraries read, which must be
//! set before their first thread starts, and the peak memory.
//!
//! candle spreads large element-wise operations over a spinning pool with one global lock; our
//! passes run side by side already, and wait for each other there (measured on two cores: an
//! erasure took more than ten times as long). The size of the pool that our passes share has to be
//! known before its first thread. Both are settled by environment variables alone, and a process
//! cannot soundly change its own environment, so it replaces itself once.

use std::process::Command;

use crate::telemetry::memory_line;

/// Threads of candle's own pool.
const CANDLE_NUM_THREADS: &str = "CANDLE_NUM_THREADS";
/// Threads of rayon's, which our passes share with matrix products.
const RAYON_NUM_THREADS: &str = "RAYON_NUM_THREADS";

/// Replaces the process by itself with the environment set; returns where that is done already, where
/// the user has chosen, and where the system cannot do it (the program is then slow, not wrong).
/// `threads` is how many compute, by default as many as cores.
pub(super) fn settle_environment(threads: Option<usize>) {
    if std::env::var_os(CANDLE_NUM_THREADS).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).env(CANDLE_NUM_THREADS, "1");
    if threads.is_some() || std::env::var_os(RAYON_NUM_THREADS).is_none() {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        command.env(RAYON_NUM_THREADS, threads.unwrap_or_else(cores).to_string());
    }
    replace(&mut command);
}

#[cfg(unix)]
fn replace(command: &mut Command) {
    use std::os::unix::process::CommandExt;

    // Returns only where it failed.
    let _ = command.exec();
}

#[cfg(not(unix))]
fn replace(_: &mut Command) {}

/// Peak resident set in bytes; `None` where the system does not report it.
pub(super) fn peak_rss_bytes() -> Option<u64> {
    memory_line(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM")
}
