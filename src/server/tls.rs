//! TLS certificates, which are read again when their files change.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{error::CertificateError, settings::TlsSettings};

/// The TLS configuration of new connections; open ones keep theirs.
pub(super) struct Certificates {
    files: TlsSettings,
    config: ArcSwap<ServerConfig>,
    /// What was read last, valid or not.
    seen: Mutex<Contents>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("files", &self.files).finish_non_exhaustive()
    }
}

#[derive(PartialEq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<(PathBuf, Vec<u8>)>,
}

impl Certificates {
    pub(super) async fn read(files: TlsSettings) -> Result<Self, CertificateError> {
        let contents = Contents::read(&files).await?;
        let config = contents.config(&files)?;
        Ok(Self { files, config: ArcSwap::from_pointee(config), seen: Mutex::new(contents) })
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// Reads the files again; files that cannot be used change nothing.
    pub(super) async fn reload(&self) -> Result<(), CertificateError> {
        let mut seen = self.seen.lock().await;
        let contents = Contents::read(&self.files).await?;
        if *seen == contents {
            return Ok(());
        }
        let config = contents.config(&self.files);
        *seen = contents;
        self.config.store(Arc::new(config?));
        tracing::info!(certificate = %self.files.certificate.display(), "read the certificates");
        Ok(())
    }

    /// Reloads the files once in each period `every` where their contents have changed, until `stop`.
    pub(super) async fn follow(&self, every: Duration, stop: CancellationToken) {
        let mut complaint = String::new();
        while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            match self.reload().await {
                // Between a new certificate and its key lies a moment in which they do not match.
                Err(error) if error.to_string() != complaint => {
                    complaint = error.to_string();
                    tracing::error!(%error, "the certificates read before are still used");
                }
                Err(_) => {}
                Ok(()) => complaint.clear(),
            }
        }
    }
}

impl Contents {
    async fn read(files: &TlsSettings) -> Result<Self, CertificateError> {
        let client_ca = match &files.client_ca {
            None => None,
            Some(path) => Some((path.clone(), read(path).await?)),
        };
        Ok(Self {
            certificate: read(&files.certificate).await?,
            key: read(&files.key).await?,
            client_ca,
        })
    }

    fn config(&self, files: &TlsSettings) -> Result<ServerConfig, CertificateError> {
        let refused = |source| CertificateError::Refused {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            source,
        };
        let chain = certificates(&files.certificate, &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| {
            CertificateError::Missing { path: files.key.clone(), wanted: "private key" }
        })?;
        // Named here, so that no other crate's choice for the process matters.
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(refused)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some((path, bytes)) => {
                let unusable = |error: String| CertificateError::ClientAuthorities {
                    path: path.clone(),
                    message: error,
                };
                let mut roots = RootCertStore::empty();
                for authority in certificates(path, bytes)? {
                    roots.add(authority).map_err(|error| unusable(error.to_string()))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(|error| unusable(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(refused)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let unreadable = |source| CertificateError::Unreadable { path: path.to_owned(), source };
    tokio::fs::read(path).await.map_err(unreadable)
}

fn certificates(
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let missing = || CertificateError::Missing { path: path.to_owned(), wanted: "certificate" };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(missing)
}
