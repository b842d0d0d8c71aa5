//! What can be wrong with a caller, and with the token file.

use std::{io, path::PathBuf, time::Duration};

use thiserror::Error;

use super::Role;
use crate::jobs::{PRIORITIES, Principal};

/// Why a call does not get through. Says nothing about which part of the credentials was wrong.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Refusal {
    /// No credentials, or none that are known and valid.
    #[error(
        "valid credentials are needed: a known bearer token in the authorization metadata, or a \
         known client certificate"
    )]
    Unauthenticated,
    /// The credentials that a call began with are no longer valid.
    #[error(
        "the credentials that this call began with are valid no longer; call again with others"
    )]
    Revoked,
    /// The caller lost a role during the call.
    #[error("the role {} was taken from the caller during this call", role.name())]
    RoleLost {
        /// The role.
        role: Role,
    },
    /// Too many calls from the peer's address failed without a known caller.
    #[error(
        "too many calls from this address with wrong credentials, with none, or with bytes that \
         are no message; try again in {} s",
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
        /// The principal.
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
        /// Path of the file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It does not say what a token file must.
    #[error("the token file {} cannot be used: {source}", path.display())]
    Invalid {
        /// Path of the file.
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
    /// A hash that is not a SHA-256.
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
    /// A name or principal that is empty, too long or has a control character.
    #[error("{key} {value:?} must have 1 to {most} characters and no control character")]
    Name {
        /// `principal` or `name`.
        key: &'static str,
        /// The value in the file.
        value: String,
        /// The largest that is allowed.
        most: usize,
    },
    /// A caller that may nothing.
    #[error("{principal:?} has no role; give it some of read, generate, submit and admin")]
    NoRole {
        /// The principal.
        principal: String,
    },
    /// A priority that no job may have.
    #[error(
        "highest_priority of {principal:?} is {value}; it must be {} to {}",
        PRIORITIES.start(), PRIORITIES.end()
    )]
    Priority {
        /// The principal.
        principal: String,
        /// The value in the file.
        value: i32,
    },
    /// A rate that lets nothing through or cannot be counted.
    #[error("requests_per_second of {principal:?} is {value}; it must be above 0, up to {most}")]
    Rate {
        /// The principal.
        principal: String,
        /// The value in the file.
        value: f64,
        /// The largest that is allowed.
        most: f64,
    },
    /// A burst that lets nothing through, or one without a rate.
    #[error("burst of {principal:?} must be at least 1 and stand beside requests_per_second")]
    Burst {
        /// The principal.
        principal: String,
    },
    /// An end that is no moment.
    #[error("expires of token {entry} needs a date, a time and an offset: 2027-01-01T00:00:00Z")]
    Expires {
        /// Which `[[token]]`, from 1.
        entry: usize,
    },
}
