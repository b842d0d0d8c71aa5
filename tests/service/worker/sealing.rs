//! Results that are signed: once each, whatever happens to their publication.

use std::sync::atomic::AtomicUsize;

use keystep::{
    jobs::Failure,
    provenance::SealedFile,
    worker::{ResultSealer, SealRequest},
};

use super::*;

const SEAL: &str = "provenance.intoto.jsonl";

/// Signs differently each time, as a sealer with a clock would.
#[derive(Debug, Default)]
struct CountingSealer(AtomicUsize);

impl ResultSealer for CountingSealer {
    fn seal(&self, request: &SealRequest<'_>) -> Result<Vec<SealedFile>, Failure> {
        let times = self.0.fetch_add(1, Ordering::SeqCst);
        assert!(!request.result.files.is_empty());
        let bytes = format!("{} {times}", request.job).into_bytes();
        Ok(vec![SealedFile { name: SEAL, bytes }])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_is_sealed_once_however_often_it_is_published() {
    let place = Arc::new(tempfile::tempdir().unwrap());
    let store = Arc::new(MemoryStore::new(StoreSettings::default()));
    let sealer = Arc::new(CountingSealer::default());
    let quick = script(3, Duration::ZERO);
    let at = (place.clone(), store.clone());
    let slow = Duration::from_millis(400);
    let bench = Bench::start_sealing(&quick, slow, at, sealer.clone());
    let id = bench.insert(1).await;
    bench.wait_state(id, StateName::Publishing).await;
    bench.signals.stop_publishing.cancel();
    bench.drain().await;
    assert!(!bench.published(id).contains_key("manifest.json"));

    let next = Bench::start_sealing(&quick, Duration::ZERO, (place, store), sealer.clone());
    let published = &unlearned(&next.finish(id).await).published.clone();
    assert!(published.files.iter().any(|file| file.name.ends_with(SEAL)), "{published:?}");
    let bytes = &next.published(id)[format!("files/{SEAL}").as_str()];
    assert_eq!(*bytes, format!("{id} 0").into_bytes());
    assert_eq!(sealer.0.load(Ordering::SeqCst), 1);
    next.drain().await;
}
