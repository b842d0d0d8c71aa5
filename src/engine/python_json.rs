//! JSON as Python's `json` module reads and writes it: perhaps with a byte order mark, and with
//! `NaN`, `Infinity` and `-Infinity` as bare words, which JSON does not have.

use serde::de::DeserializeOwned;

const BARE: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Reads such a text. A bare word comes as a string of the same letters, so that a caller that needs a
/// number there can name the field and what it holds.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_str(&strict(text))
}

/// The text with its bare words quoted; strings stay as they are.
fn strict(text: &str) -> String {
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut strict = String::with_capacity(rest.len());
    let (mut quoted, mut escaped) = (false, false);
    while let Some(next) = rest.chars().next() {
        let bare = BARE.iter().find(|word| !quoted && rest.starts_with(**word));
        if let Some(word) = bare {
            strict.push('"');
            strict.push_str(word);
            strict.push('"');
            rest = &rest[word.len()..];
            continue;
        }
        if next == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = quoted && next == '\\' && !escaped;
        strict.push(next);
        rest = &rest[next.len_utf8()..];
    }
    strict
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn bare_words_are_read_and_strings_are_left() {
        let text =
            "\u{feff}{\"a\": NaN, \"b\": [[-Infinity, Infinity], 1], \"NaN\": \"x \\\" NaN \\\\\"}";
        let read: Value = read(text).unwrap();
        let b = json!([["-Infinity", "Infinity"], 1]);
        assert_eq!(read, json!({"a": "NaN", "b": b, "NaN": "x \" NaN \\"}));
    }

    #[test]
    fn other_words_are_refused() {
        for text in ["{\"a\": nan}", "{\"a\": NaNa}", "{\"a\": -NaN}", "{\"a\": 1Infinity}", ""] {
            assert!(read::<Value>(text).is_err(), "{text}");
        }
    }
}
