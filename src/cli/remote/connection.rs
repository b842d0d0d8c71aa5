//! The connection to a server: address, TLS, token, and retries of calls that may be repeated.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri},
};
use tonic_types::StatusExt;

use super::remote_error::{Refusal, RemoteError};

/// The variable that names the server where no flag does.
const SERVER_VARIABLE: &str = "KEYSTEP_SERVER";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The most tries of one call.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Which server, and as whom.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct ServerArguments {
    /// The server: https://HOST:PORT, or http:// on this machine [default: what the environment
    /// has as `KEYSTEP_SERVER`].
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// File with the bearer token; sent to this machine or over TLS alone.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM file with the authority that signed the server's certificate [default: the system's].
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// PEM file with this client's certificate, for servers that ask for one.
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_certificate: Option<PathBuf>,
    /// PEM file with the certificate's key.
    #[arg(long, value_name = "FILE", requires = "client_certificate")]
    client_key: Option<PathBuf>,
    /// Print one JSON document, and nothing else on stdout.
    #[arg(long)]
    pub(super) json: bool,
}

impl ServerArguments {
    /// The server's address.
    pub(in crate::cli) fn address(&self) -> Result<String, RemoteError> {
        self.server
            .clone()
            .or_else(|| std::env::var(SERVER_VARIABLE).ok().filter(|url| !url.is_empty()))
            .ok_or_else(|| {
                RemoteError::Usage(format!(
                    "no server is named; give --server URL or set {SERVER_VARIABLE}"
                ))
            })
    }

    /// The flags that lead another call to the same server.
    pub(super) fn again(&self) -> String {
        let server = self.address().ok().map(|url| format!(" --server {url}"));
        let files = [
            ("--token-file", &self.token_file),
            ("--ca-file", &self.ca_file),
            ("--client-certificate", &self.client_certificate),
            ("--client-key", &self.client_key),
        ];
        let named = files.into_iter().filter_map(|(flag, path)| Some((flag, path.as_ref()?)));
        let files = named.map(|(flag, path)| format!(" {flag} {}", path.display()));
        server.into_iter().chain(files).collect()
    }
}

/// A channel that carries the caller's token and request id.
pub(super) type AuthorizedChannel = InterceptedService<Channel, Credentials>;

/// Adds token and request id to every call. The token is marked sensitive, so that no log shows it.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    token: Option<MetadataValue<Ascii>>,
    request_id: MetadataValue<Ascii>,
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request.metadata_mut().insert("x-request-id", self.request_id.clone());
        Ok(request)
    }
}

/// A connection to a server, which the first call opens.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    channel: AuthorizedChannel,
    request_id: String,
    /// Its name in messages.
    server: String,
}

impl Connection {
    /// Reads the files and prepares the channel; must be called within a runtime.
    pub(super) fn open(arguments: &ServerArguments) -> Result<Self, RemoteError> {
        let server = &arguments.address()?;
        check_no_secret(server)?;
        let uri: Uri = server.parse().map_err(|_| {
            RemoteError::Usage(format!("--server {server} is no URL; give https://HOST:PORT"))
        })?;
        let secure = check_address(server, &uri)?;
        if !secure && (arguments.ca_file.is_some() || arguments.client_certificate.is_some()) {
            return Err(RemoteError::Usage(
                "--ca-file and --client-certificate are for https://; change --server".to_owned(),
            ));
        }
        let failed = |source| RemoteError::Connection { server: server.clone(), source };
        let mut endpoint = Endpoint::from(uri)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        if secure {
            endpoint = endpoint.tls_config(tls(arguments)?).map_err(failed)?;
        }
        let token = arguments.token_file.as_deref().map(read_token).transpose()?;
        Self::over(&endpoint, server, token)
    }

    /// A connection to a server within this process, without credentials; must be called within a
    /// runtime.
    #[cfg(feature = "server")]
    pub(super) fn near(address: std::net::SocketAddr) -> Result<Self, RemoteError> {
        let server = format!("http://{address}");
        let endpoint = Endpoint::from_shared(server.clone())
            .map_err(|source| RemoteError::Connection { server: server.clone(), source })?;
        Self::over(&endpoint.connect_timeout(CONNECT_TIMEOUT), &server, None)
    }

    fn over(
        endpoint: &Endpoint,
        server: &str,
        token: Option<MetadataValue<Ascii>>,
    ) -> Result<Self, RemoteError> {
        let request_id = uuid::Uuid::new_v4().to_string();
        let carried = MetadataValue::try_from(&request_id)
            .map_err(|_| RemoteError::Usage("the request id is no header value".to_owned()))?;
        let credentials = Credentials { token, request_id: carried };
        let channel = InterceptedService::new(endpoint.connect_lazy(), credentials);
        Ok(Self { channel, request_id, server: server.to_owned() })
    }

    /// A channel for a generated client.
    pub(super) fn channel(&self) -> AuthorizedChannel {
        self.channel.clone()
    }

    /// The error of a status, with this client's request id.
    pub(super) fn refused(&self, status: Status) -> RemoteError {
        let request_id = self.request_id.clone();
        RemoteError::Refused(Box::new(Refusal { status, request_id, server: self.server.clone() }))
    }

    /// Makes a call that may be repeated, and tries again while the server is away.
    pub(super) async fn repeatable<R: Clone, T>(
        &self,
        request: &R,
        mut call: impl AsyncFnMut(AuthorizedChannel, R) -> Result<Response<T>, Status>,
    ) -> Result<T, RemoteError> {
        let mut tries = 1;
        loop {
            match call(self.channel(), request.clone()).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) if is_passing(&status) && tries < TRIES => {
                    tokio::time::sleep(pause(&status, tries)).await;
                    tries += 1;
                }
                Err(status) => return Err(self.refused(status)),
            }
        }
    }
}

/// Whether the server was away or the connection broke, so that another try may succeed.
fn is_passing(status: &Status) -> bool {
    // What the server itself says has no source.
    let cut = [Code::Unknown, Code::Cancelled, Code::Internal].contains(&status.code())
        && std::error::Error::source(status).is_some();
    cut || status.code() == Code::Unavailable
}

/// The pause before the next try: what the server asks for, or twice the last one, up to a limit.
pub(super) fn pause(status: &Status, tries: u32) -> Duration {
    let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let own = FIRST_PAUSE.saturating_mul(1 << tries.saturating_sub(1).min(16));
    asked.unwrap_or(own).min(LONGEST_PAUSE)
}

/// Messages show the address, and nothing of it but scheme, host and port is sent.
fn check_no_secret(server: &str) -> Result<(), RemoteError> {
    if server.contains(['@', '?', '#']) {
        return Err(RemoteError::Usage(
            "--server holds a user, a query or a fragment, and may hold a key; give \
             https://HOST:PORT, and the token with --token-file"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Whether the address uses TLS; plaintext is allowed to this machine alone.
fn check_address(server: &str, uri: &Uri) -> Result<bool, RemoteError> {
    let host = uri.host().unwrap_or("").trim_matches(['[', ']']);
    let near = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(true),
        Some("http") if near => Ok(false),
        Some("http") => Err(RemoteError::Usage(format!(
            "--server {server} is plaintext beyond this machine; use https://"
        ))),
        _ => Err(RemoteError::Usage(format!("--server {server} lacks https:// or http://"))),
    }
}

fn tls(arguments: &ServerArguments) -> Result<ClientTlsConfig, RemoteError> {
    let mut tls = ClientTlsConfig::new();
    tls = match &arguments.ca_file {
        Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
        None => tls.with_native_roots(),
    };
    if let (Some(certificate), Some(key)) = (&arguments.client_certificate, &arguments.client_key) {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(tls)
}

fn read_token(path: &Path) -> Result<MetadataValue<Ascii>, RemoteError> {
    let bytes = read(path)?;
    let token = std::str::from_utf8(&bytes).unwrap_or("").trim();
    let mut value = MetadataValue::try_from(format!("Bearer {token}"))
        .ok()
        .filter(|_| !token.is_empty())
        .ok_or_else(|| RemoteError::Usage(format!("{} holds no token", path.display())))?;
    value.set_sensitive(true);
    Ok(value)
}

fn read(path: &Path) -> Result<Vec<u8>, RemoteError> {
    std::fs::read(path).map_err(|source| RemoteError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_stays_on_this_machine() {
        let secure = |server: &str| check_address(server, &server.parse().unwrap()).ok();
        assert_eq!(secure("http://127.0.0.1:50051"), Some(false));
        assert_eq!(secure("http://[::1]:50051"), Some(false));
        assert_eq!(secure("http://localhost:1"), Some(false));
        assert_eq!(secure("https://example.com"), Some(true));
        assert_eq!(secure("http://example.com"), None);
        assert_eq!(secure("http://localhost.example.com"), None);
        assert_eq!(secure("ftp://localhost"), None);
    }

    #[test]
    fn an_address_with_a_key_is_refused_and_not_shown() {
        for server in ["https://me:hunter2@h", "https://h/?key=hunter2", "https://h/#hunter2"] {
            let error = check_no_secret(server).unwrap_err().to_string();
            assert!(error.contains("--token-file") && !error.contains("hunter2"), "{error}");
        }
        assert!(check_no_secret("https://h:50051").is_ok());
    }

    #[test]
    fn a_token_is_read_without_its_line_end_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "secret\n").unwrap();
        let token = read_token(&path).unwrap();
        assert_eq!(token.to_str().unwrap(), "Bearer secret");
        assert!(!format!("{token:?}").contains("secret"));
        std::fs::write(&path, "\n").unwrap();
        assert!(read_token(&path).is_err());
    }

    #[test]
    fn pauses_grow_up_to_a_limit() {
        let status = Status::unavailable("");
        assert_eq!(pause(&status, 1), FIRST_PAUSE);
        assert_eq!(pause(&status, 3), FIRST_PAUSE * 4);
        assert_eq!(pause(&status, 40), LONGEST_PAUSE);
    }
}
