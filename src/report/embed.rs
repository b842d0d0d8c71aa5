//! Text, pictures and numbers in the report page: escaped, embedded as data, formatted for people.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// A text that may stand between tags and in quoted attributes.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(letter),
        }
    }
    safe
}

/// A PNG as the address of an `img`.
pub(super) fn png_address(bytes: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(bytes))
}

/// 14400 as "14 400", with thin spaces that do not break.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Seconds as "3 min 35 s".
pub(super) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "unknown".to_owned();
    }
    if seconds < 10.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match (whole / 3_600, whole / 60 % 60, whole % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// Bytes as "1.2 GiB".
pub(super) fn memory(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    if mebibytes < 1_024.0 {
        format!("{mebibytes:.0} MiB")
    } else {
        format!("{:.1} GiB", mebibytes / 1_024.0)
    }
}

/// A difference with its sign, to three places.
pub(super) fn signed(difference: f64) -> String {
    // A rounded zero has no sign.
    if difference.abs() < 0.000_5 {
        return "\u{00b1}0.000".to_owned();
    }
    let sign = if difference < 0.0 { '\u{2212}' } else { '+' };
    format!("{sign}{:.3}", difference.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_escapes_from_an_escaped_text() {
        assert_eq!(escaped(r#"<a b="c" d='e'>&"#), "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;");
    }

    #[test]
    fn numbers_are_for_people() {
        assert_eq!([999, 14_400].map(grouped), ["999", "14\u{202f}400"]);
        let times = [0.44, 47.6, 215.0, 7_261.0, f64::NAN].map(duration);
        assert_eq!(times, ["0.4 s", "48 s", "3 min 35 s", "2 h 1 min", "unknown"]);
        assert_eq!([5 << 20, 3 << 29].map(memory), ["5 MiB", "1.5 GiB"]);
        assert_eq!([0.0, -0.0312, 0.9].map(signed), ["±0.000", "\u{2212}0.031", "+0.900"]);
    }
}
