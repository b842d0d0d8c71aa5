//! Random calls get the same answers from every store.

use std::time::Duration;

use keystep::jobs::{
    FailureReason, Fence, JobId, JobStore, JobSummary, ListQuery, Milestone, NewEvent, NewJob,
    QueueLimits, Sequence, StateName, Transition,
};
use proptest::prelude::*;
use uuid::Uuid;

use super::world::{
    LEASE, RETENTION, World, ada, bob, failed, outcome, progress, request, with_deadline,
    with_priority, worker,
};

#[derive(Debug, Clone)]
enum Call {
    Insert { number: u128, priority: i32, deadline: Option<u64>, bob: bool },
    Claim,
    Extend { job: u128, fence: u64 },
    Record { job: u128, fence: u64, event: u8 },
    Cancel { job: u128 },
    Delete { job: u128 },
    Sweep,
    Wait { seconds: u64 },
    List { states: Vec<StateName>, bob: bool, before: Option<u128>, limit: u32 },
    Saved { job: u128, fence: u64, milestone: u64 },
    Whole { job: u128 },
    Position { job: u128 },
    Counts,
    Finished { number: u128 },
}

fn call() -> impl Strategy<Value = Call> {
    let job = || 1..8_u128;
    let fence = || 0..4_u64;
    let state = prop::sample::select(StateName::ALL.to_vec());
    prop_oneof![
        4 => (0..8_u128, -1..2, prop::option::of(0..200_u64), any::<bool>()).prop_map(
            |(number, priority, deadline, bob)| Call::Insert { number, priority, deadline, bob }
        ),
        4 => Just(Call::Claim),
        1 => (job(), fence()).prop_map(|(job, fence)| Call::Extend { job, fence }),
        12 => (job(), fence(), 0..9_u8)
            .prop_map(|(job, fence, event)| Call::Record { job, fence, event }),
        1 => job().prop_map(|job| Call::Cancel { job }),
        1 => job().prop_map(|job| Call::Delete { job }),
        1 => Just(Call::Sweep),
        1 => prop::sample::select(vec![1, 30, 60, 100, RETENTION.as_secs()])
            .prop_map(|seconds| Call::Wait { seconds }),
        2 => (
            prop::collection::vec(state, 0..3),
            any::<bool>(),
            prop::option::of(job()),
            0..4_u32,
        )
            .prop_map(|(states, bob, before, limit)| Call::List { states, bob, before, limit }),
        2 => (job(), fence(), 0..4_u64)
            .prop_map(|(job, fence, milestone)| Call::Saved { job, fence, milestone }),
        1 => job().prop_map(|job| Call::Whole { job }),
        1 => job().prop_map(|job| Call::Position { job }),
        1 => Just(Call::Counts),
        1 => (0..8_u128).prop_map(|number| Call::Finished { number }),
    ]
}

fn id(number: u128) -> JobId {
    JobId(Uuid::from_u128(number))
}

fn event(choice: u8, world: &World) -> NewEvent {
    let retry_at = world.now() + Duration::from_secs(20);
    NewEvent::Transition(match choice {
        0 | 1 => Transition::Loaded,
        2 => Transition::EngineDone,
        3 => Transition::Published(outcome()),
        4 => failed(FailureReason::DiskFull, retry_at),
        5 => failed(FailureReason::NoOp, retry_at),
        6 => Transition::Released,
        7 => Transition::CancelObserved,
        _ => return progress(5, 0.25),
    })
}

/// What the store answers, as text.
async fn answer(world: &World, call: &Call) -> String {
    let store = &world.store;
    match call.clone() {
        Call::Insert { number, priority, deadline, bob: theirs } => {
            let mut new = with_priority(number, priority);
            if let Some(seconds) = deadline {
                new = with_deadline(number, world.now() + Duration::from_secs(seconds));
            }
            let principal = if theirs { bob() } else { ada() };
            let request_digest = format!("{priority}");
            let new = NewJob { principal, request_digest, ..new };
            let limits = QueueLimits { total: 4, of_principal: 3, stored_bytes: 40_000 };
            format!("{:?}", store.insert(new, limits).await)
        }
        Call::Claim => format!("{:?}", store.claim(&worker("worker"), LEASE).await),
        Call::Extend { job, fence } => {
            format!("{:?}", store.extend(id(job), Fence(fence), LEASE).await)
        }
        Call::Record { job, fence, event: choice } => {
            format!("{:?}", store.record(id(job), Fence(fence), event(choice, world)).await)
        }
        Call::Cancel { job } => format!("{:?}", store.request_cancel(id(job)).await),
        Call::Delete { job } => format!("{:?}", store.delete(id(job)).await),
        Call::Sweep => {
            let mut swept = store.sweep(None).await.unwrap();
            // Stores may find them in another order.
            swept.expired_leases.sort();
            swept.missed_deadlines.sort();
            swept.forgotten.sort();
            format!("{swept:?}")
        }
        Call::Wait { seconds } => {
            world.wait(Duration::from_secs(seconds));
            String::new()
        }
        Call::List { states, bob: theirs, before, limit } => {
            let principal = theirs.then(bob);
            let before = before.map(id);
            let query = ListQuery { principal, states, before, limit, ..ListQuery::default() };
            format!("{:?}", store.list(&query).await)
        }
        Call::Saved { job, fence, milestone } => {
            format!("{:?}", store.note_saved(id(job), Fence(fence), Milestone(milestone)).await)
        }
        Call::Whole { job } => format!("{:?}", store.get_whole(id(job)).await),
        Call::Position { job } => format!("{:?}", store.queue_position(id(job)).await),
        Call::Counts => format!("{:?}", store.counts().await),
        Call::Finished { number } => {
            let digest = request(number).work_digest;
            format!("{:?}", store.find_finished(&ada(), &digest).await)
        }
    }
}

async fn everything(world: &World) -> (Vec<JobSummary>, Vec<String>) {
    let query = ListQuery { limit: 1_000, ..ListQuery::default() };
    let jobs = world.store.list(&query).await.unwrap().jobs;
    let mut logs = Vec::new();
    for job in &jobs {
        world.check_log(job.id).await;
        logs.push(format!("{:?}", world.store.events_after(job.id, Sequence(0), 1_000).await));
    }
    (jobs, logs)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_store_answers_alike(calls in prop::collection::vec(call(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (memory, sqlite) = (World::memory(), World::sqlite().await);
            for call in &calls {
                let (one, other) = (answer(&memory, call).await, answer(&sqlite, call).await);
                assert_eq!(one, other, "{call:?}");
            }
            assert_eq!(everything(&memory).await, everything(&sqlite).await);
        });
    }
}
