//! What processes and the whole machine have spent of the processors' time, from `/proc`.

use std::{fs, io};

/// Ticks a second of `/proc`: the same on every Linux of today.
const TICKS: f64 = 100.0;

/// Seconds of processor time that a process has used.
pub fn used_by(process: &str) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name in parentheses may hold anything, spaces too.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    Ok(ticks(fields.split_whitespace().skip(11).take(2)) / TICKS)
}

/// Seconds of processor time that everything on the machine has used.
pub fn used_by_all() -> io::Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let first = stat.lines().next().unwrap_or_default();
    // user, nice, system, then idle and waiting, then interrupts and what the host took.
    let fields = first.split_whitespace().skip(1).take(8).enumerate();
    let busy = fields.filter(|(index, _)| ![3, 4].contains(index)).map(|(_, field)| field);
    Ok(ticks(busy) / TICKS)
}

fn ticks<'a>(fields: impl Iterator<Item = &'a str>) -> f64 {
    fields.filter_map(|field| field.parse::<f64>().ok()).sum()
}
