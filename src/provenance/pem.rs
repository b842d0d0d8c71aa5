//! PEM (RFC 7468): keys between `-----BEGIN X-----` and `-----END X-----`, with anything around them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use p256::elliptic_curve::zeroize::Zeroizing;

/// One block of a PEM file.
pub(super) struct PemBlock<'a> {
    /// What it says it is, such as "PRIVATE KEY".
    pub(super) label: &'a str,
    /// What it holds; wiped from memory when it is dropped.
    pub(super) der: Zeroizing<Vec<u8>>,
    /// Whether its header says that it is encrypted (RFC 1421, as OpenSSL wrote keys before PKCS#8).
    pub(super) is_encrypted: bool,
}

/// The blocks of a file in their order; an error says what is wrong with one of them.
pub(super) fn blocks(text: &str) -> Result<Vec<PemBlock<'_>>, String> {
    const BEGIN: &str = "-----BEGIN ";
    const DASHES: &str = "-----";
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(BEGIN) {
        let (label, after) =
            after.split_once(DASHES).ok_or("a line with -----BEGIN has no dashes at its end")?;
        let end = format!("-----END {label}{DASHES}");
        let (body, after) =
            after.split_once(end.as_str()).ok_or_else(|| format!("{end} is missing"))?;
        let is_encrypted = body.contains("Proc-Type: 4,ENCRYPTED");
        let mut encoded = Zeroizing::new(String::with_capacity(body.len()));
        if !is_encrypted {
            encoded.extend(body.chars().filter(|c| !c.is_ascii_whitespace()));
        }
        let der = STANDARD
            .decode(encoded.as_bytes())
            .map_err(|_| format!("what stands below -----BEGIN {label}{DASHES} is no base64"))?;
        found.push(PemBlock { label, der: Zeroizing::new(der), is_encrypted });
        rest = after;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_found_whatever_stands_around_it() {
        let text = "Bag\r\n-----BEGIN A-----\r\nAQ\r\nI=\r\n-----END A-----\r\nx\n\
                    -----BEGIN B C-----\n-----END B C-----";
        let blocks = blocks(text).unwrap();
        let found: Vec<_> =
            blocks.iter().map(|block| (block.label, block.der.as_slice())).collect();
        assert_eq!(found, [("A", &[1, 2][..]), ("B C", &[])]);
    }

    #[test]
    fn half_a_block_is_an_error() {
        for (text, said) in [
            ("-----BEGIN A", "no dashes"),
            ("-----BEGIN A-----\nAQI=", "-----END A----- is missing"),
            ("-----BEGIN A-----\n?\n-----END A-----", "no base64"),
        ] {
            let error = blocks(text).err().unwrap();
            assert!(error.contains(said), "{error}");
        }
    }
}
