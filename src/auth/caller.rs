//! The caller that a service sees.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::jobs::Principal;

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
}

impl Caller {
    /// The one caller of a server without authentication: "local", with every role.
    pub fn local() -> Self {
        let roles = BTreeSet::from([Role::Read, Role::Generate, Role::Submit, Role::Admin]);
        Self { principal: Principal("local".to_owned()), roles, queued_jobs: None }
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
