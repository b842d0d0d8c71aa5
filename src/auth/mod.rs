//! Who calls and what they may: tokens, roles, limits.
//!
//! The token file is TOML: a table `[[token]]` for each token, and a table `[[certificate]]` for each
//! name in a client's certificate.
//!
//! ```toml
//! [[token]]
//! sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
//! principal = "ci"
//! roles = ["read", "generate", "submit"]
//! queued_jobs = 50
//! highest_priority = 0
//! requests_per_second = 20.0
//! burst = 40
//! expires = 2027-01-01T00:00:00Z
//!
//! [[certificate]]
//! name = "spiffe://example.org/painter"
//! principal = "painter"
//! roles = ["read", "generate"]
//! ```
//!
//! It holds no secret: a token of 256 random bits cannot be found from its hash.
//!
//! Without a token file a verified client certificate is enough: its name is the principal. Without
//! either, every client is [`Caller::local`].

mod authenticator;
mod caller;
mod caller_watch;
mod error;
mod limits;
mod names;
mod new_token;
mod table;
mod token_file;

pub use authenticator::{Authenticator, Presented, Reloaded};
pub use caller::{Allowance, Caller, Role, Who};
pub use caller_watch::CallerWatch;
pub use error::{Refusal, TokenFileError, TokenTableError};
pub use limits::network;
pub use names::CertificateNames;
pub use new_token::{NewToken, NewTokenError, TokenGrant};

#[cfg(test)]
mod tests;
