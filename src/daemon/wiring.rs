//! Makes the server, its callers, the publisher and the list of base models from the settings.

use std::{collections::BTreeMap, fs::File, io::Read, net::SocketAddr, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::watch;

use super::StartError;
use crate::{
    api::ApiParts,
    auth::{Authenticator, Role, TokenFileError},
    catalogue::{BUILTIN, Catalogue},
    config::{CertificateRole, Settings, SigningSettings},
    jobs::Clock,
    provenance::{KeyAlgorithm, LONGEST_KEY_FILE, Signer, read_signing_key},
    publishing::{ObjectPublisher, ObjectSealer, PublisherSettings},
    server::{self, CallObserver, Reloader, Server, ServerParts, ServerSettings, TlsSettings},
    shutdown::Steps,
    storage::Storages,
    telemetry,
    worker::{Publisher, ResultSealer},
};

/// The parts of the server.
#[derive(Debug)]
pub(super) struct FrontParts {
    pub(super) api: Arc<ApiParts>,
    pub(super) ready: watch::Receiver<bool>,
    pub(super) clock: Clock,
}

/// A server whose port is open.
pub(super) struct Front {
    pub(super) address: SocketAddr,
    /// Ends after the last call once calls are refused, or with the message of a failure.
    pub(super) serving: BoxFuture<'static, Result<(), String>>,
    pub(super) reloader: Reloader,
}

/// Opens the port.
pub(super) async fn open(
    settings: &Settings,
    parts: FrontParts,
    steps: &Steps,
) -> Result<Front, StartError> {
    let authenticator = authenticator(settings, parts.clock).await?;
    let server_settings = server_settings(settings);
    let server_parts = ServerParts {
        services: server::services(&server_settings, parts.api),
        authenticator: Arc::new(authenticator),
        ready: parts.ready,
        observer: Arc::new(MeasuredCalls),
    };
    let server = Server::bind(server_settings, server_parts).await?;
    let (address, reloader) = (server.local_addr(), server.reloader());
    let serving = server.serve(steps.refuse.clone(), steps.abort.clone());
    let serving = serving.map(|served| served.map_err(|error| error.to_string())).boxed();
    Ok(Front { address, serving, reloader })
}

/// The callers that are let in: those in the token file; without one every client with a certificate,
/// where the server asks for them; without either every client.
pub async fn authenticator(
    settings: &Settings,
    clock: Clock,
) -> Result<Authenticator, TokenFileError> {
    let authentication = &settings.authentication;
    Ok(match (&authentication.token_file, &settings.tls.client_ca) {
        (Some(path), _) => Authenticator::from_file(path, clock).await?,
        (None, Some(_)) => {
            let roles = authentication.certificate_roles.iter().copied().map(Role::from).collect();
            tracing::info!(?roles, "each client certificate is a principal of its own");
            Authenticator::from_certificates(roles)
        }
        (None, None) => Authenticator::none(),
    })
}

impl From<CertificateRole> for Role {
    fn from(role: CertificateRole) -> Self {
        match role {
            CertificateRole::Read => Self::Read,
            CertificateRole::Generate => Self::Generate,
            CertificateRole::Submit => Self::Submit,
            CertificateRole::Admin => Self::Admin,
        }
    }
}

fn server_settings(settings: &Settings) -> ServerSettings {
    let (server, tls) = (&settings.server, &settings.tls);
    let tls = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => Some(TlsSettings {
            certificate: certificate.clone(),
            key: key.clone(),
            client_ca: tls.client_ca.clone(),
        }),
        _ => None,
    };
    ServerSettings {
        listen: server.listen,
        tls,
        max_message_bytes: server.max_message_bytes,
        max_concurrent_streams: server.max_concurrent_streams,
        max_connections: server.max_connections,
        max_connections_of_address: server
            .max_connections_of_address
            .unwrap_or(server.max_connections / 4)
            .max(1),
        max_connection_idle: server.max_connection_idle,
        max_connection_age: server.max_connection_age,
        reflection: server.reflection,
        ..ServerSettings::default()
    }
}

/// Records a metric of every call that ends.
#[derive(Debug)]
struct MeasuredCalls;

impl CallObserver for MeasuredCalls {
    fn on_finished(&self, method: &str, code: tonic::Code, duration: Duration) {
        telemetry::rpc_finished(method, code_name(code), duration);
    }
}

/// The code as gRPC's specification writes it.
fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// As Hugging Face names it; `assets/emoji-canvas/README.md` has the artwork's own licences beside.
const BUILTIN_LICENSE: &str = "apache-2.0";

fn licenses() -> BTreeMap<String, String> {
    BTreeMap::from([(BUILTIN.to_owned(), BUILTIN_LICENSE.to_owned())])
}

/// Makes the publisher of results.
pub(super) fn publisher(storages: Arc<Storages>, outputs: Vec<String>) -> Arc<dyn Publisher> {
    let transfer = PublisherSettings::from(storages.settings());
    let settings = PublisherSettings { outputs, licenses: licenses(), ..transfer };
    Arc::new(ObjectPublisher::new(storages, settings))
}

/// Reads the key that signs results, where there is one, and tries it. Blocking, and short.
pub(super) fn sealer(settings: &Settings) -> Result<Option<Arc<dyn ResultSealer>>, StartError> {
    let SigningSettings { key_file, builder_id } = &settings.signing;
    let (Some(path), Some(builder_id)) = (key_file, builder_id) else { return Ok(None) };
    let failed = |problem: String| StartError::Signing { path: path.clone(), problem };
    let mut file = Vec::new();
    File::open(path)
        .and_then(|opened| opened.take(LONGEST_KEY_FILE).read_to_end(&mut file))
        .map_err(|error| failed(format!("cannot be read: {error}")))?;
    let key = read_signing_key(file).map_err(|error| failed(error.to_string()))?;
    let public_key = key.public_key();
    let signer = Signer::new(key, builder_id).map_err(|error| failed(error.to_string()))?;
    tracing::info!(
        builder_id,
        algorithm = %public_key.algorithm(),
        fingerprint = public_key.fingerprint(),
        "results are signed"
    );
    if public_key.algorithm() == KeyAlgorithm::Ed25519 {
        tracing::warn!(
            "an Ed25519 key signs statements alone: for model.sig, which other programs verify, \
             make an ECDSA P-256 key"
        );
    }
    Ok(Some(Arc::new(ObjectSealer::new(signer, licenses()))))
}

/// Opens the base models before a request waits for them.
pub(super) async fn prewarm(catalogue: Arc<Catalogue>) {
    catalogue.prewarm().await;
}
