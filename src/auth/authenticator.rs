//! From credentials to a caller.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use super::{
    Caller, Refusal, TokenFileError, TokenTableError, failures::Failures, rates::Rates,
    table::Table,
};
use crate::jobs::Clock;

/// The longest token that is looked at, in bytes.
const LONGEST_TOKEN: usize = 1024;

/// What a peer shows of itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Presented<'a> {
    /// The `authorization` metadata.
    pub authorization: Option<&'a [u8]>,
    /// The names in its verified certificate, see [`super::certificate_names`].
    pub names: &'a [String],
    /// Where it calls from.
    pub address: Option<IpAddr>,
}

/// What a reload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloaded {
    /// The file is as it was.
    Unchanged,
    /// Its new contents count from now on.
    Changed,
}

/// Tells who calls, and whether it may call now.
pub struct Authenticator {
    file: Option<TokenFile>,
    clock: Clock,
    rates: Rates,
    failures: Failures,
}

struct TokenFile {
    path: PathBuf,
    table: ArcSwap<Table>,
    /// What was read last, good or bad, so that each version is read into a table, and complained
    /// about, once.
    seen: tokio::sync::Mutex<Vec<u8>>,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.file.as_ref().map(|file| &file.path);
        f.debug_struct("Authenticator").field("path", &path).finish_non_exhaustive()
    }
}

impl Authenticator {
    /// Everybody is [`Caller::local`].
    pub fn none() -> Self {
        Self {
            file: None,
            clock: Clock::default(),
            rates: Rates::default(),
            failures: Failures::default(),
        }
    }

    /// Only those in the token file are let in. `clock` says which tokens have expired.
    pub async fn from_file(path: &Path, clock: Clock) -> Result<Self, TokenFileError> {
        let bytes = read(path).await?;
        let table = parse(path, &bytes)?;
        let (tokens, certificates) = table.counts();
        tracing::info!(path = %path.display(), tokens, certificates, "read the token file");
        let file = TokenFile {
            path: path.to_owned(),
            table: ArcSwap::from_pointee(table),
            seen: tokio::sync::Mutex::new(bytes),
        };
        Ok(Self { file: Some(file), clock, rates: Rates::default(), failures: Failures::default() })
    }

    /// Whether callers must show who they are.
    pub fn is_required(&self) -> bool {
        self.file.is_some()
    }

    /// Who calls, and a call counted against its rate. A bearer token goes before a certificate.
    pub fn authenticate(&self, presented: &Presented<'_>) -> Result<Caller, Refusal> {
        let Some(file) = &self.file else { return Ok(Caller::local()) };
        if presented.authorization.is_none() && presented.names.is_empty() {
            // Nothing was guessed, so nothing is counted.
            return Err(Refusal::Unauthenticated);
        }
        let table = file.table.load();
        let grant = match presented.authorization {
            Some(value) => bearer(value).and_then(|token| table.of_token(token, self.clock.now())),
            None => table.of_certificate(presented.names),
        };
        let Some(grant) = grant else {
            let counted = presented.address.map_or(Ok(()), |from| self.failures.count(from));
            return Err(match counted {
                Ok(()) => Refusal::Unauthenticated,
                Err(retry_after) => Refusal::TooManyFailures { retry_after },
            });
        };
        let principal = &grant.caller.principal;
        if let Some(from) = presented.address {
            self.failures
                .let_in(from, principal)
                .map_err(|retry_after| Refusal::TooManyFailures { retry_after })?;
        }
        if let Some(rate) = grant.rate {
            self.rates.take(principal, rate).map_err(|retry_after| Refusal::TooManyRequests {
                principal: principal.clone(),
                per_second: rate.per_second,
                retry_after,
            })?;
        }
        Ok(grant.caller.clone())
    }

    /// Reads the token file again; what cannot be used changes nothing. For SIGHUP, too.
    pub async fn reload(&self) -> Result<Reloaded, TokenFileError> {
        let Some(file) = &self.file else { return Ok(Reloaded::Unchanged) };
        let mut seen = file.seen.lock().await;
        let bytes = read(&file.path).await?;
        if *seen == bytes {
            return Ok(Reloaded::Unchanged);
        }
        let parsed = parse(&file.path, &bytes);
        *seen = bytes;
        let table = parsed?;
        let (tokens, certificates) = table.counts();
        self.rates.keep(|principal| table.names(principal));
        file.table.store(table.into());
        tracing::info!(path = %file.path.display(), tokens, certificates, "read the token file");
        Ok(Reloaded::Changed)
    }

    /// Reloads whenever the file has changed, looking `every` so often, until told to stop.
    ///
    /// It compares the contents: a date can stay the same when a file is replaced.
    pub async fn follow(&self, every: Duration, stop: CancellationToken) {
        if self.file.is_none() {
            return;
        }
        let mut complaint = String::new();
        while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            match self.reload().await {
                // Once, not every few seconds until somebody puts the file back.
                Err(error) if error.to_string() != complaint => {
                    complaint = error.to_string();
                    tracing::error!(%error, "the tokens read before still count");
                }
                Err(_) => {}
                Ok(_) => complaint.clear(),
            }
        }
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, TokenFileError> {
    let unreadable = |source| TokenFileError::Unreadable { path: path.to_owned(), source };
    tokio::fs::read(path).await.map_err(unreadable)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Table, TokenFileError> {
    let text = std::str::from_utf8(bytes).map_err(|_| TokenTableError::NotText);
    let invalid = |source| TokenFileError::Invalid { path: path.to_owned(), source };
    text.and_then(Table::parse).map_err(invalid)
}

/// The token of `Bearer TOKEN`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    let token = token.trim_ascii();
    let fits = (1..=LONGEST_TOKEN).contains(&token.len());
    (fits && scheme.eq_ignore_ascii_case(b"Bearer ")).then_some(token)
}
