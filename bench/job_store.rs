//! How long the embedded job store takes with ten thousand jobs waiting, as a Markdown table:
//!
//! ```sh
//! cargo run --release --locked --example job_store
//! ```

#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]
#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::{
    error::Error,
    time::{Duration, Instant},
};

use clap::Parser;
use keystep::{
    jobs::{
        Evaluation, JobOptions, JobStore, JobSummary, ListQuery, NewJob, Principal, QueueLimits,
        RequestId, SqliteStore, StoreSettings, UnlearnWork, Work, WorkerId,
    },
    spec::{Concept, ConceptKind, MethodName, OutputFormat, UnlearnSpec},
};

#[derive(Debug, Parser)]
struct Options {
    /// Jobs that wait.
    #[arg(long, default_value_t = 10_000)]
    jobs: u128,
    /// Calls of each kind that are timed once they wait.
    #[arg(long, default_value_t = 500)]
    calls: u128,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let folder = tempfile::tempdir()?;
    let store = SqliteStore::open(&folder.path().join("jobs.db"), StoreSettings::default()).await?;
    let limits = QueueLimits { total: u64::MAX, of_principal: u64::MAX, stored_bytes: u64::MAX };
    println!("| call, {} jobs waiting | median ms | 99 % ms | most ms |", options.jobs);
    println!("| --- | --- | --- | --- |");

    let mut times = Vec::new();
    for number in 0..options.jobs {
        let request = request(number);
        times.push(timed(store.insert(request, limits)).await?.1);
    }
    print("insert, while the queue fills", times.split_off(times.len().saturating_sub(1_000)));

    let own = ListQuery { principal: Some(principal(1)), limit: 100, ..ListQuery::default() };
    let mut jobs: Vec<JobSummary> = Vec::new();
    let mut times = Vec::new();
    let mut before = None;
    for _ in 0..options.calls {
        let (page, took) = timed(store.list(&ListQuery { before, ..own.clone() })).await?;
        // From the first page again after the last one: no call is for an empty page.
        before = page.next;
        jobs.extend(page.jobs);
        times.push(took);
    }
    print("list, a page of 100 of one principal", times);

    let mut times = Vec::new();
    for job in jobs.iter().cycle().take(usize::try_from(options.calls)?) {
        times.push(timed(store.get(job.id)).await?.1);
    }
    print("get", times);

    let mut times = Vec::new();
    for job in jobs.iter().cycle().take(usize::try_from(options.calls)?) {
        times.push(timed(store.queue_position(job.id)).await?.1);
    }
    print("queue position", times);

    let mut times = Vec::new();
    for _ in 0..options.calls {
        times.push(timed(store.counts()).await?.1);
    }
    print("counts by state", times);

    let worker = WorkerId("worker".to_owned());
    let mut times = Vec::new();
    for _ in 0..options.calls {
        times.push(timed(store.claim(&worker, Duration::from_mins(1))).await?.1);
    }
    print("claim", times);
    Ok(())
}

async fn timed<T, E>(call: impl Future<Output = Result<T, E>>) -> Result<(T, Duration), E> {
    let start = Instant::now();
    let found = call.await?;
    Ok((found, start.elapsed()))
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| {
        let index = (share * times.len().saturating_sub(1) as f64).round() as usize;
        times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    println!("| {what} | {:.2} | {:.2} | {:.2} |", at(0.5), at(0.99), at(1.0));
}

fn principal(number: u128) -> Principal {
    Principal(format!("team-{}", number % 8))
}

fn request(number: u128) -> NewJob {
    let digest = format!("{number:064x}");
    NewJob {
        principal: principal(number),
        request_id: RequestId(uuid::Uuid::from_u128(number + 1)),
        request_digest: digest.clone(),
        work_digest: digest,
        work: Work::Unlearn(Box::new(UnlearnWork {
            base_model: "emoji-canvas".to_owned(),
            base_digest: String::new(),
            spec: UnlearnSpec::new(Concept::new("cat", ConceptKind::Object), MethodName::Keystep),
            score_digest: None,
            formats: vec![OutputFormat::Unet],
            destination: "memory://".to_owned(),
            evaluation: Evaluation::WherePossible,
            evaluation_sampler: None,
        })),
        options: JobOptions {
            labels: [("team".to_owned(), format!("{}", number % 8))].into(),
            priority: i32::try_from(number % 5).unwrap_or(0),
            ..JobOptions::default()
        },
        max_attempts: 3,
    }
}
