//! What ends a remote verb, with its exit code and its lines.

use std::path::PathBuf;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::fields::flag_and_path;

/// Why a remote verb did not do its work.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum RemoteError {
    /// The server's address or the flags beside it cannot be used.
    #[error("{0}")]
    Usage(String),
    /// A file that the user named could not be read.
    #[error("cannot read {}", .path.display())]
    File {
        /// Path of the file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// TLS could not be set up with the files given.
    #[error("cannot set up the connection to {server}")]
    Connection {
        /// The address.
        server: String,
        /// What is wrong.
        source: tonic::transport::Error,
    },
    /// The runtime that drives the sockets could not be made.
    #[error("cannot start the network runtime")]
    Runtime(#[source] std::io::Error),
    /// The server refused, or could not be reached.
    #[error("{}", .0.status.message())]
    Refused(Box<Refusal>),
    /// The job ended without a result.
    #[error("{name} did not succeed: {message}")]
    Job {
        /// The operation.
        name: String,
        /// The server's description.
        message: String,
    },
    /// A file that the user asked for could not be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// Path of the file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The signal handler could not be set.
    #[error("cannot listen for Ctrl-C")]
    Signals(#[source] ctrlc::Error),
    /// Stopped by a signal.
    #[error("interrupted; {0}")]
    Interrupted(String),
    /// The server sent what this client does not understand.
    #[error("the server's answer cannot be read: {0}; is it of another version?")]
    Answer(String),
}

/// A status, and the request id by which the server's log has the call.
#[derive(Debug)]
pub(in crate::cli) struct Refusal {
    pub(super) status: Status,
    pub(super) request_id: String,
    /// The server's name in messages.
    pub(super) server: String,
}

impl Refusal {
    /// Every violation with its field, or else the message; then the request's id.
    pub(in crate::cli) fn lines(&self) -> Vec<String> {
        let bad = self.status.get_details_bad_request();
        let mut lines: Vec<_> = bad
            .iter()
            .flat_map(|bad| &bad.field_violations)
            .map(|violation| {
                format!("error: {}: {}", flag_and_path(&violation.field), violation.description)
            })
            .collect();
        if lines.is_empty() {
            lines.push(if self.is_unreachable() {
                format!(
                    "error: {} cannot be reached: {}; is `keystep serve` running there?",
                    self.server,
                    self.status.message()
                )
            } else {
                format!("error: {}", self.status.message())
            });
        }
        if self.reason().as_deref() == Some("REQUEST_TOO_LONG") {
            let remedy = "  shrink --init-image, or ask for a larger server.max_message_bytes";
            lines.push(remedy.to_owned());
        }
        lines.push(format!("  code {:?}, request id {}", self.status.code(), self.request_id));
        lines
    }
}

impl Refusal {
    fn reason(&self) -> Option<String> {
        self.status.get_details_error_info().map(|info| info.reason)
    }

    /// Whether the connection broke, so that the message is not the server's.
    fn is_unreachable(&self) -> bool {
        let source = std::error::Error::source(&self.status);
        source.is_some_and(<dyn std::error::Error>::is::<tonic::transport::Error>)
    }
}

impl RemoteError {
    /// 1 failed, 2 wrong use, 69 unavailable, 77 not permitted, 130 interrupted: the numbers of `sysexits.h`.
    pub(in crate::cli) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Interrupted(_) => 130,
            Self::Refused(refusal) => match refusal.status.code() {
                Code::InvalidArgument => 2,
                Code::Unavailable => 69,
                Code::PermissionDenied | Code::Unauthenticated => 77,
                _ => 1,
            },
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn every_violation_is_printed_with_its_field() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("concepts[0]", "is empty");
        details.add_bad_request_violation("updates", "0 is outside 1 to 100000");
        let status = Status::with_error_details(Code::InvalidArgument, "2 violations", details);
        let server = "http://there".to_owned();
        let refusal = Refusal { status, request_id: "abc".to_owned(), server };
        assert_eq!(
            refusal.lines(),
            [
                "error: --concept (concepts[0]): is empty",
                "error: --updates: 0 is outside 1 to 100000",
                "  code InvalidArgument, request id abc",
            ]
        );
        assert_eq!(RemoteError::Refused(Box::new(refusal)).exit_code(), 2);
    }

    #[test]
    fn a_message_that_is_too_long_is_printed_with_a_remedy() {
        let refused = |reason| {
            let details = ErrorDetails::with_error_info(reason, "keystep", []);
            let status = Status::with_error_details(Code::ResourceExhausted, "too long", details);
            Refusal { status, request_id: String::new(), server: String::new() }.lines()
        };
        assert!(refused("REQUEST_TOO_LONG")[1].contains("--init-image"));
        assert!(!refused("QUEUE_FULL").iter().any(|line| line.contains("--init-image")));
    }

    #[test]
    fn codes_have_their_exit_codes() {
        let code = |status| {
            let (request_id, server) = (String::new(), String::new());
            RemoteError::Refused(Box::new(Refusal { status, request_id, server })).exit_code()
        };
        assert_eq!(code(Status::unavailable("")), 69);
        assert_eq!(code(Status::unauthenticated("")), 77);
        assert_eq!(code(Status::permission_denied("")), 77);
        assert_eq!(code(Status::not_found("")), 1);
    }
}
