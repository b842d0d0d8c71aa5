//! Who gets through to the services.

use std::sync::Arc;

use http::{header::AUTHORIZATION, request::Parts};
use tonic::Status;

use super::{connection::Peer, status};
use crate::{
    auth::{Authenticator, CallerWatch, Presented, Refusal},
    jobs::Principal,
};

/// What anybody may ask: probes have no token.
const OPEN: &str = "/grpc.health.v1.Health/";

/// Puts the caller into the request.
#[derive(Debug, Clone)]
pub(super) struct Admission(Arc<Authenticator>);

/// Who was let in.
pub(super) enum Admitted {
    /// The call is open to anybody.
    Anybody,
    /// The caller stands in the request's extensions.
    Known {
        /// The principal.
        principal: Principal,
        /// What may end the call early.
        watch: Option<CallerWatch>,
    },
}

/// Who was not.
#[derive(Debug)]
pub(super) struct Refused {
    /// What the client is told.
    pub(super) status: Status,
    /// Whether the address has been refused often of late.
    pub(super) is_repeated: bool,
}

impl Admission {
    pub(super) fn new(authenticator: Arc<Authenticator>) -> Self {
        Self(authenticator)
    }

    /// Who calls.
    pub(super) fn admit(&self, peer: &Peer, request: &mut Parts) -> Result<Admitted, Refused> {
        if !needs_caller(request) {
            return Ok(Admitted::Anybody);
        }
        if peer.place.is_for_health {
            // The next connection may find a place.
            peer.place.leave.cancel();
            return Err(Refused { status: status::connections_full(), is_repeated: true });
        }
        // The services have no use for the secret, and cannot leak what they do not see.
        let values: Vec<_> = match request.headers.entry(AUTHORIZATION) {
            http::header::Entry::Occupied(entry) => entry.remove_entry_mult().1.collect(),
            http::header::Entry::Vacant(_) => Vec::new(),
        };
        let authorization = match values.as_slice() {
            [] => None,
            [value] => Some(value.as_bytes()),
            // Two could be read differently by two readers.
            _ => Some(&[][..]),
        };
        let presented =
            Presented { authorization, names: Arc::clone(&peer.names), address: peer.ip() };
        let caller = self.0.authenticate(&presented).map_err(|refusal| Refused {
            status: status::refused(&refusal),
            is_repeated: matches!(refusal, Refusal::TooManyFailures { .. }),
        })?;
        let watch = self.0.watch(&presented, &caller);
        let principal = caller.principal.clone();
        request.extensions.insert(caller);
        Ok(Admitted::Known { principal, watch })
    }

    /// Counts a call that failed and nobody signed for; the status refuses it where there were too
    /// many from its address.
    pub(super) fn count_stranger(&self, peer: &Peer) -> Result<(), Status> {
        self.0.count_stranger(peer.ip()).map_err(|refusal| status::refused(&refusal))
    }
}

/// Whether a call is not open to anybody.
fn needs_caller(request: &Parts) -> bool {
    !request.uri.path().starts_with(OPEN)
}
