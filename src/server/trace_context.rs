//! The caller's trace, as W3C Trace Context has it.

use http::HeaderMap;

/// Which trace a call belongs to; stands in the extensions of requests that name one.
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
    /// Reads `traceparent`. A malformed one counts as none, as the standard demands.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get("traceparent")?.to_str().ok()?;
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

fn hexadecimal(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != digits || !text.bytes().all(is_digit) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}
