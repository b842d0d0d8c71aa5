//! Making a token.

use std::{collections::BTreeSet, fmt};

use serde::Serialize;
use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::Uuid;

use super::{Role, TokenTableError, table::Table};

/// What a new token is to grant.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenGrant {
    /// Whose token.
    pub principal: String,
    /// What it may.
    pub roles: BTreeSet<Role>,
    /// Jobs of it that may wait.
    pub queued_jobs: Option<u64>,
    /// The highest priority that its jobs may have.
    pub highest_priority: Option<i32>,
    /// Calls a second.
    pub requests_per_second: Option<f64>,
}

/// A new token, and what the server's token file must say of it.
#[derive(Clone, PartialEq, Eq)]
pub struct NewToken {
    /// The secret, for the client alone.
    pub token: String,
    /// The `[[token]]` table, for the server's token file.
    pub entry: String,
}

impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewToken").field("entry", &self.entry).finish_non_exhaustive()
    }
}

/// Why there is no new token.
#[derive(Debug, PartialEq, Error)]
pub enum NewTokenError {
    /// A server would refuse the entry.
    #[error(transparent)]
    Grant(#[from] TokenTableError),
    /// The entry cannot be written.
    #[error("cannot write the entry: {0}")]
    Write(#[from] toml::ser::Error),
}

impl NewToken {
    /// A token of 256 random bits.
    pub fn generate(grant: &TokenGrant) -> Result<Self, NewTokenError> {
        // A version 4 UUID holds 122 random bits; the hash makes 256 even ones of three of them.
        let mut random = Sha256::new();
        for _ in 0..3 {
            random.update(Uuid::new_v4().as_bytes());
        }
        let token = format!("keystep_{}", hex::encode(random.finalize()));
        let file = File {
            token: [Entry {
                sha256: hex::encode(Sha256::digest(token.as_bytes())),
                principal: &grant.principal,
                roles: &grant.roles,
                queued_jobs: grant.queued_jobs,
                highest_priority: grant.highest_priority,
                requests_per_second: grant.requests_per_second,
            }],
        };
        let entry = toml::to_string(&file)?;
        Table::parse(&entry)?;
        Ok(Self { token, entry })
    }
}

#[derive(Serialize)]
struct File<'a> {
    token: [Entry<'a>; 1],
}

#[derive(Serialize)]
struct Entry<'a> {
    sha256: String,
    principal: &'a str,
    roles: &'a BTreeSet<Role>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queued_jobs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    highest_priority: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_per_second: Option<f64>,
}
