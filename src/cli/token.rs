//! `keystep token`: makes a bearer token, for the client, and its entry, for the server's token file.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};

use super::{CliError, session::print_result};
use crate::auth::{NewToken, Role, TokenGrant};

/// Makes a bearer token for a server.
///
/// The token goes to stdout, once: it is kept nowhere. Its entry for the server's token file holds
/// a hash of it, which is no secret.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keystep token --principal ci --role read --role generate --role submit \
--append /etc/keystep/tokens.toml > ci.token
  keystep models list --server https://keystep.example --token-file ci.token

A server reads its token file again when it changes. To take a token back, remove its entry.")]
pub(super) struct TokenArguments {
    /// Whose token: jobs and models are the principal's, and other principals do not see them.
    #[arg(long, value_name = "NAME")]
    principal: String,
    /// What it may; may be given again.
    #[arg(long, required = true, value_name = "ROLE")]
    role: Vec<RoleName>,
    /// Jobs of the principal that may wait [default: what the server allows].
    #[arg(long, value_name = "N")]
    queued_jobs: Option<u64>,
    /// The highest priority that its jobs may have, -100 to 100 [default: 100].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    highest_priority: Option<i32>,
    /// Calls a second [default: no limit].
    #[arg(long, value_name = "N")]
    requests_per_second: Option<f64>,
    /// Append the entry to this token file, which is made where it is missing [default: stderr].
    #[arg(long, value_name = "FILE")]
    append: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoleName {
    /// Look at models and at one's own operations.
    Read,
    /// Draw pictures and score concepts.
    Generate,
    /// Erase and judge, cancel and delete one's own operations.
    Submit,
    /// Everything, on everybody's operations.
    Admin,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Read => Self::Read,
            RoleName::Generate => Self::Generate,
            RoleName::Submit => Self::Submit,
            RoleName::Admin => Self::Admin,
        }
    }
}

pub(super) fn run(arguments: &TokenArguments) -> Result<(), CliError> {
    let new = NewToken::generate(&TokenGrant {
        principal: arguments.principal.clone(),
        roles: arguments.role.iter().map(|role| Role::from(*role)).collect(),
        queued_jobs: arguments.queued_jobs,
        highest_priority: arguments.highest_priority,
        requests_per_second: arguments.requests_per_second,
    });
    let new = new.map_err(|error| CliError::Usage(error.to_string()))?;
    match &arguments.append {
        Some(path) => append(path, &new.entry)
            .map_err(|source| CliError::Write { path: path.clone(), source })?,
        None => {
            // A token without its entry is of no use, and nothing depends on it yet.
            let _ = io::stderr().lock().write_all(new.entry.as_bytes());
        }
    }
    // Last, so that no token is out whose entry was not written.
    print_result(&format!("{}\n", new.token));
    Ok(())
}

/// One write, so that a server that looks at that moment reads the entry whole or not at all.
fn append(path: &Path, entry: &str) -> io::Result<()> {
    let mut options = File::options();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(format!("\n{entry}").as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_has_its_name() {
        for name in RoleName::value_variants() {
            let value = name.to_possible_value().unwrap();
            let role = toml::Value::try_from(Role::from(*name)).unwrap();
            assert_eq!(role.as_str(), Some(value.get_name()));
        }
    }
}
