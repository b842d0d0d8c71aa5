//! What can be wrong with a caller, and with the token file.

use std::{io, path::PathBuf, time::Duration};

use thiserror::Error;

use crate::jobs::Principal;

/// Why a call does not get through. Says nothing about which part of the credentials was wrong.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Refusal {
    /// No credentials, or none that are known and valid.
    #[error(
        "valid credentials are needed: a known bearer token in the authorization metadata, or a \
         known client certificate"
    )]
    Unauthenticated,
    /// The peer's address gave wrong credentials too often.
    #[error(
        "too many calls with wrong credentials from this address; try again in {} s",
        retry_after.as_secs_f64().ceil()
    )]
    TooManyFailures {
        /// When the next attempt is looked at.
        retry_after: Duration,
    },
    /// The caller calls more often than the token file lets it.
    #[error(
        "{} calls more than {per_second} times a second; slow down, or have the token file's \
         requests_per_second raised",
        principal.0
    )]
    TooManyRequests {
        /// Who.
        principal: Principal,
        /// What it may.
        per_second: f64,
        /// When the next call is let through.
        retry_after: Duration,
    },
}

/// Why a token file cannot be used.
#[derive(Debug, Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("cannot read the token file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It does not say what a token file must.
    #[error("the token file {} cannot be used: {source}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: TokenTableError,
    },
}

/// What is wrong in a token file. Never quotes a value that could be a token.
#[derive(Debug, PartialEq, Error)]
pub enum TokenTableError {
    /// No TOML, or other keys than a token file has.
    #[error("line {line}: {message}")]
    Syntax {
        /// Where, from 1.
        line: usize,
        /// What the reader of TOML says.
        message: String,
    },
    /// The file is no text.
    #[error("it is not UTF-8 text")]
    NotText,
    /// A hash that is none.
    #[error(
        "sha256 of token {entry} is not 64 hexadecimal digits; write the SHA-256 of the token, \
         not the token"
    )]
    Hash {
        /// Which `[[token]]`, from 1.
        entry: usize,
    },
    /// Two tables for one token.
    #[error("tokens {first} and {entry} have the same sha256; remove one")]
    RepeatedToken {
        /// The earlier `[[token]]`, from 1.
        first: usize,
        /// The later.
        entry: usize,
    },
    /// Two tables for one name.
    #[error("certificate {name:?} stands there twice; remove one")]
    RepeatedCertificate {
        /// The name.
        name: String,
    },
    /// A name or principal that cannot be told from others.
    #[error("{key} {value:?} must have 1 to {most} characters and no control character")]
    Name {
        /// `principal` or `name`.
        key: &'static str,
        /// What stands there.
        value: String,
        /// The limit.
        most: usize,
    },
    /// A caller that may nothing.
    #[error("{principal:?} has no role; give it some of read, generate, submit and admin")]
    NoRole {
        /// Who.
        principal: String,
    },
    /// A rate that lets nothing through or cannot be counted.
    #[error("requests_per_second of {principal:?} is {value}; it must be above 0, up to {most}")]
    Rate {
        /// Who.
        principal: String,
        /// What stands there.
        value: f64,
        /// The limit.
        most: f64,
    },
    /// A burst that lets nothing through, or one without a rate.
    #[error("burst of {principal:?} must be at least 1 and stand beside requests_per_second")]
    Burst {
        /// Who.
        principal: String,
    },
    /// An end that is no moment.
    #[error("expires of token {entry} needs a date, a time and an offset: 2027-01-01T00:00:00Z")]
    Expires {
        /// Which `[[token]]`, from 1.
        entry: usize,
    },
}
