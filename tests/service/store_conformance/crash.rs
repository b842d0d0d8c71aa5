//! What was answered survives: a closed file, a store that is dropped at work, a process that is
//! killed.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use keystep::jobs::{
    JobId, JobStore, ListQuery, ScoresJson, Sequence, SqliteStore, StateName, Store, StoreSettings,
    Transition,
};

use super::world::{LEASE, NO_LIMITS, World, ada, progress, request, worker};

/// Tells the child where to write.
const CHILD_FILE: &str = "STORE_CONFORMANCE_CHILD_FILE";

#[tokio::test]
async fn jobs_outlive_their_process() {
    for close in [true, false] {
        let world = World::sqlite().await;
        let done = world.job_in(1, StateName::Succeeded).await;
        let held = world.job_in(2, StateName::Running).await;
        let waits = world.submit(request(3)).await;
        let scores = ScoresJson { digest: "digest", json: "{}" };
        world.store.put_scores(&ada(), scores, u64::MAX).await.unwrap();
        let logs = [world.log(done.id).await, world.log(held.id).await];

        let world = world.reopen(close).await;
        assert_eq!(world.job(done.id).await, done);
        assert_eq!(world.job(held.id).await, held);
        assert_eq!(world.job(waits.id).await, waits);
        assert_eq!([world.log(done.id).await, world.log(held.id).await], logs);
        assert!(world.store.get_scores(&ada(), "digest").await.unwrap().is_some());
        let counts = world.store.counts().await.unwrap();
        assert_eq!(counts[&StateName::Queued], 1);
        // The holder is the same process as before, as far as its fence tells.
        world.record(&held, Transition::EngineDone).await;
        world.wait(LEASE);
        assert_eq!(world.store.sweep(None).await.unwrap().expired_leases, [held.id]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_dropped_at_work_leaves_whole_jobs() {
    for round in 0..10_u64 {
        let world = World::sqlite().await;
        let id = world.submit(request(1)).await.id;
        let job = world.claim().await.unwrap();
        {
            // Futures that are dropped between two of their steps, as when a client goes away.
            let writes = async {
                for done in 0..1_000 {
                    let _ = world.store.record(id, job.fence, progress(done, 0.5)).await;
                }
            };
            let limit = std::time::Duration::from_micros(300 + 700 * round);
            let _ = tokio::time::timeout(limit, writes).await;
        }
        world.store.record(id, job.fence, progress(1, 0.5)).await.unwrap();
        world.check_log(id).await;
        let world = world.reopen(false).await;
        world.check_log(id).await;
        world.store.record(id, job.fence, progress(2, 0.5)).await.unwrap();
    }
}

/// Not a test of its own: what [`what_was_answered_survives_a_kill`] starts and kills.
#[tokio::test]
async fn writes_until_it_is_killed() {
    let Ok(path) = std::env::var(CHILD_FILE) else { return };
    let settings = StoreSettings::default();
    let store: Store = SqliteStore::open(Path::new(&path), settings).await.unwrap().into();
    for number in 0.. {
        store.insert(request(number), NO_LIMITS).await.unwrap();
        let job = store.claim(&worker("child"), LEASE).await.unwrap().unwrap();
        for done in 0..3 {
            let job = store.record(job.id, job.fence, progress(done, 0.5)).await.unwrap();
            println!("answered {} {}", job.id, job.last_sequence.0);
        }
    }
}

#[tokio::test]
async fn what_was_answered_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    for lines in [1, 2, 3, 5, 8, 13, 21, 34] {
        let _ = std::fs::remove_file(&path);
        for tail in ["db-wal", "db-shm"] {
            let _ = std::fs::remove_file(path.with_extension(tail));
        }
        let answered = run_and_kill(&path, lines);
        let store = SqliteStore::open(&path, StoreSettings::default()).await.unwrap();
        store.probe().await.unwrap();
        for (id, sequence) in answered {
            let events = store.events_after(id, Sequence(0), 100).await.unwrap();
            assert!(events.len() as u64 >= sequence, "{id} lost what was answered");
        }
        let query = ListQuery { limit: 1_000, ..ListQuery::default() };
        let jobs = store.list(&query).await.unwrap().jobs;
        for job in &jobs {
            let events = store.events_after(job.id, Sequence(0), 100).await.unwrap();
            let sequences: Vec<_> = events.iter().map(|event| event.sequence.0).collect();
            assert_eq!(sequences, (1..=job.last_sequence.0).collect::<Vec<_>>());
        }
        let counted: u64 = store.counts().await.unwrap().values().sum();
        assert_eq!(counted, jobs.len() as u64);
        store.close().await;
    }
}

/// The answers that the child got before it was killed in the middle of its work.
fn run_and_kill(path: &Path, lines: usize) -> Vec<(JobId, u64)> {
    // Tests are called by their path within the binary.
    let (_, module) = module_path!().split_once("::").unwrap();
    let test = format!("{module}::writes_until_it_is_killed");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &test, "--nocapture"])
        .env(CHILD_FILE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let answers = output.lines().map_while(Result::ok).filter_map(|line| {
        let (_, answer) = line.split_once("answered ")?;
        let (id, sequence) = answer.split_once(' ')?;
        Some((id.parse().unwrap(), sequence.parse().unwrap()))
    });
    let answers = answers.take(lines).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    answers
}
