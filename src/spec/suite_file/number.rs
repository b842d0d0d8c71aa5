//! Numbers of a suite's cells.

/// A seed as `torch.Generator.manual_seed` takes it: a whole number from -2^63 to 2^64 - 1, of which a
/// negative one stands for itself plus 2^64. A whole number that pandas wrote as a float (`42.0`) is
/// read where a float holds it exactly.
pub(super) fn read_seed(cell: &str) -> Result<u64, String> {
    const EXACT_IN_F64: i64 = 1 << 53;
    let text = cell.trim();
    let negative = |text: &str| text.parse::<i64>().ok().map(i64::cast_unsigned);
    let whole = text.parse::<u64>().ok().or_else(|| negative(text));
    let of_float = || {
        let (whole, fraction) = text.split_once('.')?;
        let is_whole = !fraction.is_empty() && fraction.bytes().all(|digit| digit == b'0');
        let seed = whole.parse::<i64>().ok().filter(|_| is_whole)?;
        (-EXACT_IN_F64..=EXACT_IN_F64).contains(&seed).then(|| seed.cast_unsigned())
    };
    whole.or_else(of_float).ok_or_else(|| {
        format!("its seed {} is no whole number from {} to {}", shown(cell), i64::MIN, u64::MAX)
    })
}

/// Classifier-free guidance.
pub(super) fn read_guidance(cell: &str) -> Result<f64, String> {
    let scale = cell.trim().parse::<f64>().ok().filter(|scale| (0.0..=100.0).contains(scale));
    scale.ok_or_else(|| format!("its guidance {} is no number from 0 to 100", shown(cell)))
}

/// A cell as messages quote it.
fn shown(cell: &str) -> String {
    const MOST: usize = 40;
    let short: String = cell.chars().take(MOST).collect();
    format!("{short:?}")
}
