//! Maps errors of object storage to failures of a job.

use crate::{
    jobs::{Failure, FailureReason as Reason},
    spec::Field,
    storage::{StorageError, StorageErrorKind as Kind},
};

/// What an error of storage means for a job that publishes.
pub fn storage_failure(error: &StorageError) -> Failure {
    let reason = match error.kind() {
        // The caller named the place.
        Kind::InvalidPlace => Reason::InvalidSpec,
        // A bucket that is not there is the operator's to heal, as a key is that is refused.
        Kind::NotFound | Kind::Denied => Reason::StorageDenied,
        Kind::Unavailable | Kind::AlreadyExists => Reason::StorageUnavailable,
        Kind::Corrupted => Reason::StorageCorrupted,
        // Another worker's disk may be well.
        Kind::DiskFull | Kind::LocalDisk => Reason::DiskFull,
    };
    let mut failure = Failure::new(reason, error.to_string());
    if reason == Reason::InvalidSpec {
        failure = failure.violated(Field::Destination, error.to_string());
    }
    error.variables().iter().fold(failure, |failure, (name, value)| failure.with(name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_whether_to_try_again() {
        let url = || "s3://bucket/a".to_owned();
        let away = StorageError::Unavailable {
            url: url(),
            reason: "no connection".to_owned(),
            source: "the whole story".into(),
        };
        let failure = storage_failure(&away);
        assert_eq!(failure.reason, Reason::StorageUnavailable);
        assert!(failure.reason.is_healed_by_retry());
        assert_eq!(failure.metadata["url"], url());
        assert!(!failure.message.contains("the whole story"));

        let long = StorageError::TooLong { what: "its longest part", bytes: 300, limit: 255 };
        let long = storage_failure(&long);
        assert_eq!((long.reason, long.metadata["limit"].as_str()), (Reason::InvalidSpec, "255"));
        assert_eq!(long.violations[0].field, Field::Destination.into());
        assert!(!long.reason.is_outage_of_output());

        let missing = storage_failure(&StorageError::NotFound { url: url() });
        assert!(!missing.reason.is_healed_by_retry() && missing.reason.is_outage_of_output());
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let full = StorageError::LocalDisk { name: "a".to_owned(), full: true, source: full };
        assert_eq!(storage_failure(&full).reason, Reason::DiskFull);
    }
}
