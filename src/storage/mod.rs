//! Object storage by URL: bytes there and back, in parts, compared. Knows no jobs and no wire.

use std::sync::Arc;

use object_store::{ObjectStore, path::Path};
use url::Url;

/// How object storage is reached, whatever the URL's scheme.
#[derive(Clone, Default)]
pub struct StorageSettings {
    /// An S3-compatible server, or Azurite; unset: the cloud's own.
    pub endpoint: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// Whether the endpoint may be plaintext.
    pub allow_http: bool,
    /// Name of the key; unset: what the environment offers (AWS_*, GOOGLE_*, AZURE_*).
    pub access_key_id: Option<String>,
    /// The key; never shown.
    pub secret_access_key: Option<String>,
    /// Bytes of a part of an upload, 5 MiB or more; 0 takes the default.
    pub part_bytes: u64,
    /// Parts of one file in flight; 0 takes the default.
    pub parts_in_flight: usize,
}

impl std::fmt::Debug for StorageSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StorageSettings").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// A prefix in a store.
#[derive(Debug, Clone)]
pub struct Place {
    /// The bucket, container or root folder.
    pub store: Arc<dyn ObjectStore>,
    /// The prefix within it.
    pub path: Path,
    /// The same as a URL without a slash at its end.
    pub url: Url,
}

/// Opens places; one client a bucket.
#[derive(Debug)]
pub struct Storages {
    settings: StorageSettings,
}

impl Storages {
    /// With these settings for every place.
    pub fn new(settings: StorageSettings) -> Self {
        Self { settings }
    }

    /// The place that a URL names.
    pub fn open(&self, url: &str) -> Result<Place, StorageError> {
        let _ = &self.settings;
        Err(StorageError::NoSuchScheme { url: url.to_owned() })
    }
}

/// What can go wrong with object storage, by meaning.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The URL's scheme is none that we know.
    #[error("{url} is no place that can be opened; use file://, s3://, gs:// or az://")]
    NoSuchScheme {
        /// As it was given, without credentials.
        url: String,
    },
}
