//! Pages of jobs, newest first. Each branch of the query walks one index in the order of the page
//! and stops when the page is full, so that a page costs the same however many jobs there are.

use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::rows;
use crate::jobs::{ListQuery, Page, StateName, StoreError};

pub(super) async fn page(
    connection: &mut SqliteConnection,
    query: &ListQuery,
) -> Result<Page, StoreError> {
    let size = query.page_size() as usize;
    let found = statement(query).build().fetch_all(connection).await?;
    let more = found.len() > size;
    let jobs: Vec<_> = found.iter().take(size).map(rows::job).collect::<Result<_, _>>()?;
    let next = jobs.last().filter(|_| more).map(|job| job.id);
    Ok(Page { jobs, next })
}

/// The page and one job more, which tells whether there is a next page.
pub(super) fn statement(query: &ListQuery) -> QueryBuilder<Sqlite> {
    let mut sql =
        QueryBuilder::new("SELECT jobs.*, works.work, works.options FROM (SELECT id FROM (");
    if query.states.is_empty() {
        branch(&mut sql, query, None);
    }
    for (index, state) in query.states.iter().enumerate() {
        // A state named twice would give its jobs twice.
        if query.states[..index].contains(state) {
            continue;
        }
        if index > 0 {
            sql.push(" UNION ALL ");
        }
        branch(&mut sql, query, Some(*state));
    }
    sql.push(") ORDER BY id DESC LIMIT ").push_bind(i64::from(query.page_size()) + 1);
    sql.push(
        ") AS chosen CROSS JOIN jobs ON jobs.id = chosen.id \
         CROSS JOIN works ON works.job_id = jobs.id ORDER BY jobs.id DESC",
    );
    sql
}

/// The newest jobs of one state, or of all.
fn branch(sql: &mut QueryBuilder<Sqlite>, query: &ListQuery, state: Option<StateName>) {
    // The column that is walked: of the labels where one is asked for, as it chooses most.
    let mut labels = query.labels.iter();
    let walked = if let Some((name, value)) = labels.next() {
        sql.push(
            "SELECT * FROM (SELECT labels.job_id AS id FROM labels \
             CROSS JOIN jobs ON jobs.id = labels.job_id WHERE labels.name = ",
        );
        sql.push_bind(name.clone()).push(" AND labels.value = ").push_bind(value.clone());
        "labels.job_id"
    } else {
        sql.push("SELECT * FROM (SELECT jobs.id AS id FROM jobs WHERE TRUE");
        "jobs.id"
    };
    for (name, value) in labels {
        sql.push(" AND EXISTS (SELECT 1 FROM labels AS other WHERE other.name = ");
        sql.push_bind(name.clone()).push(" AND other.value = ").push_bind(value.clone());
        sql.push(" AND other.job_id = jobs.id)");
    }
    let columns = [
        ("principal", query.principal.as_ref().map(|principal| principal.0.clone())),
        ("state", state.map(|state| state.name().to_owned())),
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
    sql.push(format_args!(" ORDER BY {walked} DESC LIMIT "));
    sql.push_bind(i64::from(query.page_size()) + 1).push(")");
}
