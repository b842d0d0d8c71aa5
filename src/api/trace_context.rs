//! The caller's trace, as W3C Trace Context has it.

use std::fmt;

/// Which trace a call belongs to; the server puts it into the extensions of requests that name one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: u128,
    /// The caller's span.
    pub parent: u64,
    /// Whether the caller keeps the trace.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent`. A malformed one counts as none, as the standard demands.
    pub fn of(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let version = hexadecimal(fields.next()?, 2)?;
        let trace = hexadecimal(fields.next()?, 32)?;
        let parent = u64::try_from(hexadecimal(fields.next()?, 16)?).ok()?;
        let flags = hexadecimal(fields.next()?, 2)?;
        // Later versions may say more behind; version 0 may not, and 255 is forbidden.
        let ends_well = version != 0 || fields.next().is_none();
        let is_valid = version != 255 && trace != 0 && parent != 0 && ends_well;
        is_valid.then_some(Self { trace, parent, sampled: flags & 1 == 1 })
    }
}

/// As a `traceparent` of version 0.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace, parent, sampled } = self;
        write!(f, "00-{trace:032x}-{parent:016x}-{:02x}", u8::from(*sampled))
    }
}

fn hexadecimal(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != digits || !text.bytes().all(is_digit) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_trace_is_none() {
        let of = TraceContext::of;
        let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let context = of(&format!("00-{trace}-{parent}-00")).unwrap();
        assert_eq!(context.to_string(), format!("00-{trace}-{parent}-00"));
        assert!(!context.sampled && context.parent == 0xb7ad_6b71_6920_3331);
        assert!(of(&format!("01-{trace}-{parent}-01-more")).unwrap().sampled);
        for text in [
            String::new(),
            format!("00-{trace}-{parent}"),
            format!("00-{trace}-{parent}-01-more"),
            format!("ff-{trace}-{parent}-01"),
            format!("00-{}-{parent}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-{parent}-01", trace.to_uppercase()),
            format!("00-+{}-{parent}-01", &trace[1..]),
        ] {
            assert_eq!(of(&text), None, "{text}");
        }
    }
}
