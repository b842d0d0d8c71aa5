//! Why the server cannot start or go on.

use std::{io, net::SocketAddr, path::PathBuf};

use thiserror::Error;

/// Why the server cannot start or go on.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The port is taken or not ours.
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The files of TLS cannot be used.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// The descriptors built into this program cannot be read.
    #[error("the built-in descriptors are damaged: {0}")]
    Descriptors(String),
}

/// Why the files of TLS cannot be used.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file does not hold what it must.
    #[error("{} holds no {wanted} in PEM form", path.display())]
    Missing {
        /// Path of the file.
        path: PathBuf,
        /// What should be there.
        wanted: &'static str,
    },
    /// Certificate and key do not go together or cannot be used.
    #[error("cannot serve {} with {}: {source}", certificate.display(), key.display())]
    Refused {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What the TLS library says.
        source: rustls::Error,
    },
    /// The clients' authorities cannot be used.
    #[error("cannot check clients against {}: {message}", path.display())]
    ClientAuthorities {
        /// Path of the file.
        path: PathBuf,
        /// What the TLS library says.
        message: String,
    },
}
