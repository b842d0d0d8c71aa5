//! Callers: what a service sees of one, and what a configuration lets each do.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use strum::VariantArray;

use crate::jobs::{Principal, Timestamp};

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[derive(strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "lowercase")]
pub enum Role {
    /// Look at models and at one's own operations.
    Read,
    /// `Generate` and `ScoreTimesteps`.
    Generate,
    /// `UnlearnConcept` and `EvaluateErasure`, and cancelling and deleting one's own operations.
    Submit,
    /// Everything, on everybody's operations.
    Admin,
}

/// Who calls: stands in the extensions of every request that reaches a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Caller {
    /// Whose jobs these are.
    pub principal: Principal,
    /// What it may do.
    pub roles: BTreeSet<Role>,
    /// Jobs of it that may wait; `None` leaves it to the server's limit.
    pub queued_jobs: Option<u64>,
    /// The highest priority that its jobs may have; `None` allows every one.
    pub highest_priority: Option<i32>,
}

impl Role {
    /// Every role.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// As it stands in the token file.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl Caller {
    /// The one caller of a server without authentication: "local", with every role.
    pub fn local() -> Self {
        let principal = Principal("local".to_owned());
        let roles = Role::ALL.iter().copied().collect();
        Self { principal, roles, queued_jobs: None, highest_priority: None }
    }

    /// Whether it has the role; an admin has every one.
    pub fn may(&self, role: Role) -> bool {
        self.roles.contains(&role) || self.roles.contains(&Role::Admin)
    }

    /// Whose jobs it sees; `None` means everybody's.
    pub fn sees(&self) -> Option<&Principal> {
        (!self.roles.contains(&Role::Admin)).then_some(&self.principal)
    }
}

/// What a configuration lets callers do, for people who read it.
#[derive(Debug, Clone, PartialEq)]
pub struct Allowance {
    /// The callers it applies to.
    pub who: Who,
    /// The roles.
    pub roles: BTreeSet<Role>,
    /// Jobs that may wait; `None` leaves it to the server's limit.
    pub queued_jobs: Option<u64>,
    /// Calls a second; `None` means no limit.
    pub requests_per_second: Option<f64>,
    /// When it ends by itself.
    pub expires: Option<Timestamp>,
}

/// The callers that an allowance is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Every client that reaches the port; all are one principal, [`Caller::local`].
    Everybody,
    /// Every client with a certificate, each as the principal that its name says.
    EachCertificate,
    /// The holder of a token.
    Token {
        /// Whose jobs these are.
        principal: Principal,
    },
    /// Clients with a certificate of this name.
    Certificate {
        /// The name.
        name: String,
        /// Whose jobs these are.
        principal: Principal,
    },
}
