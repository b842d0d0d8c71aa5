//! Processes that are killed: whatever the moment, no job is lost, none is done twice, none is half
//! published, and the bytes are those of a run that nobody disturbed.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]
#![allow(unreachable_pub, reason = "a test has no public interface")]

mod child;
mod world;

use std::{collections::BTreeMap, time::Duration};

use keystep::jobs::{Fence, JobStore, StateName};
use tokio::process::Child;
use world::World;

/// Kills of the whole suite with the made-up engine.
const KILLS: u64 = 40;
/// Jobs that these are spread over.
const JOBS: u64 = 8;
const MILLISECOND: Duration = Duration::from_millis(1);

/// A number that follows from a seed, evenly spread (`SplitMix64`).
fn drawn(seed: u64, below: u64) -> u64 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z ^ (z >> 31)) % below
}

async fn kill(mut child: Child) {
    child.kill().await.unwrap();
}

fn signal(child: &Child, name: &str) {
    let id = child.id().unwrap().to_string();
    let sent = std::process::Command::new("kill").args([name, &id]).status();
    assert!(sent.unwrap().success());
}

/// Stops a process, but not within a write: the others would wait for it to go on, and give up.
async fn stop_between_writes(child: &Child, world: &World) {
    signal(child, "-STOP");
    while !world.can_be_written().await {
        signal(child, "-CONT");
        tokio::time::sleep(MILLISECOND).await;
        signal(child, "-STOP");
    }
}

async fn terminate(mut child: Child) {
    signal(&child, "-TERM");
    assert!(child.wait().await.unwrap().success());
}

/// Waits for a held job to be in a state; `None` where there is nothing left to hold.
async fn wait_for(world: &World, state: StateName) -> Option<()> {
    for _ in 0..20_000 {
        match world.held().await {
            Some(job) if job.state.name() == state => return Some(()),
            _ => {}
        }
        if world.jobs().await.iter().all(|job| job.state.name().is_terminal()) {
            return None;
        }
        tokio::time::sleep(MILLISECOND).await;
    }
    panic!("no job was ever {state:?}");
}

/// What undisturbed runs come to, by seed.
async fn undisturbed(seeds: u64, real: bool) -> Vec<BTreeMap<String, Vec<u8>>> {
    let world = World::new(real).await;
    let mut ids = Vec::new();
    for seed in 0..seeds {
        ids.push(world.submit(seed).await);
    }
    let child = world.spawn();
    world.settle().await;
    kill(child).await;
    let mut results = Vec::new();
    for id in ids {
        let job = world.job(id).await;
        assert_eq!(job.state.name(), StateName::Succeeded, "{:?}", job.state);
        results.push(world.check(id).await);
    }
    results
}

/// The files that equal work makes equal: all but those that name the job.
fn assert_same(found: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>, of: &str) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{of}");
    for (name, bytes) in found {
        assert!(*bytes == expected[name], "{of}: {name} has other bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_moment_of_a_kill_nothing_is_lost_doubled_or_half_published() {
    let expected = undisturbed(JOBS, false).await;
    let world = World::new(false).await;
    let mut ids = Vec::new();
    let mut killed_in: BTreeMap<StateName, u64> = BTreeMap::new();
    let mut seeds = 0;
    for round in 0..KILLS {
        // One at a time, so that the kills are spread over them all.
        if seeds < JOBS && (round % (KILLS / JOBS) == 0 || world.held().await.is_none()) {
            ids.push(world.submit(seeds).await);
            seeds += 1;
        }
        let child = world.spawn();
        let targets = [
            None,
            Some(StateName::Preparing),
            Some(StateName::Running),
            Some(StateName::Running),
            Some(StateName::Publishing),
            Some(StateName::Publishing),
        ];
        let target = targets[drawn(round, targets.len() as u64) as usize];
        let reached = match target {
            Some(state) => wait_for(&world, state).await,
            None => Some(()),
        };
        if reached.is_some() {
            tokio::time::sleep(MILLISECOND * drawn(round + 1_000, 60) as u32).await;
        }
        kill(child).await;
        let state = match world.held().await {
            Some(job) => job.state.name(),
            // Before the claim, or after the end.
            None => StateName::Queued,
        };
        *killed_in.entry(state).or_default() += 1;
    }
    while seeds < JOBS {
        ids.push(world.submit(seeds).await);
        seeds += 1;
    }
    let child = world.spawn();
    world.settle().await;
    kill(child).await;
    eprintln!("killed while the job was: {killed_in:?}");
    for state in
        [StateName::Queued, StateName::Preparing, StateName::Running, StateName::Publishing]
    {
        assert!(killed_in.contains_key(&state), "no kill hit {state:?}: {killed_in:?}");
    }
    world.check_all(&ids).await;
    for (id, expected) in ids.into_iter().zip(&expected) {
        let job = world.job(id).await;
        assert_eq!(job.state.name(), StateName::Succeeded, "{:?}", job.state);
        assert_same(&world.check(id).await, expected, &format!("{id}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_engine_ends_with_the_same_bytes_after_kills() {
    let expected = undisturbed(1, true).await;
    let world = World::new(true).await;
    let id = world.submit(0).await;
    // Before the first save, and between two.
    for updates in [3, 13] {
        let child = world.spawn();
        loop {
            let job = world.job(id).await;
            assert!(!job.state.name().is_terminal(), "{:?}", job.state);
            let done = job.progress.map_or(0, |progress| progress.updates_done);
            if job.lease.is_some() && done >= updates {
                break;
            }
            tokio::time::sleep(MILLISECOND).await;
        }
        kill(child).await;
    }
    let child = world.spawn();
    world.settle().await;
    kill(child).await;
    let job = world.job(id).await;
    let seen = (job.state.name(), job.attempt, job.fence);
    assert_eq!(seen, (StateName::Succeeded, 1, Fence(3)), "what it saved is not charged: {job:?}");
    world.check_all(&[id]).await;
    assert_same(&world.check(id).await, &expected[0], "two kills");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_in_any_state_gives_the_job_back_or_ends_it_and_costs_no_attempt() {
    let expected = undisturbed(4, false).await;
    for (seed, state) in
        [StateName::Preparing, StateName::Running, StateName::Publishing].into_iter().enumerate()
    {
        let world = World::slow().await;
        let id = world.submit(seed as u64).await;
        let child = world.spawn();
        wait_for(&world, state).await.unwrap();
        terminate(child).await;
        let job = world.job(id).await;
        let wanted = match state {
            // What is left then is short: it is finished.
            StateName::Publishing => StateName::Succeeded,
            _ => StateName::Queued,
        };
        assert_eq!(job.state.name(), wanted, "drained while {state:?}");
        let child = world.spawn();
        world.settle().await;
        kill(child).await;
        assert_eq!(world.job(id).await.attempt, 1, "drained while {state:?}");
        assert_same(&world.check(id).await, &expected[seed], &format!("drained while {state:?}"));
    }
}

/// A process that the system stops for a while, or whose host does: when it goes on, another has
/// its job, and may have finished it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_lost_its_lease_while_publishing_does_no_harm() {
    let expected = undisturbed(4, false).await;
    for (seed, expected) in (0..).zip(&expected) {
        let world = World::slow().await;
        let id = world.submit(seed).await;
        let frozen = world.spawn_another("frozen");
        wait_for(&world, StateName::Publishing).await.unwrap();
        tokio::time::sleep(MILLISECOND * drawn(seed + 3_000, 40) as u32).await;
        stop_between_writes(&frozen, &world).await;
        let held = world.held().await.expect("it was published before it was stopped");
        let other = world.spawn_another("other");
        if seed % 2 == 0 {
            // Goes on while the other publishes.
            while world.job(id).await.fence == held.fence {
                tokio::time::sleep(MILLISECOND).await;
            }
            wait_for(&world, StateName::Publishing).await;
        } else {
            // Goes on when all is over.
            world.settle().await;
        }
        signal(&frozen, "-CONT");
        world.settle().await;
        // Both end what they do.
        terminate(frozen).await;
        terminate(other).await;
        let job = world.job(id).await;
        assert_eq!(job.state.name(), StateName::Succeeded, "{:?}", job.state);
        assert!(job.fence > held.fence, "nobody took it over");
        world.check_all(&[id]).await;
        assert_same(&world.check(id).await, expected, &format!("frozen with seed {seed}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_around_a_kill_leaves_no_manifest() {
    for (round, state) in
        [StateName::Preparing, StateName::Running, StateName::Publishing].into_iter().enumerate()
    {
        let world = World::slow().await;
        let id = world.submit(1).await;
        let child = world.spawn();
        wait_for(&world, state).await.unwrap();
        // Asked for, and killed before or after it was seen.
        world.store.request_cancel(id).await.unwrap();
        tokio::time::sleep(MILLISECOND * (drawn(round as u64, 20) as u32)).await;
        kill(child).await;
        let child = world.spawn();
        world.settle().await;
        kill(child).await;
        let job = world.job(id).await;
        if state != StateName::Publishing {
            assert_eq!(job.state.name(), StateName::Cancelled);
        }
        // Whichever came first, the answer and the record agree.
        world.check_all(&[id]).await;
        world.check(id).await;
    }
}
