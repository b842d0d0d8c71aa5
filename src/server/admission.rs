//! Who gets through to the services.

use std::{net::SocketAddr, sync::Arc};

use http::{header::AUTHORIZATION, request::Parts};
use tonic::Status;

use super::{connection::Peer, status};
use crate::auth::{Authenticator, Caller, Presented};

/// What anybody may ask: probes have no token.
const OPEN: &str = "/grpc.health.v1.Health/";

/// Puts the caller into the request.
#[derive(Debug, Clone)]
pub(super) struct Admission(Arc<Authenticator>);

impl Admission {
    pub(super) fn new(authenticator: Arc<Authenticator>) -> Self {
        Self(authenticator)
    }

    /// Who calls; `None` for a call that is open to anybody.
    pub(super) fn admit(&self, request: &mut Parts) -> Result<Option<Caller>, Status> {
        if request.uri.path().starts_with(OPEN) {
            return Ok(None);
        }
        let peer = request.extensions.get::<Peer>().cloned().unwrap_or_default();
        let mut given = request.headers.get_all(AUTHORIZATION).iter();
        let authorization = given.next().map(http::HeaderValue::as_bytes);
        // Two could be read differently by two readers.
        let authorization = if given.next().is_some() { Some(&[][..]) } else { authorization };
        let presented = Presented {
            authorization,
            names: &peer.names,
            address: peer.address.as_ref().map(SocketAddr::ip),
        };
        let caller = self.0.authenticate(&presented).map_err(|error| status::refused(&error))?;
        // The services have no use for the secret, and cannot leak what they do not see.
        request.headers.remove(AUTHORIZATION);
        request.extensions.insert(caller.clone());
        Ok(Some(caller))
    }
}
