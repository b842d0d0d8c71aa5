//! What can go wrong with object storage, by what the caller can do about it.

use std::{error::Error, io};

use object_store::client::{HttpError, HttpErrorKind};
use url::Url;

/// What can go wrong with object storage, by meaning. No message has a key or a path of this machine;
/// the store's whole answer is the source, for the log.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The URL's scheme is unknown.
    #[error("{url} is no place that can be opened; use file://, s3://, gs:// or az://")]
    NoSuchScheme {
        /// The URL as it was given, without credentials.
        url: String,
    },
    /// The URL names no bucket or folder.
    #[error("{url} is no place that can be opened: {reason}")]
    InvalidUrl {
        /// The URL as it was given, without credentials.
        url: String,
        /// What is wrong, and what to write.
        reason: String,
    },
    /// The URL, or a key below it, is longer than the store takes.
    #[error(
        "the place's name is too long: {what} has {bytes} bytes, the limit is {limit}; shorten it"
    )]
    TooLong {
        /// The part that is too long.
        what: &'static str,
        /// Its length, in bytes.
        bytes: usize,
        /// The longest that the store takes, in bytes.
        limit: usize,
    },
    /// A relative name that could lead out of its prefix, or that no store accepts.
    #[error("{name:?} is no name of a file; use relative names with / and without . and ..")]
    InvalidName {
        /// The name.
        name: String,
    },
    /// The store cannot be set up as it is configured.
    #[error("{url} cannot be reached as configured: {reason}; set storage's keys and endpoint")]
    Misconfigured {
        /// The URL of the prefix or object.
        url: String,
        /// What is missing or wrong.
        reason: String,
    },
    /// There is no such object, or no such bucket.
    #[error("there is nothing at {url}; check the bucket and the path")]
    NotFound {
        /// The URL of the prefix or object.
        url: String,
    },
    /// The object to be created exists already.
    #[error("{url} exists already")]
    AlreadyExists {
        /// The URL of the prefix or object.
        url: String,
    },
    /// The store refuses our credentials, or what they ask for.
    #[error("access to {url} is denied ({reason}); grant the key reading, writing and listing")]
    Denied {
        /// The URL of the prefix or object.
        url: String,
        /// The answer's code.
        reason: String,
        /// The whole answer.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The store refuses the request itself: another try would be refused too.
    #[error("{url} refuses the request ({reason}); check the endpoint, the region and part_bytes")]
    Rejected {
        /// The URL of the prefix or object.
        url: String,
        /// The answer's code.
        reason: String,
        /// The whole answer.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The store knows no conditional creation, which a manifest needs.
    #[error(
        "{url} lacks conditional writes ({reason}): a result's manifest is created with \
         If-None-Match: *, which the store must heed; use a store that does, such as Amazon S3, \
         MinIO, Ceph, Google Cloud Storage or Azure, in a version that knows it, let no proxy drop \
         the header, and leave AWS_CONDITIONAL_PUT unset"
    )]
    NoConditionalWrites {
        /// The URL of the prefix or object.
        url: String,
        /// What the store answered or did.
        reason: String,
    },
    /// The store cannot be reached, or fails.
    #[error("{url} cannot be reached or fails ({reason}); try again later")]
    Unavailable {
        /// The URL of the prefix or object.
        url: String,
        /// What happened, in few words.
        reason: String,
        /// The whole answer.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The object is not what it should be.
    #[error("{url} holds {found} and not {expected}; remove the object, or ask again")]
    Corrupted {
        /// The URL of the prefix or object.
        url: String,
        /// What should be there: size and digest.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A file on this machine changed or vanished while it was sent.
    #[error("{name} changed on the local disk while it was sent; ask again")]
    SourceChanged {
        /// The file's name, without its folder.
        name: String,
    },
    /// The local disk failed.
    #[error(
        "{name} cannot be read or written on the local disk: {}; {}",
        source.kind(),
        remedy(*full)
    )]
    LocalDisk {
        /// The file's name, without its folder.
        name: String,
        /// Whether the disk, or the quota, is full.
        full: bool,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn remedy(full: bool) -> &'static str {
    if full { "make room" } else { "check the disk and the permissions" }
}

/// What the caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StorageErrorKind {
    /// The caller must name another URL.
    InvalidPlace,
    /// There is no such object.
    NotFound,
    /// The object exists.
    AlreadyExists,
    /// The operator has to change keys, permissions or settings.
    Denied,
    /// Try again later.
    Unavailable,
    /// Bytes are not what they should be; writing them again may help.
    Corrupted,
    /// The operator has to make room.
    DiskFull,
    /// The operator has to look after this machine's disk.
    LocalDisk,
}

impl StorageError {
    /// What the caller can do.
    pub fn kind(&self) -> StorageErrorKind {
        match self {
            Self::NoSuchScheme { .. }
            | Self::InvalidUrl { .. }
            | Self::TooLong { .. }
            | Self::InvalidName { .. } => StorageErrorKind::InvalidPlace,
            Self::NotFound { .. } => StorageErrorKind::NotFound,
            Self::AlreadyExists { .. } => StorageErrorKind::AlreadyExists,
            Self::Misconfigured { .. }
            | Self::Denied { .. }
            | Self::Rejected { .. }
            | Self::NoConditionalWrites { .. } => StorageErrorKind::Denied,
            Self::Unavailable { .. } => StorageErrorKind::Unavailable,
            Self::Corrupted { .. } | Self::SourceChanged { .. } => StorageErrorKind::Corrupted,
            Self::LocalDisk { full: true, .. } => StorageErrorKind::DiskFull,
            Self::LocalDisk { full: false, .. } => StorageErrorKind::LocalDisk,
        }
    }

    /// Every variable of the message, by lowerCamelCase name.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let variables: &[(&'static str, &String)] = match self {
            Self::NoSuchScheme { url } | Self::NotFound { url } | Self::AlreadyExists { url } => {
                &[("url", url)]
            }
            Self::InvalidUrl { url, reason }
            | Self::Misconfigured { url, reason }
            | Self::Denied { url, reason, .. }
            | Self::Rejected { url, reason, .. }
            | Self::NoConditionalWrites { url, reason }
            | Self::Unavailable { url, reason, .. } => &[("url", url), ("reason", reason)],
            Self::Corrupted { url, expected, found } => {
                &[("url", url), ("expected", expected), ("found", found)]
            }
            Self::InvalidName { name } | Self::SourceChanged { name } => &[("name", name)],
            Self::TooLong { what, bytes, limit } => &[
                ("what", &(*what).to_owned()),
                ("bytes", &bytes.to_string()),
                ("limit", &limit.to_string()),
            ],
            Self::LocalDisk { name, source, .. } => {
                &[("name", name), ("reason", &source.kind().to_string())]
            }
        };
        variables.iter().map(|(name, value)| (*name, (*value).clone())).collect()
    }

    /// The error that a store's answer stands for.
    pub fn of(url: &Url, error: object_store::Error) -> Self {
        use object_store::Error as Answer;
        let url = url.to_string();
        let reason = reason(&error);
        match error {
            Answer::NotFound { .. } => Self::NotFound { url },
            Answer::AlreadyExists { .. } | Answer::Precondition { .. } => {
                Self::AlreadyExists { url }
            }
            Answer::PermissionDenied { source, .. } | Answer::Unauthenticated { source, .. } => {
                Self::Denied { url, reason, source }
            }
            Answer::InvalidPath { .. } => {
                Self::InvalidUrl { url, reason: "the path has a segment that is refused".into() }
            }
            Answer::NotSupported { .. }
            | Answer::NotImplemented { .. }
            | Answer::UnknownConfigurationKey { .. } => Self::Misconfigured {
                url,
                reason: "the store cannot do what is asked of it".to_owned(),
            },
            other => Self::of_chain(url, reason, other),
        }
    }

    /// The error that the answer to a conditional write stands for: "not implemented" then means the
    /// condition.
    pub(super) fn of_creation(url: &Url, error: object_store::Error) -> Self {
        use object_store::Error as Answer;
        let lacks = |reason: String| Self::NoConditionalWrites { url: url.to_string(), reason };
        match error {
            Answer::NotImplemented { .. } | Answer::NotSupported { .. } => {
                lacks("they are not implemented, or switched off".to_owned())
            }
            other if status(&other) == Some(501) => lacks(reason(&other)),
            other => Self::of(url, other),
        }
    }

    /// The error that the answer to an unconditional write stands for: a conflict then is with another
    /// write that is under way.
    pub(super) fn of_overwrite(url: &Url, error: object_store::Error) -> Self {
        use object_store::Error as Answer;
        if matches!(error, Answer::AlreadyExists { .. } | Answer::Precondition { .. }) {
            let reason = "another write is under way".to_owned();
            return Self::Unavailable { url: url.to_string(), reason, source: Box::new(error) };
        }
        Self::of(url, error)
    }

    /// The error that the sources of an unspecific one stand for.
    fn of_chain(url: String, reason: String, error: object_store::Error) -> Self {
        // Below a request there may be one too, but of a socket.
        if find::<HttpError>(&error).is_none()
            && let Some(disk) = find::<io::Error>(&error)
        {
            match disk.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    let name = url.rsplit('/').next().unwrap_or_default().to_owned();
                    return Self::LocalDisk { name, full: true, source: disk.kind().into() };
                }
                io::ErrorKind::InvalidFilename => {
                    return Self::InvalidUrl { url, reason: "a part of it is too long".to_owned() };
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    return Self::Denied { url, reason, source: Box::new(error) };
                }
                _ => {}
            }
        }
        let source = Box::new(error);
        match status(source.as_ref()) {
            // Nothing is wrong with a parts' upload that the store forgot: it is begun anew.
            _ if forgot_upload(source.as_ref()) => Self::NotFound { url },
            Some(400) if reason.ends_with(" KeyTooLongError") => {
                Self::InvalidUrl { url, reason: "the key is too long".to_owned() }
            }
            // Too slow (408) and too many (429) pass by; what is not implemented (501) does not.
            Some(400..=407 | 409..=428 | 501) => Self::Rejected { url, reason, source },
            _ => Self::Unavailable { url, reason, source },
        }
    }

    /// The error of a failure of the local disk; `name` is without its folder.
    pub fn of_disk(name: &str, source: io::Error) -> Self {
        let name = name.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => Self::SourceChanged { name },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::LocalDisk { name, full: true, source }
            }
            _ => Self::LocalDisk { name, full: false, source },
        }
    }
}

/// Whether the store in memory forgot an upload, which it has no error of its own for.
fn forgot_upload(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|error| error.to_string().starts_with("MultipartUpload not found"))
}

fn chain<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> + 'a {
    let below = |error: &&'a (dyn Error + 'static)| -> Option<&'a (dyn Error + 'static)> {
        (*error).source()
    };
    std::iter::successors(Some(error), below)
}

fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// The HTTP status of an answer. `object_store` keeps its type to itself, so that its words must do.
fn status(error: &(dyn Error + 'static)) -> Option<u16> {
    let text = chain(error).last()?.to_string();
    let (_, after) = text.split_once("status code: ")?;
    after.get(..3)?.parse().ok()
}

/// What happened, in few words and without the answer's body, which may name keys.
fn reason(error: &(dyn Error + 'static)) -> String {
    if let Some(status) = status(error) {
        let code = chain(error).last().and_then(|last| code(&last.to_string()));
        return match code {
            Some(code) => format!("{status} {code}"),
            None => format!("status {status}"),
        };
    }
    if chain(error).any(asks_for_credentials) {
        return "no key is set, and this machine's own role does not answer".to_owned();
    }
    if let Some(http) = find::<HttpError>(error) {
        return match http.kind() {
            HttpErrorKind::Connect => "no connection",
            HttpErrorKind::Timeout => "no answer in time",
            HttpErrorKind::Interrupted => "the connection broke",
            _ => "no valid answer",
        }
        .to_owned();
    }
    if let Some(disk) = find::<io::Error>(error) {
        return disk.kind().to_string();
    }
    "no details".to_owned()
}

/// Whether it was the cloud's metadata service that failed, which is asked where no key is given.
fn asks_for_credentials(error: &(dyn Error + 'static)) -> bool {
    let text = error.to_string();
    ["//169.254.", "//metadata.google.internal", "//metadata/"]
        .iter()
        .any(|address| text.contains(address))
}

/// The code in an S3 or Azure answer, such as `NoSuchBucket`.
fn code(text: &str) -> Option<String> {
    let (_, after) = text.split_once("<Code>")?;
    let (code, _) = after.split_once("</Code>")?;
    let is_plain = code.len() <= 64 && code.chars().all(|c| c.is_ascii_alphanumeric());
    is_plain.then(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(source: impl Into<Box<dyn Error + Send + Sync>>) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: source.into() }
    }

    fn kind(error: object_store::Error) -> StorageErrorKind {
        StorageError::of(&Url::parse("s3://bucket/a").unwrap(), error).kind()
    }

    #[test]
    fn an_answer_says_what_to_do() {
        let denied = "Server returned non-2xx status code: 400 Bad Request: <Error><Code>\
                      EntityTooSmall</Code><AWSAccessKeyId>AKIA1</AWSAccessKeyId></Error>";
        let url = Url::parse("s3://bucket/a").unwrap();
        let error = StorageError::of(&url, generic(denied));
        assert_eq!(error.kind(), StorageErrorKind::Denied);
        let text = error.to_string();
        assert!(text.contains("400 EntityTooSmall") && !text.contains("AKIA1"), "{text}");

        let slow = "Server returned non-2xx status code: 503 Service Unavailable: ";
        assert_eq!(kind(generic(slow)), StorageErrorKind::Unavailable);
        assert_eq!(kind(generic("what?")), StorageErrorKind::Unavailable);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(kind(generic(full)), StorageErrorKind::DiskFull);
        let read_only = io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(kind(generic(read_only)), StorageErrorKind::Denied);
        let role = "Error performing PUT http://169.254.169.254/latest/api/token in 1s";
        let error = StorageError::of(&url, generic(role));
        assert_eq!(error.kind(), StorageErrorKind::Unavailable);
        assert!(error.to_string().contains("no key is set"), "{error}");
        let long = io::Error::from(io::ErrorKind::InvalidFilename);
        assert_eq!(kind(generic(long)), StorageErrorKind::InvalidPlace);
        let long = "Server returned non-2xx status code: 400 Bad Request: <Error><Code>\
                    KeyTooLongError</Code></Error>";
        assert_eq!(kind(generic(long)), StorageErrorKind::InvalidPlace);
        let missing = object_store::Error::NotFound { path: "a".into(), source: "404".into() };
        assert_eq!(kind(missing), StorageErrorKind::NotFound);
    }
}
