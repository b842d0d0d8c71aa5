//! Who calls and what they may: tokens, roles, limits.
//!
//! The token file is TOML: one `[[token]]` table a token, one `[[certificate]]` table a name in a
//! client's certificate.
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
//! Without a token file a client's certificate is enough, where certificates are asked for: its name
//! is the principal. Without either everybody is [`Caller::local`].

mod allowance;
mod authenticator;
mod bucket;
mod caller;
mod certificate;
mod error;
mod failures;
mod network;
mod new_token;
mod plain_name;
mod rates;
mod standing;
mod table;
mod token_file;

pub use allowance::{Allowance, Who};
pub use authenticator::{Authenticator, Presented, Reloaded};
pub use caller::{Caller, Role};
pub use certificate::CertificateNames;
pub use error::{Refusal, TokenFileError, TokenTableError};
pub use network::network;
pub use new_token::{NewToken, NewTokenError, TokenGrant};
pub use standing::Standing;

#[cfg(test)]
mod tests;
