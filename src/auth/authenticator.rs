//! Finds out who calls, from a bearer token or a client certificate.

use std::{collections::BTreeSet, fmt, net::IpAddr, path::Path, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    Allowance, Caller, CallerWatch, CertificateNames, Refusal, Role, TokenFileError, Who,
    caller_watch::Credential,
    limits::{CallRates, Failures},
    table::TokenDigest,
    token_file::TokenFile,
};
use crate::jobs::Clock;

/// The longest token that is looked at, in bytes.
const LONGEST_TOKEN: usize = 1024;

/// What a peer shows of itself.
#[derive(Debug, Clone, Default)]
pub struct Presented<'a> {
    /// The `authorization` metadata.
    pub authorization: Option<&'a [u8]>,
    /// The names in its verified certificate.
    pub names: Arc<CertificateNames>,
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

/// Identifies the caller of each call, and refuses those who may not call now.
pub struct Authenticator {
    callers: Callers,
    clock: Clock,
    rates: CallRates,
    /// Wrong credentials.
    guesses: Failures,
    /// Calls that failed and carried none. Apart from guesses, so that nobody who has credentials
    /// is kept out by those who have none.
    strangers: Failures,
}

/// The callers that are let in.
enum Callers {
    /// Every client, without credentials.
    Everybody,
    /// Every client with a certificate, with these roles.
    Certificates(BTreeSet<Role>),
    /// Those in the file.
    File(Arc<TokenFile>),
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.file().map(|file| file.path());
        f.debug_struct("Authenticator").field("path", &path).finish_non_exhaustive()
    }
}

impl Authenticator {
    /// Lets every client in, as [`Caller::local`].
    pub fn none() -> Self {
        Self::of(Callers::Everybody, Clock::default())
    }

    /// Lets every client with a certificate in, with these roles, as the principal of
    /// [`CertificateNames::principal`].
    pub fn from_certificates(roles: BTreeSet<Role>) -> Self {
        Self::of(Callers::Certificates(roles), Clock::default())
    }

    /// Lets in only the callers in the token file. `clock` decides which tokens have expired.
    pub async fn from_file(path: &Path, clock: Clock) -> Result<Self, TokenFileError> {
        let file = TokenFile::open(path).await?;
        Ok(Self::of(Callers::File(Arc::new(file)), clock))
    }

    fn of(callers: Callers, clock: Clock) -> Self {
        Self {
            callers,
            clock,
            rates: CallRates::default(),
            guesses: Failures::default(),
            strangers: Failures::default(),
        }
    }

    fn file(&self) -> Option<&Arc<TokenFile>> {
        match &self.callers {
            Callers::File(file) => Some(file),
            Callers::Everybody | Callers::Certificates(_) => None,
        }
    }

    /// What each kind of caller may do.
    pub fn allowances(&self) -> Vec<Allowance> {
        let unlimited = |who, roles| Allowance {
            who,
            roles,
            queued_jobs: None,
            requests_per_second: None,
            expires: None,
        };
        match &self.callers {
            Callers::Everybody => vec![unlimited(Who::Everybody, Caller::local().roles)],
            Callers::Certificates(roles) => vec![unlimited(Who::EachCertificate, roles.clone())],
            Callers::File(file) => file.table.load().allowances(),
        }
    }

    /// Identifies the caller and counts the call against its rate. Where a bearer token and a
    /// certificate are presented, the token decides.
    pub fn authenticate(&self, presented: &Presented<'_>) -> Result<Caller, Refusal> {
        if let Callers::Everybody = self.callers {
            return Ok(Caller::local());
        }
        if presented.authorization.is_none() && presented.names.is_empty() {
            self.count_stranger(presented.address)?;
            return Err(Refusal::Unauthenticated);
        }
        let file = match &self.callers {
            Callers::File(file) => file,
            // No token is known, so whatever stands there was guessed.
            Callers::Certificates(roles) if presented.authorization.is_none() => {
                let principal = presented.names.principal().ok_or(Refusal::Unauthenticated)?;
                return Ok(Caller {
                    principal,
                    roles: roles.clone(),
                    queued_jobs: None,
                    highest_priority: None,
                });
            }
            Callers::Everybody | Callers::Certificates(_) => {
                return Err(self.wrong(presented.address));
            }
        };
        let table = file.table.load();
        let known = match presented.authorization {
            Some(value) => bearer(value)
                .and_then(|token| table.of_token(TokenDigest::of(token), self.clock.now())),
            None => table.of_certificate(&presented.names),
        };
        let Some(known) = known else { return Err(self.wrong(presented.address)) };
        let grant = known.grant;
        let principal = &grant.caller.principal;
        if let Some(from) = presented.address {
            self.guesses
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

    /// Counts wrong credentials.
    fn wrong(&self, from: Option<IpAddr>) -> Refusal {
        match from.map_or(Ok(()), |from| self.guesses.count(from)) {
            Ok(()) => Refusal::Unauthenticated,
            Err(retry_after) => Refusal::TooManyFailures { retry_after },
        }
    }

    /// Counts a failed call without a known caller against its address, and refuses it where there
    /// were too many. Calls without credentials that succeed, such as probes, are not counted.
    pub fn count_stranger(&self, from: Option<IpAddr>) -> Result<(), Refusal> {
        let counted = from.map_or(Ok(()), |from| self.strangers.count(from));
        counted.map_err(|retry_after| Refusal::TooManyFailures { retry_after })
    }

    /// Watches whether the caller of a call may go on with it; `None` where no change can end it.
    /// `presented` is what the caller was let in with.
    pub fn watch(&self, presented: &Presented<'_>, caller: &Caller) -> Option<CallerWatch> {
        let file = self.file()?;
        let credential = match presented.authorization {
            Some(value) => Credential::Token(TokenDigest::of(bearer(value)?)),
            None => Credential::Certificate(Arc::clone(&presented.names)),
        };
        Some(CallerWatch {
            file: Arc::clone(file),
            clock: self.clock.clone(),
            changes: file.changes.subscribe(),
            credential,
            caller: caller.clone(),
        })
    }

    /// Reads the token file again, as SIGHUP asks for; a file that cannot be used changes nothing.
    pub async fn reload(&self) -> Result<Reloaded, TokenFileError> {
        let Some(file) = self.file() else { return Ok(Reloaded::Unchanged) };
        let is_changed = file.reload(|table| self.rates.keep(|name| table.names(name))).await?;
        Ok(if is_changed { Reloaded::Changed } else { Reloaded::Unchanged })
    }

    /// Reloads the file once in each period `every` where its contents have changed, until `stop`.
    ///
    /// Compares contents, because a replaced file can have the same date.
    pub async fn follow(&self, every: Duration, stop: CancellationToken) {
        if self.file().is_none() {
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

/// The token of `Bearer TOKEN`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    let token = token.trim_ascii();
    let fits = (1..=LONGEST_TOKEN).contains(&token.len());
    (fits && scheme.eq_ignore_ascii_case(b"Bearer ")).then_some(token)
}
