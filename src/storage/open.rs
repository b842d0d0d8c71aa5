//! Opens URLs as prefixes and objects, with one client for each bucket.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder,
    local::LocalFileSystem,
    memory::InMemory,
    multipart::MultipartStore,
    path::Path,
};
use url::Url;

use super::{StorageError, StorageLocation};

/// How object storage is reached, whatever the URL's scheme.
#[derive(Clone, Default)]
pub struct StorageSettings {
    /// An S3-compatible server, or Azurite (`http://host:port/account`); unset: the cloud's own.
    /// Google's is never another one, but for what its key file says.
    pub endpoint: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// Whether the endpoint may be plaintext.
    pub allow_http: bool,
    /// Name of the key, the account's name for Azure; unset: what the environment offers (AWS_*,
    /// AZURE_*). For Google it is always the environment (GOOGLE_*).
    pub access_key_id: Option<String>,
    /// The key; never shown.
    pub secret_access_key: Option<String>,
    /// Bytes of a part of an upload, 5 MiB or more; 0 takes the default.
    pub part_bytes: u64,
    /// Parts of one file in flight; 0 takes the default.
    pub parts_in_flight: usize,
}

impl StorageSettings {
    /// The default of [`StorageSettings::part_bytes`]: 8 MiB.
    pub const PART_BYTES: u64 = 8 << 20;
    /// The default of [`StorageSettings::parts_in_flight`].
    pub const PARTS_IN_FLIGHT: usize = 4;

    /// Bytes of a part, defaults filled in.
    pub fn effective_part_bytes(&self) -> u64 {
        if self.part_bytes == 0 { Self::PART_BYTES } else { self.part_bytes }
    }

    /// Parts in flight, defaults filled in.
    pub fn effective_parts_in_flight(&self) -> usize {
        if self.parts_in_flight == 0 { Self::PARTS_IN_FLIGHT } else { self.parts_in_flight }
    }
}

impl fmt::Debug for StorageSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageSettings").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// An open bucket.
#[derive(Clone)]
struct Bucket {
    store: Arc<dyn ObjectStore>,
    parts: Option<Arc<dyn MultipartStore>>,
}

impl Bucket {
    fn in_parts<S: ObjectStore + MultipartStore>(store: S) -> Self {
        Self::shared(Arc::new(store))
    }

    fn shared<S: ObjectStore + MultipartStore>(store: Arc<S>) -> Self {
        Self { store: store.clone(), parts: Some(store) }
    }
}

/// Opens URLs of object storage, with one client for each bucket.
pub struct Storages {
    settings: StorageSettings,
    /// Open buckets by scheme and bucket, such as `s3://models`.
    buckets: Mutex<HashMap<String, Bucket>>,
}

impl fmt::Debug for Storages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storages").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Storages {
    /// Opens every URL with these settings.
    pub fn new(settings: StorageSettings) -> Self {
        Self { settings, buckets: Mutex::default() }
    }

    /// The settings that every URL is opened with.
    pub fn settings(&self) -> &StorageSettings {
        &self.settings
    }

    /// Opens a URL. Sends no request yet: a wrong key shows with the first one.
    pub fn open(&self, url: &str) -> Result<StorageLocation, StorageError> {
        let parsed = parse(url)?;
        let path = Path::from_url_path(parsed.path()).map_err(|_| invalid(url, REFUSED_PATH))?;
        if path.as_ref().contains(char::is_control) {
            return Err(invalid(url, REFUSED_PATH));
        }
        let key = bucket_key(&parsed);
        let known = lock(&self.buckets).get(&key).cloned();
        let bucket = if let Some(bucket) = known {
            bucket
        } else {
            let bucket = self.bucket(&parsed)?;
            lock(&self.buckets).entry(key).or_insert(bucket).clone()
        };
        Ok(StorageLocation { store: bucket.store, parts: bucket.parts, path, url: parsed })
    }

    /// Uses a store in place of a bucket, such as one that fails on purpose.
    pub fn mount(
        &self,
        bucket_url: &str,
        store: Arc<dyn ObjectStore>,
        parts: Option<Arc<dyn MultipartStore>>,
    ) -> Result<(), StorageError> {
        let key = bucket_key(&parse(bucket_url)?);
        lock(&self.buckets).insert(key, Bucket { store, parts });
        Ok(())
    }

    fn bucket(&self, url: &Url) -> Result<Bucket, StorageError> {
        let name = url.host_str().unwrap_or_default();
        let built = match url.scheme() {
            // Its root is the machine's: the folder need not be there before the first file.
            "file" => {
                let store = LocalFileSystem::new().with_fsync(true);
                return Ok(Bucket { store: Arc::new(store), parts: None });
            }
            "memory" => return Ok(Bucket::shared(in_memory(name))),
            "s3" => self.s3(name),
            "gs" => self.google(name),
            "az" => self.azure(name),
            _ => return Err(StorageError::NoSuchScheme { url: without_credentials(url.as_str()) }),
        };
        built.map_err(|error| StorageError::Misconfigured {
            url: url.to_string(),
            reason: first_sentence(&error),
        })
    }

    fn s3(&self, bucket: &str) -> object_store::Result<Bucket> {
        let settings = &self.settings;
        let environment = AmazonS3Builder::from_env();
        // A token in the environment belongs to the key in the environment.
        let mut builder = match (&settings.access_key_id, &settings.secret_access_key) {
            (None, None) => environment,
            (id, secret) => {
                let mut builder = AmazonS3Builder::new();
                for key in [AmazonS3ConfigKey::Region, AmazonS3ConfigKey::DefaultRegion] {
                    if let Some(region) = environment.get_config_value(&key) {
                        builder = builder.with_region(region);
                    }
                }
                if let Some(id) = id {
                    builder = builder.with_access_key_id(id);
                }
                if let Some(secret) = secret {
                    builder = builder.with_secret_access_key(secret);
                }
                builder
            }
        };
        if let Some(region) = &settings.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &settings.endpoint {
            // The particular key, or the environment's particular key would win over ours.
            builder = builder
                .with_config(AmazonS3ConfigKey::S3Endpoint, endpoint)
                .with_virtual_hosted_style_request(false);
        }
        let store = builder
            .with_bucket_name(bucket)
            .with_client_options(self.client())
            .with_allow_http(settings.allow_http)
            .with_retry(retries())
            .build()?;
        Ok(Bucket::in_parts(store))
    }

    fn google(&self, bucket: &str) -> object_store::Result<Bucket> {
        let store = GoogleCloudStorageBuilder::from_env()
            .with_bucket_name(bucket)
            .with_client_options(self.client().with_allow_http(self.settings.allow_http))
            .with_retry(retries())
            .build()?;
        Ok(Bucket::in_parts(store))
    }

    fn azure(&self, container: &str) -> object_store::Result<Bucket> {
        let settings = &self.settings;
        let mut builder = match (&settings.access_key_id, &settings.secret_access_key) {
            (Some(account), Some(key)) => {
                MicrosoftAzureBuilder::new().with_account(account).with_access_key(key)
            }
            (Some(account), None) => MicrosoftAzureBuilder::from_env().with_account(account),
            (None, _) => MicrosoftAzureBuilder::from_env(),
        };
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        let store = builder
            .with_container_name(container)
            .with_client_options(self.client())
            .with_allow_http(settings.allow_http)
            .with_retry(retries())
            .build()?;
        Ok(Bucket::in_parts(store))
    }

    /// No limit on a whole transfer: a large body takes as long as it takes. A read that waits
    /// longer than the slowest line would need for a part is broken.
    fn client(&self) -> ClientOptions {
        install_cryptography();
        let slowest_part = self.settings.effective_part_bytes() / SLOWEST_BYTES_A_SECOND;
        ClientOptions::new()
            .with_connect_timeout(Duration::from_secs(10))
            .with_timeout_disabled()
            .with_read_timeout(Duration::from_secs(60 + slowest_part))
    }
}

const REFUSED_PATH: &str =
    "the path has an empty segment, . or .., a control character, or bytes that are no UTF-8";

/// The slowest connection that an upload must work over.
const SLOWEST_BYTES_A_SECOND: u64 = 64 << 10;

/// Retries short faults within a request; longer ones are left to the caller.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(5),
            base: 2.0,
        },
        max_retries: 3,
        retry_timeout: Duration::from_mins(1),
    }
}

/// Chooses the cryptography of the HTTP client, which brings none; a choice that another part of the
/// process has made stays.
fn install_cryptography() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

/// Stores in memory, shared by everything in the process that opens the same name.
fn in_memory(name: &str) -> Arc<InMemory> {
    static STORES: LazyLock<Mutex<HashMap<String, Arc<InMemory>>>> = LazyLock::new(Mutex::default);
    lock(&STORES).entry(name.to_owned()).or_default().clone()
}

/// The map, which is whole even where a thread panicked with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A URL with scheme, bucket and path, and nothing else, without a slash at its end.
fn parse(url: &str) -> Result<Url, StorageError> {
    const SCHEMES: [&str; 5] = ["file", "memory", "s3", "gs", "az"];
    let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    if !scheme.is_some_and(|scheme| SCHEMES.contains(&scheme.as_str())) {
        return Err(StorageError::NoSuchScheme { url: without_credentials(url) });
    }
    let mut parsed = Url::parse(url).map_err(|error| invalid(url, &error.to_string()))?;
    let has_bucket = parsed.host_str().is_some_and(|host| !host.is_empty());
    match (parsed.scheme(), has_bucket) {
        ("file", true) => return Err(invalid(url, "it needs three slashes: file:///folder")),
        ("file", false) | (_, true) => {}
        (_, false) => return Err(invalid(url, "it names no bucket: scheme://bucket/prefix")),
    }
    let has_credentials = !parsed.username().is_empty() || parsed.password().is_some();
    if has_credentials || parsed.port().is_some() || parsed.query().is_some() {
        let reason = "it may have no user, key, port or query; these belong in the settings";
        return Err(invalid(url, reason));
    }
    if parsed.fragment().is_some() {
        return Err(invalid(url, "it may have no #; write %23 for one in a name"));
    }
    let path = parsed.path().trim_end_matches('/').to_owned();
    parsed.set_path(&path);
    Ok(parsed)
}

fn invalid(url: &str, reason: &str) -> StorageError {
    StorageError::InvalidUrl { url: without_credentials(url), reason: reason.to_owned() }
}

/// A URL that may be shown: what stands before an @ or behind a ?, which may be a key, is left out.
fn without_credentials(url: &str) -> String {
    let shown = url.split('?').next().unwrap_or_default();
    let (scheme, rest) = shown.split_once("://").unwrap_or(("", shown));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = authority.rsplit('@').next().unwrap_or_default();
    let mut shown = String::new();
    if !scheme.is_empty() {
        shown.push_str(scheme);
        shown.push_str("://");
    }
    shown.push_str(host);
    let path = path.trim_end_matches('/');
    // Of file:///folder, the third slash is the path's.
    if !path.is_empty() || (host.is_empty() && rest.contains('/')) {
        shown.push('/');
    }
    shown.push_str(path);
    shown.chars().take(256).collect()
}

fn bucket_key(url: &Url) -> String {
    format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default())
}

/// The error of a builder that lacks something.
fn first_sentence(error: &object_store::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;
    use crate::storage::StorageErrorKind;

    fn settings() -> StorageSettings {
        StorageSettings {
            endpoint: Some("http://127.0.0.1:1/account".to_owned()),
            region: Some("eu-central-1".to_owned()),
            allow_http: true,
            access_key_id: Some("account".to_owned()),
            secret_access_key: Some("c2VjcmV0".to_owned()),
            ..StorageSettings::default()
        }
    }

    #[tokio::test]
    async fn the_same_memory_is_shared_by_name() {
        let open = |url: &str| Storages::new(StorageSettings::default()).open(url).unwrap();
        let place = open("memory://shared/a/");
        assert_eq!(place.url.as_str(), "memory://shared/a");
        let object = place.child("b").unwrap();
        object.store.put(&object.path, "hello".into()).await.unwrap();
        let again = open("memory://shared/a/b");
        let read = again.store.get(&again.path).await.unwrap().bytes().await.unwrap();
        assert_eq!(read.as_ref(), b"hello");
        let other = open("memory://other/a/b");
        assert!(other.store.get(&other.path).await.is_err());
    }

    #[test]
    fn clouds_are_opened_without_being_reached() {
        let storages = Storages::new(settings());
        for url in ["s3://bucket/prefix/", "az://container/prefix"] {
            let place = storages.open(url).unwrap();
            assert_eq!(place.path.as_ref(), "prefix");
            assert!(place.parts.is_some());
            let again = storages.open(url).unwrap();
            assert!(Arc::ptr_eq(&place.store, &again.store), "one client a bucket");
        }
        assert!(!format!("{storages:?}").contains("c2VjcmV0"));
    }

    #[test]
    fn what_is_no_place_is_refused_without_its_credentials() {
        let storages = Storages::new(settings());
        for url in [
            "http://bucket/a", "/folder", "", "s3:bucket", "s3://", "s3:///a",
            "s3://key:secret@bucket/a", "s3://bucket/a?secret=1", "s3://bucket:9000/a",
            "s3://bucket/a#b", "s3://bucket/a//b", "file://host/folder", "memory://m/a%0Ab",
            "file:///a/%00", "file:///a/%c2%85", "s3://bucket/%ff%fe",
            "s3://bucket/%c0%ae%c0%ae/x",
        ] {
            let error = storages.open(url).unwrap_err();
            assert_eq!(error.kind(), StorageErrorKind::InvalidPlace, "{url}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_refusal_shows_the_url_as_it_was_written() {
        let storages = Storages::new(settings());
        for (url, shown) in [
            ("file:///tmp/out/%0a", "file:///tmp/out/%0a is no place"),
            ("s3://key:secret@bucket/a", "s3://bucket/a is no place"),
            ("s3://", "s3:// is no place"),
            ("/folder/x", "/folder/x is no place"),
        ] {
            let said = storages.open(url).unwrap_err().to_string();
            assert!(said.starts_with(shown), "{url}: {said}");
        }
    }

    #[tokio::test]
    async fn a_folder_need_not_be_there_yet() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_directory_path(folder.path()).unwrap();
        let place = Storages::new(StorageSettings::default()).open(url.as_str()).unwrap();
        let object = place.child("new/er/file").unwrap();
        object.store.put(&object.path, "hello".into()).await.unwrap();
        assert_eq!(std::fs::read(folder.path().join("new/er/file")).unwrap(), b"hello");
    }
}
