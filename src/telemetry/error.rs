//! Why logs or metrics cannot be set up.

use std::net::SocketAddr;

/// Why logs or metrics cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The directives of the level cannot be read.
    #[error("log.level is wrong: {0}; give error, warn, info, debug, trace, or directives")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// Another part of the process has set up logs or metrics already.
    #[error("{what} were set up before in this process")]
    SetUpBefore {
        /// Which of the two.
        what: &'static str,
    },
    /// The metrics cannot be served.
    #[error("cannot serve metrics on {address}: {message}; choose another metrics.listen")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system says.
        message: String,
    },
}
