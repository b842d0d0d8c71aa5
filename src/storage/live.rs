//! Tests of storage against a real server, if the environment names one:
//!
//! ```text
//! KEYSTEP_TEST_STORAGE=s3://bucket/prefix   the place, in a bucket that exists
//! KEYSTEP_TEST_STORAGE_ENDPOINT=http://…    where it is not the cloud's own
//! KEYSTEP_TEST_STORAGE_KEY=name:secret      where the environment holds none
//! ```

use std::{env, sync::Arc, time::Duration};

use super::{testing::Fault, testing::Flaky, *};

const MIB: u64 = 1 << 20;

fn settings() -> Option<(String, StorageSettings)> {
    let value = |name: &str| env::var(format!("KEYSTEP_TEST_STORAGE{name}")).ok();
    let Some(url) = value("") else {
        eprintln!("skipped: KEYSTEP_TEST_STORAGE names no place");
        return None;
    };
    let key = value("_KEY").and_then(|key| {
        key.split_once(':').map(|(name, secret)| (name.to_owned(), secret.to_owned()))
    });
    let (access_key_id, secret_access_key) = key.unzip();
    let endpoint = value("_ENDPOINT");
    let allow_http = endpoint.is_some();
    let settings = StorageSettings {
        endpoint,
        allow_http,
        access_key_id,
        secret_access_key,
        part_bytes: 5 * MIB,
        ..StorageSettings::default()
    };
    Some((url, settings))
}

#[tokio::test]
async fn a_real_server_keeps_the_contract() {
    let Some((url, settings)) = settings() else { return };
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().file_name().unwrap().to_string_lossy().trim_matches('.').to_owned();
    let storages = Storages::new(settings.clone());
    let place = storages.open(&url).unwrap().child(&name).unwrap();
    let patience = Patience { attempts: 1, first_wait: Duration::ZERO };
    let journal = folder.path().join("uploads.json");
    let options = TransferOptions {
        journal: Some(journal.clone()),
        patience,
        ..TransferOptions::from(&settings)
    };

    // Small, in parts, and with a name that has to be written otherwise in a URL.
    for (name, size) in [("small", 10), ("empty", 0), ("a b#1%41/ü.bin", 12 * MIB)] {
        let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let file = LocalFile { path: folder.path().join("file"), content: Content::of(&bytes) };
        std::fs::write(&file.path, &bytes).unwrap();
        let object = place.child(name).unwrap();
        deliver(&object, &file, &options, &|_| {}).await.unwrap();
        let to = folder.path().join("downloaded");
        let content = download(&object, &to, patience, &|_| {}).await.unwrap();
        assert_eq!(content, file.content, "{name}");
        assert!(!journal.exists());
    }

    // Exactly one creates.
    let object = place.child("manifest.json").unwrap();
    assert_eq!(read(&object, 100, patience).await.unwrap(), None);
    let (one, other) = tokio::join!(
        create(&object, "one".into(), patience),
        create(&object, "two".into(), patience)
    );
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    let refused = one.err().or(other.err()).unwrap();
    assert_eq!(refused.kind(), StorageErrorKind::AlreadyExists, "{refused}");
    assert!(read(&object, 100, patience).await.unwrap().is_some());

    // An upload that was cut short goes on in another process.
    let bytes = vec![5; 16 << 20];
    let file = LocalFile { path: folder.path().join("file"), content: Content::of(&bytes) };
    std::fs::write(&file.path, &bytes).unwrap();
    let object = place.child("resumed").unwrap();
    let flaky = Flaky::with(object.store.clone(), object.parts.clone());
    let flaky = Arc::new(flaky);
    let cut =
        StorageLocation { store: flaky.clone(), parts: Some(flaky.clone()), ..object.clone() };
    flaky.fail_from(4, Fault::Away);
    deliver(&cut, &file, &options, &|_| {}).await.unwrap_err();
    assert!(journal.exists());
    flaky.heal();
    deliver(&cut, &file, &options, &|_| {}).await.unwrap();
    assert!((1..4).contains(&flaky.count("put_part")), "{:?}", flaky.calls());
    assert_eq!(flaky.count("create_multipart"), 0);

    // What is not there, and who may not.
    let nowhere = storages.open(&url.replacen("://", "://no-such-", 1)).unwrap();
    let error = create(&nowhere, "x".into(), patience).await.unwrap_err();
    assert!(
        matches!(error.kind(), StorageErrorKind::NotFound | StorageErrorKind::Denied),
        "{error}"
    );
}

#[tokio::test]
async fn nobody_at_the_endpoint_is_no_lasting_failure() {
    let settings = StorageSettings {
        endpoint: Some("http://127.0.0.1:1".to_owned()),
        allow_http: true,
        access_key_id: Some("AKIAEXAMPLE".to_owned()),
        secret_access_key: Some("c2VjcmV0".to_owned()),
        ..StorageSettings::default()
    };
    let patience = Patience { attempts: 1, first_wait: Duration::ZERO };
    for url in ["s3://bucket/a", "az://container/a"] {
        let place = Storages::new(settings.clone()).open(url).unwrap();
        let error = read(&place, 100, patience).await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::Unavailable, "{error}");
        let text = error.to_string();
        assert!(text.contains("no connection") && !text.contains("c2VjcmV0"), "{text}");
    }
}
