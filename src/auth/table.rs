//! Reads and checks the contents of the token file.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};
use toml::value::Datetime;

use super::{
    Allowance, Caller, CertificateNames, Role, TokenTableError, Who,
    limits::Rate,
    names::{MOST_CHARACTERS, is_plain_name},
};
use crate::jobs::{PRIORITIES, Principal, Timestamp};

/// The highest rate that a token file may give.
const MOST_PER_SECOND: f64 = 1e6;

/// The callers of a token file.
pub(super) struct Table {
    tokens: Vec<Token>,
    certificates: BTreeMap<String, Grant>,
}

/// What an entry grants its caller.
pub(super) struct Grant {
    pub(super) caller: Caller,
    pub(super) rate: Option<Rate>,
}

impl Grant {
    fn allowance(&self) -> Allowance {
        Allowance {
            who: Who::Everybody,
            roles: self.caller.roles.clone(),
            queued_jobs: self.caller.queued_jobs,
            requests_per_second: self.rate.map(|rate| rate.per_second),
            expires: None,
        }
    }
}

/// A grant, and how long it lasts by itself.
pub(super) struct Known<'a> {
    pub(super) grant: &'a Grant,
    pub(super) expires: Option<Timestamp>,
}

/// The SHA-256 of a token, which is all that is kept of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenDigest([u8; 32]);

impl TokenDigest {
    pub(super) fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }
}

struct Token {
    sha256: [u8; 32],
    expires: Option<Timestamp>,
    grant: Grant,
}

impl Table {
    /// Reads and checks the file's text.
    pub(super) fn parse(text: &str) -> Result<Self, TokenTableError> {
        let file: File = toml::from_str(text).map_err(|error| {
            // Its Display quotes the line, where a token may stand by mistake.
            let start = error.span().map_or(0, |span| span.start);
            let before = text.get(..start).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            TokenTableError::Syntax { line, message: error.message().to_owned() }
        })?;
        Ok(Self { tokens: tokens(file.token)?, certificates: certificates(file.certificate)? })
    }

    /// The grant of a token; `None` where the token is unknown or has expired.
    pub(super) fn of_token(&self, token: TokenDigest, now: Timestamp) -> Option<Known<'_>> {
        const NONE: u64 = u64::MAX;
        let TokenDigest(presented) = token;
        let mut found = NONE;
        // All of them, so that the time taken tells neither whether nor where one matched.
        for (index, entry) in (0_u64..).zip(&self.tokens) {
            let same = entry.sha256.as_slice().ct_eq(presented.as_slice());
            found.conditional_assign(&index, same);
        }
        let entry = self.tokens.get(usize::try_from(found).ok()?)?;
        let known = Known { grant: &entry.grant, expires: entry.expires };
        (entry.expires.is_none_or(|end| now < end)).then_some(known)
    }

    /// The grant of a certificate: that of the first of its names that is known.
    pub(super) fn of_certificate(&self, names: &CertificateNames) -> Option<Known<'_>> {
        let grant = names.all().find_map(|name| self.certificates.get(name))?;
        Some(Known { grant, expires: None })
    }

    /// What every entry allows: tokens in the file's order, then certificates by name.
    pub(super) fn allowances(&self) -> Vec<Allowance> {
        let tokens = self.tokens.iter().map(|token| Allowance {
            who: Who::Token { principal: token.grant.caller.principal.clone() },
            expires: token.expires,
            ..token.grant.allowance()
        });
        let certificates = self.certificates.iter().map(|(name, grant)| Allowance {
            who: Who::Certificate { name: name.clone(), principal: grant.caller.principal.clone() },
            ..grant.allowance()
        });
        tokens.chain(certificates).collect()
    }

    /// Whether an entry names the principal.
    pub(super) fn names(&self, principal: &Principal) -> bool {
        let of_tokens = self.tokens.iter().map(|token| &token.grant);
        let mut grants = of_tokens.chain(self.certificates.values());
        grants.any(|grant| grant.caller.principal == *principal)
    }

    /// Tokens and certificates, for the log.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.tokens.len(), self.certificates.len())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<TokenEntry>,
    #[serde(default)]
    certificate: Vec<CertificateEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    sha256: String,
    principal: String,
    roles: BTreeSet<Role>,
    queued_jobs: Option<u64>,
    highest_priority: Option<i32>,
    requests_per_second: Option<f64>,
    burst: Option<u32>,
    expires: Option<Datetime>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateEntry {
    name: String,
    principal: String,
    roles: BTreeSet<Role>,
    queued_jobs: Option<u64>,
    highest_priority: Option<i32>,
    requests_per_second: Option<f64>,
    burst: Option<u32>,
}

/// What both kinds of entry say of a caller.
struct Granted {
    principal: String,
    roles: BTreeSet<Role>,
    queued_jobs: Option<u64>,
    highest_priority: Option<i32>,
    requests_per_second: Option<f64>,
    burst: Option<u32>,
}

impl Granted {
    fn check(self) -> Result<Grant, TokenTableError> {
        let principal = checked_name("principal", self.principal)?;
        if self.roles.is_empty() {
            return Err(TokenTableError::NoRole { principal });
        }
        if let Some(value) = self.highest_priority.filter(|value| !PRIORITIES.contains(value)) {
            return Err(TokenTableError::Priority { principal, value });
        }
        let rate = match (self.requests_per_second, self.burst) {
            (None, None) => None,
            (None, Some(_)) | (Some(_), Some(0)) => {
                return Err(TokenTableError::Burst { principal });
            }
            (Some(value), _) if !(value > 0.0 && value <= MOST_PER_SECOND) => {
                return Err(TokenTableError::Rate { principal, value, most: MOST_PER_SECOND });
            }
            (Some(per_second), burst) => {
                let burst = burst.map_or(per_second.ceil(), f64::from).max(1.0);
                Some(Rate { per_second, burst })
            }
        };
        let principal = Principal(principal);
        let caller = Caller {
            principal,
            roles: self.roles,
            queued_jobs: self.queued_jobs,
            highest_priority: self.highest_priority,
        };
        Ok(Grant { caller, rate })
    }
}

fn tokens(entries: Vec<TokenEntry>) -> Result<Vec<Token>, TokenTableError> {
    let mut seen = HashMap::new();
    let mut tokens = Vec::with_capacity(entries.len());
    for (index, entry) in entries.into_iter().enumerate() {
        let number = index + 1;
        let sha256 = digest(&entry.sha256).ok_or(TokenTableError::Hash { entry: number })?;
        if let Some(first) = seen.insert(sha256, number) {
            return Err(TokenTableError::RepeatedToken { first, entry: number });
        }
        let expires = match entry.expires {
            None => None,
            Some(end) => Some(moment(&end).ok_or(TokenTableError::Expires { entry: number })?),
        };
        let granted = Granted {
            principal: entry.principal,
            roles: entry.roles,
            queued_jobs: entry.queued_jobs,
            highest_priority: entry.highest_priority,
            requests_per_second: entry.requests_per_second,
            burst: entry.burst,
        };
        tokens.push(Token { sha256, expires, grant: granted.check()? });
    }
    Ok(tokens)
}

fn certificates(
    entries: Vec<CertificateEntry>,
) -> Result<BTreeMap<String, Grant>, TokenTableError> {
    let mut certificates = BTreeMap::new();
    for entry in entries {
        let name = checked_name("name", entry.name)?;
        let granted = Granted {
            principal: entry.principal,
            roles: entry.roles,
            queued_jobs: entry.queued_jobs,
            highest_priority: entry.highest_priority,
            requests_per_second: entry.requests_per_second,
            burst: entry.burst,
        };
        if certificates.insert(name.clone(), granted.check()?).is_some() {
            return Err(TokenTableError::RepeatedCertificate { name });
        }
    }
    Ok(certificates)
}

fn checked_name(key: &'static str, value: String) -> Result<String, TokenTableError> {
    if is_plain_name(&value) {
        return Ok(value);
    }
    Err(TokenTableError::Name { key, value, most: MOST_CHARACTERS })
}

fn digest(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest).ok()?;
    Some(digest)
}

/// Only what names one moment everywhere.
fn moment(time: &Datetime) -> Option<Timestamp> {
    if time.date.is_none() || time.time.is_none() || time.offset.is_none() {
        return None;
    }
    let time: prost_types::Timestamp = time.to_string().parse().ok()?;
    let micros = time.seconds.checked_mul(1_000_000)?.checked_add(i64::from(time.nanos) / 1000)?;
    Some(Timestamp(micros))
}
