//! What long requests, many labels and long lives cost, and what an older program left.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use sqlx::SqlitePool;
use uuid::Uuid;

use super::super::{SqliteStore, list};
use crate::{
    jobs::{
        Clock, Evaluation, Identifiers, Inserted, JobOptions, JobStore, JobSummary, ListQuery,
        NewJob, Principal, QueueLimits, RequestId, StateName, StoreError, StoreSettings,
        UnlearnWork, Work, WorkSummary,
    },
    spec::{Concept, ConceptKind, MethodName, OutputFormat, UnlearnSpec},
};

const NO_LIMITS: QueueLimits =
    QueueLimits { total: u64::MAX, of_principal: u64::MAX, stored_bytes: u64::MAX };
const MEBIBYTE: usize = 1 << 20;

fn work(bytes: usize) -> Work {
    Work::Unlearn(Box::new(UnlearnWork {
        base_model: "canvas".to_owned(),
        base_digest: "base".to_owned(),
        spec: UnlearnSpec {
            preserve: vec!["a".repeat(bytes)],
            seed: u64::MAX,
            ..UnlearnSpec::new(Concept::new("cat", ConceptKind::Object), MethodName::Keystep)
        },
        score_digest: None,
        formats: vec![OutputFormat::Delta],
        destination: "file:///out".to_owned(),
        evaluation: Evaluation::Skipped,
        evaluation_sampler: None,
    }))
}

fn ada() -> Principal {
    Principal("ada".to_owned())
}

async fn insert(store: &SqliteStore, bytes: usize, labels: BTreeMap<String, String>) -> JobSummary {
    let new = NewJob {
        principal: ada(),
        request_id: RequestId(Uuid::new_v4()),
        request_digest: "request".to_owned(),
        work_digest: "work".to_owned(),
        work: work(bytes),
        options: JobOptions { labels, ..JobOptions::default() },
        max_attempts: 3,
    };
    match store.insert(new, NO_LIMITS).await.unwrap() {
        Inserted::Created(job) => *job,
        Inserted::Existing(job) => panic!("{} was there before", job.id),
    }
}

async fn opened(path: &Path, settings: StoreSettings) -> SqliteStore {
    SqliteStore::open(path, settings).await.unwrap()
}

fn all() -> ListQuery {
    ListQuery { limit: 1_000, ..ListQuery::default() }
}

#[tokio::test]
async fn lists_and_lives_read_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(&folder.path().join("jobs.db"), StoreSettings::default()).await;
    let mut jobs = Vec::new();
    for _ in 0..30 {
        jobs.insert(0, insert(&store, MEBIBYTE, BTreeMap::new()).await);
    }
    let worker = crate::jobs::WorkerId("w".to_owned());
    let held = store.claim(&worker, Duration::from_mins(1)).await.unwrap().unwrap();
    assert!(serde_json::to_vec(&held.work).unwrap().len() > MEBIBYTE);
    // A query that still read the works would fail from here on.
    sqlx::raw_sql("ALTER TABLE works RENAME TO hidden").execute(&store.writer).await.unwrap();
    let page = store.list(&all()).await.unwrap();
    let bytes = serde_json::to_vec(&page.jobs).unwrap().len();
    assert!(bytes < 30 * 1_000, "a list of 30 jobs takes {bytes} bytes");
    assert_eq!(page.jobs[..29], jobs[..29]);
    let id = held.id;
    assert_eq!(store.get(id).await.unwrap().unwrap().work, jobs[29].work);
    store.extend(id, held.fence, Duration::from_mins(1)).await.unwrap();
    store.request_cancel(id).await.unwrap();
    store.queue_positions(&[id]).await.unwrap();
    store.sweep(None).await.unwrap();
    assert!(store.find_request(&ada(), held.request_id).await.unwrap().is_some());
    assert!(store.get_whole(id).await.is_err(), "the work alone is hidden");
}

#[tokio::test]
async fn the_labels_of_a_filter_are_looked_up_once() {
    for states in 0..=StateName::ALL.len() {
        for count in [1, 2, 64] {
            let labels = (0..count).map(|index| (format!("a{index}"), "b".to_owned()));
            let query = ListQuery {
                labels: labels.collect(),
                states: StateName::ALL[..states].to_vec(),
                ..all()
            };
            let sql = list::statement(&query).sql().as_str().to_owned();
            let looks = sql.matches("FROM labels").count();
            assert!(looks <= 2, "{looks} looks for {count} labels in {states} states");
        }
    }
}

#[tokio::test]
async fn a_list_that_takes_too_long_is_the_querys_fault_and_nobody_elses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let store = opened(&path, StoreSettings::default()).await;
    let labels: BTreeMap<_, _> = (0..64).map(|n| (format!("a{n}"), "b".to_owned())).collect();
    for _ in 0..100 {
        insert(&store, 10, labels.clone()).await;
    }
    let query = ListQuery { labels, ..all() };
    assert_eq!(store.list(&query).await.unwrap().jobs.len(), 100);
    store.close().await;

    let settings = StoreSettings { query_limit: Duration::ZERO, ..StoreSettings::default() };
    let store = opened(&path, settings).await;
    // More often than there are readers: each is of use again afterwards.
    for _ in 0..6 {
        match store.list(&query).await {
            Err(error @ StoreError::QueryTooLong { limit: Duration::ZERO }) => {
                assert!(error.to_string().contains("fewer labels"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    let one = ListQuery { limit: 1, ..ListQuery::default() };
    assert_eq!(store.list(&one).await.unwrap().jobs.len(), 1, "a short list is no long one");
    store.probe().await.unwrap();
}

#[tokio::test]
async fn readiness_waits_for_no_ones_lists_and_calls() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(&folder.path().join("jobs.db"), StoreSettings::default()).await;
    let mut taken = Vec::new();
    for pool in [&store.readers, &store.listers] {
        for _ in 0..pool.options().get_max_connections() {
            taken.push(pool.acquire().await.unwrap());
        }
    }
    tokio::time::timeout(Duration::from_secs(5), store.probe()).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_older_store_is_filled_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let pool = SqlitePool::connect_with(options.create_if_missing(true)).await.unwrap();
    sqlx::raw_sql(include_str!("../../schema.sql")).execute(&pool).await.unwrap();
    let works = [serde_json::to_string(&work(5_000)).unwrap(), "{\"kind\":".to_owned()];
    for (index, work) in works.iter().enumerate() {
        let id = Uuid::from_u128(index as u128 + 1).to_string();
        sqlx::query(
            "INSERT INTO jobs (id, principal, request_id, request_digest, work_digest, kind, \
             base_model, priority, state, attempt, max_attempts, fence, cancel_requested, \
             last_sequence, created_at, updated_at) \
             VALUES (?, 'ada', ?, '', '', 'unlearn', 'canvas', 0, 'queued', 2, 3, 2, 0, 1, 0, 0)",
        )
        .bind(&id)
        .bind(&id)
        .execute(&pool)
        .await
        .unwrap();
        let options = "{\"labels\":{\"team\":\"x\"},\"priority\":0}";
        sqlx::query("INSERT INTO works VALUES (?, ?, ?)")
            .bind(&id)
            .bind(work)
            .bind(options)
            .execute(&pool)
            .await
            .unwrap();
        sqlx::query("INSERT INTO labels VALUES ('team', 'x', ?)")
            .bind(&id)
            .execute(&pool)
            .await
            .unwrap();
    }
    sqlx::raw_sql("INSERT INTO scores VALUES ('ada', 'digest', '{\"a\":1}', 99)")
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;

    let store = opened(&path, StoreSettings::default()).await;
    assert!(!store.is_new());
    let id = Uuid::from_u128(1).to_string().parse().unwrap();
    let job = store.get(id).await.unwrap().unwrap();
    let WorkSummary::Unlearn(summary) = &job.work else { panic!("{:?}", job.work) };
    assert_eq!((&summary.concepts, summary.seed), (&vec!["cat".to_owned()], u64::MAX));
    assert_eq!((job.attempt, job.losses, &*job.options.labels["team"]), (2, 0, "x"));
    assert_eq!(store.get_whole(id).await.unwrap().unwrap().work, work(5_000));
    let damaged = store.get(Uuid::from_u128(2).to_string().parse().unwrap()).await;
    assert!(damaged.unwrap_err().to_string().contains("damaged"));
    let before = Some(crate::jobs::JobId(Uuid::from_u128(2)));
    let labels = BTreeMap::from([("team".to_owned(), "x".to_owned())]);
    let query = ListQuery { labels, before, ..all() };
    assert_eq!(store.list(&query).await.unwrap().jobs, [job]);
    // What was stored before counts: of the limit, too.
    let stored: i64 = sqlx::query_scalar("SELECT bytes FROM stored WHERE principal = 'ada'")
        .fetch_one(&store.writer)
        .await
        .unwrap();
    let texts: usize = works.iter().map(String::len).sum();
    assert!(stored > i64::try_from(texts).unwrap() + 2 * 4_096, "{stored}");
    store.close().await;
    assert_eq!(opened(&path, StoreSettings::default()).await.get(id).await.unwrap(), {
        let store = opened(&path, StoreSettings::default()).await;
        store.get(id).await.unwrap()
    });
}

#[tokio::test]
async fn the_file_alone_holds_what_was_stored_a_while_ago() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let micros = Arc::new(AtomicI64::new(0));
    let settings =
        StoreSettings { clock: Clock::Manual(micros.clone()), ..StoreSettings::default() };
    let store = opened(&path, settings.clone()).await;
    assert!(store.is_new());
    let alone = async |name: &str| {
        let copy = folder.path().join(name);
        fs::copy(&path, &copy).unwrap();
        opened(&copy, settings.clone()).await
    };
    assert!(!alone("schema").await.is_new(), "the schema stood in the log alone");
    let id = insert(&store, 10, BTreeMap::new()).await.id;
    store.sweep(None).await.unwrap();
    assert_eq!(alone("at once").await.get(id).await.unwrap(), None, "this test tests nothing");
    micros.fetch_add(60_000_000, std::sync::atomic::Ordering::SeqCst);
    store.sweep(None).await.unwrap();
    assert!(alone("later").await.get(id).await.unwrap().is_some());
}

#[tokio::test]
async fn a_new_name_is_never_older_than_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let store = opened(&path, StoreSettings::default()).await;
    let mut last = insert(&store, 10, BTreeMap::new()).await.id;
    store.close().await;
    // These names are those of a clock that was set back to 1970.
    let identifiers = Identifiers::Counted(Arc::default());
    let store = opened(&path, StoreSettings { identifiers, ..StoreSettings::default() }).await;
    for _ in 0..3 {
        let next = insert(&store, 10, BTreeMap::new()).await.id;
        assert!(next > last, "{next} after {last}");
        last = next;
    }
    let order = store.queue_position(last).await.unwrap();
    assert_eq!(order, 3, "who came last stands last");
}
