//! What ends a call before its service does.

use futures::{FutureExt, future::BoxFuture};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::status;
use crate::auth::CallerWatch;

/// Ends a call early, with this.
pub(super) type Ending = BoxFuture<'static, Status>;

/// What may end a call before its service does.
#[derive(Debug)]
pub(super) struct Endings {
    /// When the client stops waiting.
    pub(super) deadline: Option<Instant>,
    /// Ends the calls of services that do not look at it themselves.
    pub(super) draining: Option<CancellationToken>,
    /// Whether the caller may still go on.
    pub(super) watch: Option<CallerWatch>,
}

impl Endings {
    /// Whichever comes first; `None` where nothing can.
    pub(super) fn first(self) -> Option<Ending> {
        let Self { deadline, draining, watch } = self;
        if deadline.is_none() && draining.is_none() && watch.is_none() {
            return None;
        }
        let late = async move {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let drained = async move {
            match draining {
                Some(draining) => draining.cancelled_owned().await,
                None => std::future::pending().await,
            }
        };
        let revoked = async move {
            match watch {
                Some(mut watch) => watch.revoked().await,
                None => std::future::pending().await,
            }
        };
        let first = async move {
            tokio::select! {
                biased;
                () = late => status::late(),
                refusal = revoked => status::refused(&refusal),
                () = drained => status::draining(),
            }
        };
        Some(first.boxed())
    }
}
