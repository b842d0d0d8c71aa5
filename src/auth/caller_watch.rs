//! Ends calls under way whose caller has since lost its credentials or its role.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{Caller, CertificateNames, Refusal, Role, table::TokenDigest, token_file::TokenFile};
use crate::jobs::{Clock, Timestamp};

/// The longest wait before the wall clock is read again: somebody may have set it.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// Compares what a call began with with the token file, whenever that is read again.
pub struct CallerWatch {
    pub(super) file: Arc<TokenFile>,
    pub(super) clock: Clock,
    pub(super) changes: watch::Receiver<()>,
    pub(super) credential: Credential,
    pub(super) caller: Caller,
}

/// What was presented.
pub(super) enum Credential {
    Token(TokenDigest),
    Certificate(Arc<CertificateNames>),
}

impl std::fmt::Debug for CallerWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallerWatch").field("caller", &self.caller).finish_non_exhaustive()
    }
}

impl CallerWatch {
    /// Waits until the caller may no longer do what it could when the call began: its token was
    /// taken out of the file, has expired or is another principal's, or a role of it is gone.
    pub async fn revoked(&mut self) -> Refusal {
        loop {
            self.changes.borrow_and_update();
            let expires = match self.check() {
                Ok(expires) => expires,
                Err(refusal) => return refusal,
            };
            let passes = async {
                match expires {
                    Some(end) => {
                        let left = end.since(self.clock.now());
                        tokio::time::sleep(left.min(LOOK_AGAIN)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.changes.changed() => if changed.is_err() {
                    // Nobody reads the file any more.
                    std::future::pending::<()>().await;
                },
                () = passes => {}
            }
        }
    }

    fn check(&self) -> Result<Option<Timestamp>, Refusal> {
        let table = self.file.table.load();
        let known = match &self.credential {
            Credential::Token(digest) => table.of_token(*digest, self.clock.now()),
            Credential::Certificate(names) => table.of_certificate(names),
        };
        let same = known.filter(|known| known.grant.caller.principal == self.caller.principal);
        let known = same.ok_or(Refusal::Revoked)?;
        let now = &known.grant.caller;
        match Role::ALL.iter().copied().find(|role| self.caller.may(*role) && !now.may(*role)) {
            Some(role) => Err(Refusal::RoleLost { role }),
            None => Ok(known.expires),
        }
    }
}
