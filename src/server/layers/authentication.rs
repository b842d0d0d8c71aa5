//! Which calls get through to the services.

use std::sync::Arc;

use http::{header::AUTHORIZATION, request::Parts};
use tonic::Status;

use super::status;
use crate::{
    auth::{Authenticator, CallerWatch, Presented, Refusal},
    jobs::Principal,
    server::connection::Peer,
};

/// The prefix of the calls that need no credentials: probes have none.
const OPEN: &str = "/grpc.health.v1.Health/";

/// Authenticates each call, and puts its caller into the request.
#[derive(Debug, Clone)]
pub(in crate::server) struct Admission(Arc<Authenticator>);

/// A call that was let in.
pub(super) enum Admitted {
    /// It needs no credentials.
    Anybody,
    /// Its caller lies in the request's extensions.
    Known {
        /// The principal.
        principal: Principal,
        /// Whether the caller may still go on.
        watch: Option<CallerWatch>,
    },
}

/// A call that was refused.
#[derive(Debug)]
pub(super) struct Refused {
    /// The answer to the client.
    pub(super) status: Status,
    /// Whether the address has been refused often of late.
    pub(super) is_repeated: bool,
}

impl Admission {
    pub(in crate::server) fn new(authenticator: Arc<Authenticator>) -> Self {
        Self(authenticator)
    }

    /// Lets a call in or refuses it.
    pub(super) fn admit(&self, peer: &Peer, request: &mut Parts) -> Result<Admitted, Refused> {
        if !needs_caller(request) {
            return Ok(Admitted::Anybody);
        }
        if peer.slot.is_for_health {
            // The client's next connection may get a slot for calls.
            peer.slot.leave.cancel();
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

    /// Counts a failed call without a known caller; refuses it where too many came from its address.
    pub(super) fn count_stranger(&self, peer: &Peer) -> Result<(), Status> {
        self.0.count_stranger(peer.ip()).map_err(|refusal| status::refused(&refusal))
    }
}

/// Whether a call needs credentials.
fn needs_caller(request: &Parts) -> bool {
    !request.uri.path().starts_with(OPEN)
}
