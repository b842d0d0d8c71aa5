//! What only this store has: plans, versions, damage.

mod growth;

use std::{fs, path::Path};

use sqlx::{Row, SqlitePool};

use super::{SqliteStore, list, rows};
use crate::jobs::{
    JobId, JobStore, ListQuery, Principal, ScoresJson, StateName, StoreError, StoreResult,
    StoreSettings,
};

async fn open(path: &Path) -> StoreResult<SqliteStore> {
    SqliteStore::open(path, StoreSettings::default()).await
}

async fn plan(pool: &SqlitePool, sql: &str) -> String {
    let sql = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
    let steps = sqlx::query(sql).fetch_all(pool).await.unwrap();
    steps.iter().map(|row| row.get::<String, _>("detail")).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn every_frequent_query_walks_an_index() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("jobs.db")).await.unwrap();
    for (sql, index, sorts) in [
        // Sorted are the principals, or what waits: never all jobs.
        (rows::NEXT_IN_TURN, "jobs_by_turn", true),
        (rows::AHEAD_IN_TURN, "jobs_by_turn", false),
        (rows::ALL_AHEAD_IN_TURN, "jobs_by_turn", true),
        (rows::PAST_DEADLINE, "jobs_by_deadline", false),
        (rows::PAST_LEASE, "jobs_by_lease", false),
        (rows::HELD_BY, "jobs_by_lease", false),
    ] {
        let plan = plan(&store.writer, sql).await;
        assert!(plan.contains(index), "{sql}\n{plan}");
        assert_eq!(plan.contains("TEMP B-TREE"), sorts, "{sql}\n{plan}");
        let walks_table =
            plan.lines().any(|line| line.starts_with("SCAN jobs") && !line.contains("USING"));
        assert!(!walks_table, "{sql}\n{plan}");
    }
}

#[tokio::test]
async fn every_list_walks_an_index_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("jobs.db")).await.unwrap();
    let all = ListQuery { limit: 50, ..ListQuery::default() };
    let own = ListQuery { principal: Some(Principal("ada".to_owned())), ..all.clone() };
    let label = [("team".to_owned(), "x".to_owned())].into();
    for (query, index) in [
        (all.clone(), "sqlite_autoindex_jobs_1"),
        (own.clone(), "jobs_by_principal"),
        (ListQuery { states: vec![StateName::Running], ..all }, "jobs_by_state"),
        (
            ListQuery { states: vec![StateName::Running, StateName::Queued], ..own.clone() },
            "jobs_by_principal_and_state",
        ),
        (
            ListQuery { kind: Some("unlearn".to_owned()), ..own.clone() },
            "jobs_by_principal_and_kind",
        ),
        (
            ListQuery { base_model: Some("a".to_owned()), ..own.clone() },
            "jobs_by_principal_and_model",
        ),
        (ListQuery { labels: label, ..own }, "SEARCH walked USING PRIMARY KEY"),
    ] {
        let before = Some(JobId(uuid::Uuid::from_u128(9)));
        for query in [query.clone(), ListQuery { before, ..query }] {
            let sql = list::statement(&query).sql().as_str().to_owned();
            let plan = plan(&store.writer, &sql).await;
            assert!(plan.contains(index), "{sql}\n{plan}");
        }
    }
}

/// As where the disk is full: SQLite ended the transaction, and the driver does not know.
#[tokio::test]
async fn a_transaction_that_sqlite_ended_itself_is_no_end_of_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("jobs.db")).await.unwrap();
    let mut transaction = store.begin().await.unwrap();
    sqlx::raw_sql("ROLLBACK").execute(&mut *transaction).await.unwrap();
    assert!(transaction.commit().await.is_err());
    store.sweep(None).await.unwrap();
    store.probe().await.unwrap();
    let ada = Principal("ada".to_owned());
    let scores = store.put_scores(&ada, ScoresJson { digest: "digest", json: "{}" }, 99).await;
    assert!(scores.is_ok(), "{scores:?}");
}

#[tokio::test]
async fn a_newer_or_a_foreign_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let store = open(&path).await.unwrap();
    sqlx::raw_sql("PRAGMA user_version = 7").execute(&store.writer).await.unwrap();
    store.close().await;
    assert!(matches!(store.probe().await, Err(StoreError::Backend(_))));
    let error = open(&path).await.unwrap_err().to_string();
    assert!(error.contains("version 7") && error.contains("jobs.db"), "{error}");

    let foreign = folder.path().join("foreign.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&foreign);
    let pool = SqlitePool::connect_with(options.create_if_missing(true)).await.unwrap();
    sqlx::raw_sql("CREATE TABLE theirs (a)").execute(&pool).await.unwrap();
    pool.close().await;
    let error = open(&foreign).await.unwrap_err().to_string();
    assert!(error.contains("another program's"), "{error}");

    let error = open(&folder.path().join("no/such/folder/jobs.db")).await.unwrap_err();
    assert!(matches!(error, StoreError::Backend(_)), "{error}");
}

#[tokio::test]
async fn a_damaged_row_is_an_error_that_names_the_column() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("jobs.db")).await.unwrap();
    let id = "00000000-0000-0000-0000-000000000001";
    for (column, value) in [
        ("summary", "'{\"kind\":'"),
        ("state", "'asleep'"),
        ("state", "'succeeded'"),
        ("fence", "-1"),
        ("attempt", "99999999999"),
        ("request_id", "'none'"),
        ("progress", "'[]'"),
    ] {
        let defaults = [
            ("summary", "'{}'"),
            ("state", "'queued'"),
            ("fence", "0"),
            ("attempt", "0"),
            ("request_id", "'00000000-0000-0000-0000-000000000002'"),
            ("progress", "NULL"),
        ];
        let value_of = |name: &str| {
            if name == column {
                return value;
            }
            defaults.iter().find(|(other, _)| *other == name).map_or("NULL", |(_, value)| value)
        };
        let sql = format!(
            "DELETE FROM jobs; INSERT INTO jobs (id, principal, request_id, request_digest, \
             work_digest, kind, base_model, priority, state, attempt, max_attempts, fence, \
             cancel_requested, last_sequence, created_at, updated_at, progress) VALUES \
             ('{id}', 'a', {}, '', '', 'unlearn', 'm', 0, {}, {}, 1, {}, 0, 1, 0, 0, {}); \
             INSERT INTO summaries VALUES ('{id}', {}, '{{\"labels\":{{}},\"priority\":0}}');",
            value_of("request_id"),
            value_of("state"),
            value_of("attempt"),
            value_of("fence"),
            value_of("progress"),
            value_of("summary"),
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&store.writer).await.unwrap();
        let error = store.get(id.parse().unwrap()).await.unwrap_err();
        assert!(matches!(error, StoreError::Backend(_)), "{column}: {error}");
        assert!(error.to_string().contains("damaged"), "{column}: {error}");
        let query = ListQuery { limit: 9, ..ListQuery::default() };
        assert!(matches!(store.list(&query).await, Err(StoreError::Backend(_))), "{column}");
    }
}

#[tokio::test]
async fn a_torn_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    fs::write(&path, "this is no database, and long enough to be read as one".repeat(200)).unwrap();
    assert!(matches!(open(&path).await, Err(StoreError::Backend(_))));

    // Every page but the first overwritten, at every eighth of the file's length.
    let whole = folder.path().join("whole.db");
    open(&whole).await.unwrap().close().await;
    let bytes = fs::read(&whole).unwrap();
    for eighth in 1..8 {
        let torn = folder.path().join(format!("torn-{eighth}.db"));
        let from = (bytes.len() * eighth / 8).max(4_096);
        let mut damaged = bytes.clone();
        damaged[from..].fill(0xA5);
        fs::write(&torn, &damaged[..]).unwrap();
        let Ok(store) = open(&torn).await else { continue };
        let results = [
            store.counts().await.map(drop),
            store.probe().await,
            store.sweep(None).await.map(drop),
            store.queue_positions(&[JobId(uuid::Uuid::from_u128(1))]).await.map(drop),
            store
                .put_scores(
                    &Principal("ada".to_owned()),
                    ScoresJson { digest: "digest", json: "{}" },
                    99,
                )
                .await,
            store.list(&ListQuery::default()).await.map(drop),
        ];
        assert!(
            results.iter().flatten().count() < results.len(),
            "nothing noticed the damage from byte {from} on"
        );
        for error in results.into_iter().filter_map(Result::err) {
            assert!(matches!(error, StoreError::Backend(_)), "{error}");
        }
    }
}

/// A worker that starts beside another must find the file that the other is making.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_open_a_new_file_at_once() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobs.db");
        let opening = (0..8).map(|_| {
            let path = path.clone();
            tokio::spawn(async move { open(&path).await.map(drop) })
        });
        for opened in futures::future::join_all(opening).await {
            opened.unwrap().unwrap();
        }
    }
}
