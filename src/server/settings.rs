//! How the server listens.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// How the server listens, and how much of it one client may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// The address to listen on; port 0 takes any that is free.
    pub listen: SocketAddr,
    /// The files of TLS; without them everything is readable on the way.
    pub tls: Option<TlsSettings>,
    /// The longest request message.
    pub max_message_bytes: usize,
    /// The longest response message: one picture.
    pub max_response_bytes: usize,
    /// The longest list of headers of one call.
    pub max_header_bytes: u32,
    /// Most calls at a time on one connection.
    pub max_concurrent_streams: u32,
    /// Most connections at a time. A further one takes the slot of one that is not in use; where all
    /// are in use, it is accepted for health checks alone.
    pub max_connections: usize,
    /// Most of them from one address, or one network of IPv6 (64 bits).
    pub max_connections_of_address: usize,
    /// How long a connection may be without a call before it is closed.
    pub max_connection_idle: Duration,
    /// How long a connection takes new calls; those under way then may end in it.
    pub max_connection_age: Duration,
    /// How long a client may take to agree on TLS, and then to greet.
    pub handshake_timeout: Duration,
    /// The interval of HTTP/2 pings to a silent client.
    pub keepalive: Duration,
    /// How long a client may take to answer a ping.
    pub keepalive_timeout: Duration,
    /// Serve gRPC reflection of the public services.
    pub reflection: bool,
    /// How often tokens and certificates are read again.
    pub reload_every: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 50051)),
            tls: None,
            max_message_bytes: 1 << 20,
            max_response_bytes: 64 << 20,
            max_header_bytes: 16 << 10,
            max_concurrent_streams: 256,
            max_connections: 1024,
            max_connections_of_address: 256,
            max_connection_idle: Duration::from_mins(5),
            max_connection_age: Duration::from_hours(1),
            handshake_timeout: Duration::from_secs(10),
            keepalive: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            reflection: true,
            reload_every: Duration::from_secs(5),
        }
    }
}

/// The files of TLS, all PEM. They are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// The server's certificate and those above it.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// The authorities whose certificates clients must show; `None` asks clients for none.
    pub client_ca: Option<PathBuf>,
}
