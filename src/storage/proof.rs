//! Proves that results can be published below a prefix: writes a small object, reads it back, and
//! tries to create it again.

use bytes::Bytes;
use object_store::ObjectStoreExt;

use super::{
    Patience, StorageError, StorageErrorKind, StorageLocation, create, read, whole::overwrite,
};

/// The object's bytes.
const TEXT: &[u8] = b"keystep writes this to see whether it may; it can be deleted at any time\n";
/// The bytes of the second creation, which must not be written.
const OTHER: &[u8] = b"the store overwrote what it was asked to create\n";

/// Proves that an object can be written and read back, and that creating it a second time is refused:
/// a result's manifest is created in this way, which decides whose result counts where two workers
/// finish the same job. `name` is the object's below `place`, which nothing else uses; it is removed.
///
/// # Errors
///
/// [`StorageError::NoConditionalWrites`] where the store does not know `If-None-Match: *` or does
/// not heed it; else the error of writing or reading.
pub async fn prove(
    place: &StorageLocation,
    name: &str,
    patience: Patience,
) -> Result<(), StorageError> {
    let object = place.child(name)?;
    let proven = prove_object(&object, patience).await;
    // Some buckets allow no deletes; the one object that stays there is overwritten next time.
    if let Err(error) = place.store.delete(&object.path).await {
        tracing::debug!(%error, "the probe's object stays");
    }
    proven
}

async fn prove_object(object: &StorageLocation, patience: Patience) -> Result<(), StorageError> {
    let none = |reason: &str| StorageError::NoConditionalWrites {
        url: object.url.to_string(),
        reason: reason.to_owned(),
    };
    // Without a condition first: what fails here has nothing to do with conditions.
    overwrite(object, Bytes::from_static(TEXT), patience).await?;
    compare(object, patience).await?;
    match create(object, Bytes::from_static(OTHER), patience).await {
        Err(error) if error.kind() == StorageErrorKind::AlreadyExists => {}
        Ok(()) => return Err(none("it wrote over an object that it was to create")),
        // The same bytes were taken a moment ago, by the same key, without the condition.
        Err(StorageError::Rejected { reason, .. }) => return Err(none(&reason)),
        Err(error) => return Err(error),
    }
    // A refusal that wrote nevertheless does not count.
    compare(object, patience).await?;
    if object.store.delete(&object.path).await.is_err() {
        return Ok(());
    }
    // A store that refuses every condition, whatever is there, would never take a manifest.
    match create(object, Bytes::from_static(TEXT), patience).await {
        Err(error) if error.kind() == StorageErrorKind::AlreadyExists => {
            // A lost answer is asked for again, and finds our own object.
            let own = compare(object, patience).await;
            own.map_err(|_| none("it refuses to create an object that is not there"))
        }
        done => done,
    }
}

async fn compare(object: &StorageLocation, patience: Patience) -> Result<(), StorageError> {
    let found = read(object, 1 << 10, patience).await?;
    if found.as_deref() == Some(TEXT) {
        return Ok(());
    }
    Err(StorageError::Corrupted {
        url: object.url.to_string(),
        expected: "what was written there".to_owned(),
        found: if found.is_some() { "something else" } else { "nothing" }.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use futures::TryStreamExt;
    use object_store::{ObjectStore, memory::InMemory};
    use tokio::{
        io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
        net::TcpListener,
    };

    use super::*;
    use crate::storage::{
        StorageSettings, Storages,
        testing::{Conditions, Flaky},
    };

    const PATIENCE: Patience = Patience { attempts: 1, first_wait: Duration::ZERO };

    fn place(conditions: Conditions) -> (StorageLocation, Arc<Flaky>) {
        let store = Flaky::over(Arc::new(InMemory::new()));
        store.treat_conditions(conditions);
        let storages = Storages::new(StorageSettings::default());
        storages.mount("memory://proof", store.clone(), None).unwrap();
        (storages.open("memory://proof/results").unwrap(), store)
    }

    #[tokio::test]
    async fn a_store_with_conditions_is_proven_and_left_as_it_was() {
        let (place, store) = place(Conditions::Heeded);
        for _ in 0..2 {
            prove(&place, ".one.probe", PATIENCE).await.unwrap();
            let left: Vec<_> = store.list(None).try_collect().await.unwrap();
            assert!(left.is_empty(), "{left:?}");
        }
    }

    #[tokio::test]
    async fn a_store_without_conditions_is_named_with_the_remedy() {
        for (conditions, said) in [
            (Conditions::Ignored, "wrote over"),
            (Conditions::NotImplemented, "501 NotImplemented"),
            (Conditions::AlwaysRefused, "refuses to create"),
        ] {
            let (place, store) = place(conditions);
            let error = prove(&place, ".one.probe", PATIENCE).await.unwrap_err();
            assert_eq!(error.kind(), StorageErrorKind::Denied, "{error}");
            let text = error.to_string();
            assert!(text.contains(said) && text.contains("If-None-Match"), "{text}");
            assert!(!text.contains("part_bytes"), "{text}");
            let left: Vec<_> = store.list(None).try_collect().await.unwrap();
            assert!(left.is_empty(), "{left:?}");
        }
    }

    #[tokio::test]
    async fn a_folder_is_proven() {
        let folder = tempfile::tempdir().unwrap();
        let url = url::Url::from_directory_path(folder.path()).unwrap();
        let place = Storages::new(StorageSettings::default()).open(url.as_str()).unwrap();
        prove(&place, ".one.probe", PATIENCE).await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// Answers 501 to every request with a condition and takes all others, as over the wire.
    async fn server_without_conditions() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(answer(BufReader::new(socket)));
            }
        });
        format!("http://{address}")
    }

    async fn answer(mut socket: BufReader<tokio::net::TcpStream>) {
        let (mut first, mut length, mut condition) = (String::new(), 0, false);
        loop {
            let mut line = String::new();
            if socket.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            let lower = line.trim().to_lowercase();
            if first.is_empty() {
                first = lower;
                continue;
            }
            if let Some(bytes) = lower.strip_prefix("content-length:") {
                length = bytes.trim().parse().unwrap();
            }
            condition |= lower.starts_with("if-none-match:");
            if !lower.is_empty() {
                continue;
            }
            let mut body = vec![0; length];
            socket.read_exact(&mut body).await.unwrap();
            let (status, body) = if condition {
                ("501 Not Implemented", "<Error><Code>NotImplemented</Code></Error>".as_bytes())
            } else if first.starts_with("get") {
                ("200 OK", TEXT)
            } else if first.starts_with("post") {
                ("200 OK", "<DeleteResult></DeleteResult>".as_bytes())
            } else {
                ("200 OK", "".as_bytes())
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nETag: \"e\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 \
                 GMT\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            socket.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
            (first, length, condition) = (String::new(), 0, false);
        }
    }

    #[tokio::test]
    async fn an_answer_of_501_over_the_wire_is_no_matter_of_parts() {
        let storages = Storages::new(StorageSettings {
            endpoint: Some(server_without_conditions().await),
            region: Some("here".to_owned()),
            allow_http: true,
            access_key_id: Some("name".to_owned()),
            secret_access_key: Some("secret".to_owned()),
            ..StorageSettings::default()
        });
        let place = storages.open("s3://bucket/results").unwrap();
        let error = prove(&place, ".one.probe", PATIENCE).await.unwrap_err();
        assert!(matches!(error, StorageError::NoConditionalWrites { .. }), "{error}");
        let manifest = place.child("manifest.json").unwrap();
        let error = create(&manifest, Bytes::from_static(b"{}"), PATIENCE).await.unwrap_err();
        assert!(matches!(error, StorageError::NoConditionalWrites { .. }), "{error}");
    }
}
