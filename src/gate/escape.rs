//! Text from outside (concepts, judges, suites, file names) as each output may hold it.

use std::fmt::Write;

/// Characters that turn the reading direction, so that text shows otherwise than it reads.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One line without anything that moves a cursor, ends a line or turns the reading direction.
pub(super) fn plain(text: &str) -> String {
    let shown = |c: char| match c {
        '\u{2028}' | '\u{2029}' => ' ',
        c if c.is_whitespace() => ' ',
        c if c.is_control() || is_bidi(c) => '\u{fffd}',
        c => c,
    };
    text.chars().map(shown).collect()
}

/// Text or an attribute's value of XML 1.0. What the format has no way to hold becomes U+FFFD.
pub(super) fn xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            // An attribute's value would lose the first three, and some readers refuse the others.
            '\t' | '\n' | '\r' | '\u{7f}'..='\u{9f}' => push_reference(&mut escaped, c),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A part of a line of `GitHub`'s Markdown, which shows as it is written.
pub(super) fn markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in plain(text).chars() {
        // Every mark that could begin something: a link, a mention, a formula, a cell, a tag.
        let is_harmless =
            !c.is_ascii_punctuation() || matches!(c, ',' | '.' | ';' | '(' | ')' | '%' | '?');
        if is_harmless {
            escaped.push(c);
        } else {
            push_reference(&mut escaped, c);
        }
    }
    escaped
}

fn push_reference(escaped: &mut String, c: char) {
    // Writing to a string cannot fail.
    let _ = write!(escaped, "&#{};", u32::from(c));
}

/// The message of a workflow command of `GitHub` Actions.
pub(super) fn command_message(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A property's value of a workflow command.
pub(super) fn command_property(text: &str) -> String {
    command_message(text).replace(':', "%3A").replace(',', "%2C")
}

/// A path with `/` between its parts as a relative URI reference.
pub(super) fn uri(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}
