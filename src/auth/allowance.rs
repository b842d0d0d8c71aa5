//! Who may do what, for people who look at a configuration.

use std::collections::BTreeSet;

use super::Role;
use crate::jobs::{Principal, Timestamp};

/// What somebody may do.
#[derive(Debug, Clone, PartialEq)]
pub struct Allowance {
    /// To whom it applies.
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

/// Whom an allowance is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Whoever reaches the port; all are one principal, [`super::Caller::local`].
    Everybody,
    /// Whoever shows a certificate, each as the principal that its name says.
    EachCertificate,
    /// Who has the token.
    Token {
        /// Whose jobs these are.
        principal: Principal,
    },
    /// Who shows a certificate of this name.
    Certificate {
        /// The name.
        name: String,
        /// Whose jobs these are.
        principal: Principal,
    },
}
