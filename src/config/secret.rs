//! Secrets, and texts that may hold one.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// The text in the place of a secret wherever it would be written.
const MASK: &str = "***";

/// A secret that no log, no error and no printed configuration shows.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// A secret without the white space around it, such as the line end of a file.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// A text that may be shown: within its URLs, what stands before an @ and behind a ? or #, which may be
/// a key, is masked.
pub(super) fn masked(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, url)) = rest.split_once("://") {
        shown.push_str(before);
        shown.push_str("://");
        // Within quotes a URL ends with them; alone it is all that follows.
        let quote = shown.chars().rev().find(|c| ['"', '\''].contains(c));
        let end = quote.and_then(|quote| url.find(quote)).unwrap_or(url.len());
        let (url, after) = url.split_at(end);
        let (place, has_more) = match url.split_once(['?', '#']) {
            Some((place, _)) => (place, true),
            None => (url, false),
        };
        match place.rsplit_once('@') {
            Some((_, host)) => shown.extend([MASK, "@", host]),
            None => shown.push_str(place),
        }
        if has_more {
            shown.extend(["?", MASK]);
        }
        rest = after;
    }
    shown.push_str(rest);
    shown
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_within_urls_are_masked_and_the_rest_stays() {
        for (text, wanted) in [
            ("https://h:9000/a", "https://h:9000/a"),
            ("https://h/?sig=hunter2", "https://h/?***"),
            ("https://h/a#hunter2", "https://h/a?***"),
            ("https://me:hunter2@h/a?x=hunter2", "https://***@h/a?***"),
            ("https://me:hunt/er2@h/a", "https://***@h/a"),
            ("https://h/?a=hunter2 hunter2\"hunter2", "https://h/?***"),
            (
                r#"[{ url = "s3://me:hunter2@b/c", x = 1 }, "s3://b/d?k=hunter2"]"#,
                r#"[{ url = "s3://***@b/c", x = 1 }, "s3://b/d?***"]"#,
            ),
            (r#""s3://b/d?k=hun,t]er2 hunter2""#, r#""s3://b/d?***""#),
            ("no URL", "no URL"),
        ] {
            assert_eq!(masked(text), wanted);
        }
    }
}
