//! Pages of jobs, newest first. Each branch of the query walks one index in the order of the page
//! and stops when the page is full, so that a page costs the same however many jobs there are. No
//! request is read for it, however long.

use futures::TryStreamExt;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::rows;
use crate::jobs::{ListQuery, Page, StateName, StoreResult, step::PageInTheMaking};

/// What SQLite answers where the statement was stopped by its progress handler.
const INTERRUPTED: &str = "9";

/// Whether a statement was stopped because it took too long.
pub(super) fn is_interrupted(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.code().is_some_and(|code| code == INTERRUPTED))
}

/// Fails with [`sqlx::Error`] as it comes, so that the caller can tell what was interrupted.
pub(super) async fn page(
    connection: &mut SqliteConnection,
    query: &ListQuery,
) -> Result<StoreResult<Page>, sqlx::Error> {
    let mut page = PageInTheMaking::of(query);
    let mut statement = statement(query);
    let mut found = statement.build().fetch(connection);
    // Row by row, so that what is too much for one page is never in memory.
    while let Some(row) = found.try_next().await? {
        let job = match rows::job(&row) {
            Ok(job) => job,
            Err(damaged) => return Ok(Err(damaged)),
        };
        page = match page.take(job) {
            Ok(page) => page,
            Err(full) => return Ok(Ok(full)),
        };
    }
    Ok(Ok(page.finish()))
}

/// The page and one job more, which tells whether there is a next page.
pub(super) fn statement(query: &ListQuery) -> QueryBuilder<Sqlite> {
    let mut sql = QueryBuilder::new(
        "SELECT jobs.*, summaries.summary, summaries.options FROM (SELECT id FROM (",
    );
    if query.labels.is_empty() {
        branches(&mut sql, query);
    } else {
        labelled(&mut sql, query);
    }
    sql.push(") ORDER BY id DESC LIMIT ").push_bind(i64::from(query.page_size()) + 1);
    sql.push(
        ") AS chosen CROSS JOIN jobs ON jobs.id = chosen.id \
         CROSS JOIN summaries ON summaries.job_id = jobs.id ORDER BY jobs.id DESC",
    );
    sql
}

/// One branch for each state, each along an index.
fn branches(sql: &mut QueryBuilder<Sqlite>, query: &ListQuery) {
    if query.states.is_empty() {
        branch(sql, query, None);
    }
    for (index, state) in query.states.iter().enumerate() {
        // A state named twice would give its jobs twice.
        if query.states[..index].contains(state) {
            continue;
        }
        if index > 0 {
            sql.push(" UNION ALL ");
        }
        branch(sql, query, Some(*state));
    }
}

/// The newest jobs of one state, or of all.
fn branch(sql: &mut QueryBuilder<Sqlite>, query: &ListQuery, state: Option<StateName>) {
    sql.push("SELECT * FROM (SELECT jobs.id AS id FROM jobs WHERE TRUE");
    narrow(sql, query, "jobs.id");
    if let Some(state) = state {
        sql.push(" AND jobs.state = ").push_bind(state.name());
    }
    sql.push(" ORDER BY jobs.id DESC LIMIT ");
    sql.push_bind(i64::from(query.page_size()) + 1).push(")");
}

/// The newest jobs with the labels. The first label is walked, as it chooses most; of each job that
/// has it the others are counted, in one look at the job's own labels.
fn labelled(sql: &mut QueryBuilder<Sqlite>, query: &ListQuery) {
    let mut labels = query.labels.iter();
    let Some((name, value)) = labels.next() else { return };
    sql.push(
        "SELECT walked.job_id AS id FROM labels AS walked \
         CROSS JOIN jobs ON jobs.id = walked.job_id WHERE walked.name = ",
    );
    sql.push_bind(name.clone()).push(" AND walked.value = ").push_bind(value.clone());
    narrow(sql, query, "walked.job_id");
    for (index, state) in query.states.iter().enumerate() {
        sql.push(if index == 0 { " AND jobs.state IN (" } else { ", " }).push_bind(state.name());
    }
    if !query.states.is_empty() {
        sql.push(")");
    }
    let others = i64::try_from(labels.len()).unwrap_or(i64::MAX);
    for (index, (name, value)) in labels.enumerate() {
        sql.push(if index == 0 {
            " AND (SELECT COUNT(*) FROM labels AS other INDEXED BY labels_by_job \
             WHERE other.job_id = walked.job_id AND (other.name, other.value) IN (VALUES ("
        } else {
            "), ("
        });
        sql.push_bind(name.clone()).push(", ").push_bind(value.clone());
    }
    if others > 0 {
        sql.push("))) = ").push_bind(others);
    }
    sql.push(" ORDER BY walked.job_id DESC LIMIT ");
    sql.push_bind(i64::from(query.page_size()) + 1);
}

/// What a query asks of every job; `walked` is the column whose order is the page's.
fn narrow(sql: &mut QueryBuilder<Sqlite>, query: &ListQuery, walked: &str) {
    let columns = [
        ("principal", query.principal.as_ref().map(|principal| principal.0.clone())),
        ("kind", query.kind.clone()),
        ("base_model", query.base_model.clone()),
    ];
    for (column, value) in columns {
        if let Some(value) = value {
            sql.push(format_args!(" AND jobs.{column} = ")).push_bind(value);
        }
    }
    if let Some(before) = query.before {
        sql.push(format_args!(" AND {walked} < ")).push_bind(before.to_string());
    }
}
