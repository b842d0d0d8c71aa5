//! Escapes free text for YAML, Markdown and Python.

use std::fmt::Write as _;

/// A text as a scalar of YAML on one line, whatever it holds; as a string of JSON and Python too.
pub(super) fn quoted(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + 2);
    safe.push('"');
    for letter in text.chars() {
        match letter {
            '"' => safe.push_str("\\\""),
            '\\' => safe.push_str("\\\\"),
            // YAML breaks lines at more letters than one sees, and knows letters that it refuses.
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                escape(&mut safe, letter);
            }
            _ if letter.is_control() => escape(&mut safe, letter),
            _ => safe.push(letter),
        }
    }
    safe.push('"');
    safe
}

fn escape(safe: &mut String, letter: char) {
    // Writing to a string cannot fail.
    let _ = write!(safe, "\\u{:04x}", letter as u32);
}

/// A text as a text of Markdown: no markup, no HTML, no new line, no cell of a table.
pub(super) fn plain(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            _ if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}') => {
                safe.push(' ');
            }
            // These begin something at the start of a line only, where no free text stands.
            ',' | '/' | '\'' | '-' | '.' | ';' | '?' => safe.push(letter),
            _ if letter.is_ascii_punctuation() => {
                safe.push('\\');
                safe.push(letter);
            }
            _ => safe.push(letter),
        }
    }
    safe
}

/// A path as the address of a link.
pub(super) fn address(path: &str) -> String {
    let mut safe = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            safe.push(char::from(byte));
        } else {
            let _ = write!(safe, "%{byte:02X}");
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_text_stays_one_line_and_one_string() {
        let text = "cat\"\nlicense: mit\\\u{85}\u{2028}\u{7f}é🐈";
        let safe = quoted(text);
        assert!(!safe.contains('\n') && !safe.contains('\u{2028}') && !safe.contains('\u{85}'));
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), text);
    }

    #[test]
    fn a_plain_text_has_no_markup() {
        assert_eq!(plain("a|b\n# [x](y) <i>&"), r"a\|b \# \[x\]\(y\) &lt;i&gt;&amp;");
        assert_eq!(plain("Van Gogh's, 1/2-3."), "Van Gogh's, 1/2-3.");
        assert_eq!(address("a b/ü(1).png"), "a%20b/%C3%BC%281%29.png");
    }
}
