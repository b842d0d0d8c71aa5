//! Claims, leases, fences, deadlines: who may work on what, and until when.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use keystep::jobs::{
    EventBody, FailureReason, Inserted, JobId, JobState, JobStore, Milestone, NewEvent, NewJob,
    QueueLimits, ScoresJson, StateName, StoreError, Transition, WorkerLoss,
};

use uuid::Uuid;

use super::world::{
    LEASE, NO_LIMITS, RETENTION, World, ada, bob, failed, fence, progress, request, with_deadline,
    with_priority, worker,
};

const SCORES: ScoresJson<'static> = ScoresJson { digest: "digest", json: "{}" };

fn reason(state: &JobState) -> FailureReason {
    match state {
        JobState::Failed(failure) => failure.reason,
        other => panic!("{other:?}"),
    }
}

pub async fn the_queue_has_limits(world: World) {
    let limits = QueueLimits { total: 3, of_principal: 2, ..NO_LIMITS };
    let insert = async |new| world.store.insert(new, limits).await;
    insert(request(1)).await.unwrap();
    insert(request(2)).await.unwrap();
    match insert(request(3)).await {
        Err(StoreError::QueueFull { queued: 2, limit: 2, of_principal: true }) => {}
        other => panic!("{other:?}"),
    }
    insert(NewJob { principal: bob(), ..request(1) }).await.unwrap();
    match insert(NewJob { principal: bob(), ..request(2) }).await {
        Err(StoreError::QueueFull { queued: 3, limit: 3, of_principal: false }) => {}
        other => panic!("{other:?}"),
    }
    // A repeated request is answered although the queue is full; a job in work waits no more.
    assert!(matches!(insert(request(1)).await, Ok(Inserted::Existing(_))));
    world.claim().await.unwrap();
    assert!(matches!(insert(request(3)).await, Ok(Inserted::Created(_))));
}

pub async fn claims_go_by_priority_then_age(world: World) {
    let mut ids = Vec::new();
    for (number, priority) in [(1, 0), (2, 5), (3, -1), (4, 5), (5, 0)] {
        ids.push(world.submit(with_priority(number, priority)).await.id);
    }
    let order = [ids[1], ids[3], ids[0], ids[4], ids[2]];
    for (position, id) in (0..).zip(order) {
        assert_eq!(world.store.queue_position(id).await.unwrap(), position);
    }
    let ahead: BTreeMap<_, u64> = order.into_iter().zip(0..).collect();
    assert_eq!(world.store.queue_positions(&ids).await.unwrap(), ahead);
    let some = world.store.queue_positions(&[ids[4], JobId(Uuid::from_u128(77))]).await.unwrap();
    assert_eq!(some, BTreeMap::from([(ids[4], 3)]), "only of those that are asked for and wait");
    assert_eq!(world.store.queue_positions(&[]).await.unwrap(), BTreeMap::new());
    for (index, id) in order.into_iter().enumerate() {
        let job = world.claim().await.unwrap();
        assert_eq!(job.id, id);
        assert_eq!((job.state.clone(), job.attempt, job.fence), (JobState::Preparing, 1, fence(1)));
        assert_eq!(job.lease.as_ref().unwrap().until, world.now() + LEASE);
        assert_eq!(world.job(id).await, job.summary());
        assert_eq!(world.store.queue_position(id).await.unwrap(), 0);
        let waiting = world.store.queue_positions(&ids).await.unwrap();
        assert_eq!(waiting.len(), order.len() - index - 1, "who is claimed waits no more");
        if let Some(next) = order.get(index + 1) {
            assert_eq!(world.store.queue_position(*next).await.unwrap(), 0);
        }
    }
    assert_eq!(world.claim().await, None);
}

pub async fn each_job_is_claimed_once(world: World) {
    const JOBS: u128 = 120;
    for number in 0..JOBS {
        world.submit(request(number)).await;
    }
    let world = Arc::new(world);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..16 {
        let world = Arc::clone(&world);
        tasks.spawn(async move {
            let mut claimed = Vec::new();
            let name = worker(&format!("worker {number}"));
            while let Some(job) = world.store.claim(&name, LEASE).await.unwrap() {
                assert_eq!(job.lease.as_ref().unwrap().worker, name);
                claimed.push(job.id);
            }
            claimed
        });
    }
    let mut all: Vec<_> = tasks.join_all().await.concat();
    all.sort();
    all.dedup_by(|a, b| {
        assert_ne!(a, b, "claimed twice");
        false
    });
    assert_eq!(all.len() as u128, JOBS);
    assert_eq!(world.store.counts().await.unwrap()[&StateName::Preparing], JOBS as u64);
    for id in all {
        world.check_log(id).await;
    }
}

pub async fn an_old_fence_writes_nothing(world: World) {
    let id = world.submit(request(1)).await.id;
    let refused = async |number| {
        let job = world.job(id).await;
        let results = [
            world.store.extend(id, fence(number), LEASE).await.map(drop),
            world.store.record(id, fence(number), progress(1, 0.0)).await.map(drop),
            world
                .store
                .record(id, fence(number), NewEvent::Transition(Transition::Loaded))
                .await
                .map(drop),
        ];
        for result in results {
            match result {
                Err(StoreError::FenceIsOld { id: named, given, current }) => {
                    assert_eq!((named, given, current), (id, fence(number), job.fence));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(world.job(id).await, job);
    };
    refused(0).await;
    refused(1).await;
    let first = world.claim().await.unwrap();
    refused(0).await;
    refused(2).await;
    world.wait(LEASE);
    world.store.sweep(None).await.unwrap();
    refused(1).await;
    let second = world.claim().await.unwrap();
    assert_eq!((second.fence, second.attempt), (fence(2), 1), "a loss is no failure");
    refused(first.fence.0).await;
    world.store.record(id, second.fence, progress(1, 0.0)).await.unwrap();
    // A holder may only do what the machine allows.
    let published = NewEvent::Transition(Transition::EngineDone);
    match world.store.record(id, second.fence, published).await {
        Err(StoreError::IllegalTransition { state: StateName::Preparing, .. }) => {}
        other => panic!("{other:?}"),
    }
    world.record(&second, failed(FailureReason::InvalidSpec, world.now())).await;
    refused(2).await;
    world.check_log(id).await;
}

pub async fn a_lease_ends_unless_it_is_extended(world: World) {
    let id = world.submit(request(1)).await.id;
    let job = world.claim().await.unwrap();
    let almost = LEASE.checked_sub(Duration::from_micros(1)).unwrap();
    for _ in 0..3 {
        world.wait(almost);
        assert!(world.store.sweep(None).await.unwrap().expired_leases.is_empty());
        let status = world.store.extend(id, job.fence, LEASE).await.unwrap();
        assert_eq!((status.cancel_requested, status.deadline), (false, None));
    }
    world.wait(LEASE);
    assert_eq!(world.claim().await, None, "claimed before the sweep");
    assert_eq!(world.store.sweep(None).await.unwrap().expired_leases, [id]);
    let again = world.job(id).await;
    assert_eq!((&again.state, &again.lease, again.attempt), (&JobState::Queued, &None, 0));

    let last = world.claim().await.unwrap();
    assert_eq!(last.losses + 1, last.max_attempts);
    world.wait(LEASE);
    assert_eq!(world.store.sweep(None).await.unwrap().expired_leases, [id]);
    let failed = world.job(id).await;
    assert_eq!(reason(&failed.state), FailureReason::AttemptsExhausted);
    assert!(failed.expires_at.is_some());
    assert!(world.store.sweep(None).await.unwrap().expired_leases.is_empty());
    world.check_log(id).await;
}

pub async fn a_failure_is_retried_when_its_time_comes(world: World) {
    let id = world.submit(request(1)).await.id;
    let other = world.submit(with_priority(2, -1)).await.id;
    let job = world.claim().await.unwrap();
    let retry_at = world.now() + Duration::from_secs(30);
    let again = world.record(&job, failed(FailureReason::StorageUnavailable, retry_at)).await;
    assert_eq!((&again.state, again.not_before), (&JobState::Queued, Some(retry_at)));
    let log = world.log(id).await;
    match &log.last().unwrap().body {
        EventBody::StateChanged {
            state: StateName::Queued,
            attempt: 1,
            failure: Some(failure),
        } => {
            assert_eq!(failure.reason, FailureReason::StorageUnavailable);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(world.claim().await.unwrap().id, other, "the next one goes first");
    assert_eq!(world.claim().await, None);
    world.wait(Duration::from_secs(30));
    let job = world.claim().await.unwrap();
    assert_eq!((job.id, job.attempt, job.not_before), (id, 2, None));
    let done = world.record(&job, failed(FailureReason::StorageUnavailable, retry_at)).await;
    assert_eq!(reason(&done.state), FailureReason::StorageUnavailable);
    world.check_log(id).await;
}

pub async fn a_job_given_back_loses_no_attempt(world: World) {
    let id = world.submit(request(1)).await.id;
    for number in 1..=5 {
        let job = world.claim().await.unwrap();
        assert_eq!((job.attempt, job.fence), (1, fence(number)));
        let back = world.record(&job, Transition::Released).await;
        assert_eq!((&back.state, back.attempt), (&JobState::Queued, 0));
    }
    world.check_log(id).await;
}

pub async fn a_deadline_fails_what_is_not_done(world: World) {
    let deadline = world.now() + Duration::from_secs(10);
    let held = world.submit(with_deadline(1, deadline)).await.id;
    let holder = world.claim().await.unwrap();
    let status = world.store.extend(held, holder.fence, LEASE).await.unwrap();
    assert_eq!(status.deadline, Some(deadline));
    let swept = world.submit(with_deadline(2, deadline)).await.id;
    world.wait(Duration::from_secs(9));
    assert!(world.store.sweep(None).await.unwrap().missed_deadlines.is_empty());
    world.wait(Duration::from_secs(1));
    let mut missed = world.store.sweep(None).await.unwrap().missed_deadlines;
    missed.sort();
    assert_eq!(missed, [held, swept]);
    for id in missed {
        assert_eq!(reason(&world.job(id).await.state), FailureReason::DeadlineExceeded);
        world.check_log(id).await;
    }
    let late = world.store.extend(held, holder.fence, LEASE).await;
    assert!(matches!(late, Err(StoreError::FenceIsOld { .. })), "{late:?}");

    // A claim does not wait for the sweep: what is too late is failed, what comes after is taken.
    let late = world.submit(with_deadline(3, world.now())).await.id;
    let next = world.submit(request(4)).await.id;
    assert_eq!(world.claim().await.unwrap().id, next);
    assert_eq!(reason(&world.job(late).await.state), FailureReason::DeadlineExceeded);
    assert!(world.store.sweep(None).await.unwrap().missed_deadlines.is_empty());
}

pub async fn a_wish_that_was_seen_by_nobody_is_granted_by_the_sweep(world: World) {
    let id = world.submit(request(1)).await.id;
    world.claim().await.unwrap();
    world.store.request_cancel(id).await.unwrap();
    world.wait(LEASE);
    assert_eq!(world.store.sweep(None).await.unwrap().expired_leases, [id]);
    assert_eq!(world.job(id).await.state, JobState::Cancelled);
    world.check_log(id).await;
}

pub async fn many_hands_leave_every_log_whole(world: World) {
    const JOBS: u128 = 12;
    let world = Arc::new(world);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..JOBS {
        let world = Arc::clone(&world);
        tasks.spawn(async move {
            // The same request from two hands makes one job.
            let (one, other) = tokio::join!(
                world.store.insert(request(number), NO_LIMITS),
                world.store.insert(request(number), NO_LIMITS)
            );
            let created = [one.unwrap(), other.unwrap()]
                .iter()
                .filter(|inserted| matches!(inserted, Inserted::Created(_)))
                .count();
            assert_eq!(created, 1);
            let Some(job) = world.store.claim(&worker("worker"), LEASE).await.unwrap() else {
                return;
            };
            world.record(&job, Transition::Loaded).await;
            for done in 0..10 {
                let (recorded, cancel, extended, read) = tokio::join!(
                    world.store.record(job.id, job.fence, progress(done, 0.5)),
                    world.store.request_cancel(job.id),
                    world.store.extend(job.id, job.fence, LEASE),
                    world.store.events_after(job.id, job.last_sequence, 100),
                );
                recorded.unwrap();
                extended.unwrap();
                assert!(cancel.unwrap().cancel_requested);
                let read: Vec<_> = read.unwrap().iter().map(|event| event.sequence.0).collect();
                let first = job.last_sequence.0 + 1;
                assert_eq!(read, (first..first + read.len() as u64).collect::<Vec<_>>());
            }
            world.record(&job, Transition::CancelObserved).await;
            world.check_log(job.id).await;
        });
    }
    tasks.join_all().await;
    let counts = world.store.counts().await.unwrap();
    let wanted: BTreeMap<_, _> = StateName::ALL
        .iter()
        .map(|&state| (state, if state == StateName::Cancelled { JOBS as u64 } else { 0 }))
        .collect();
    assert_eq!(counts, wanted);
}

pub async fn a_lost_worker_gives_back_what_it_held_at_once(world: World) {
    let held = world.submit(request(1)).await.id;
    let other = world.submit(request(2)).await.id;
    assert_eq!(world.claim().await.unwrap().id, held);
    let neighbour = keystep::jobs::WorkerId("neighbour".to_owned());
    assert_eq!(world.store.claim(&neighbour, LEASE).await.unwrap().unwrap().id, other);
    let own = worker("worker");
    let lose = async |loss| world.store.expire_worker(&own, &[], loss).await.unwrap();
    let but =
        async |id| world.store.expire_worker(&own, &[id], WorkerLoss::Unexplained).await.unwrap();
    assert_eq!(but(held).await, [], "a job that is worked on stays its worker's");
    assert_eq!(lose(WorkerLoss::Unexplained).await, [held]);
    assert_eq!(lose(WorkerLoss::Unexplained).await, []);
    assert_eq!(world.job(held).await.state.name(), StateName::Queued);
    assert_eq!(world.job(other).await.state.name(), StateName::Preparing);
    // The old hold is worth nothing: its write is refused.
    let late = world.store.record(held, fence(1), progress(1, 0.5)).await;
    assert!(matches!(late, Err(StoreError::FenceIsOld { .. })), "{late:?}");
    assert_eq!(world.claim().await.unwrap().losses, 1);
    // What a call may have brought about counts for no job.
    for _ in 0..5 {
        assert_eq!(lose(WorkerLoss::BesideCall).await, [held]);
        let again = world.claim().await.unwrap();
        assert_eq!((again.id, again.losses), (held, 1));
    }
}

/// Loses the holder as often as is asked; each time something is saved first, or nothing.
async fn lose(world: &World, saved: &[Option<u64>]) -> keystep::jobs::JobSummary {
    let mut id = None;
    for milestone in saved {
        let job = world.claim().await.unwrap();
        if let Some(milestone) = milestone {
            let milestone = Milestone(*milestone);
            world.store.note_saved(job.id, job.fence, milestone).await.unwrap();
        }
        world.wait(LEASE);
        assert_eq!(world.store.sweep(None).await.unwrap().expired_leases, [job.id]);
        id = Some(job.id);
    }
    world.job(id.unwrap()).await
}

pub async fn losses_count_where_nothing_was_gained(world: World) {
    // Twice in a row is the limit; a job that makes progress may lose its worker any number of times.
    let id = world.submit(request(1)).await.id;
    let saved: Vec<_> = (1..=20).flat_map(|milestone| [None, Some(milestone)]).collect();
    let job = lose(&world, &saved).await;
    assert_eq!((&job.state, job.attempt, job.losses), (&JobState::Queued, 0, 0));
    assert_eq!(job.milestone, Milestone(20));
    // What was reached before is no news: a job that loses what it saves comes to its end.
    let job = lose(&world, &[Some(20), Some(7)]).await;
    assert_eq!((job.id, reason(&job.state)), (id, FailureReason::AttemptsExhausted));
    let JobState::Failed(failure) = &job.state else { unreachable!() };
    assert_eq!((&*failure.metadata["losses"], &*failure.metadata["maxAttempts"]), ("2", "2"));
    world.check_log(id).await;

    let id = world.submit(request(2)).await.id;
    let old = world.claim().await.unwrap();
    world.wait(LEASE);
    world.store.sweep(None).await.unwrap();
    let late = world.store.note_saved(id, old.fence, Milestone(9)).await;
    assert!(matches!(late, Err(StoreError::FenceIsOld { .. })), "{late:?}");
    assert_eq!(world.job(id).await.milestone, Milestone(0));
}

pub async fn principals_take_turns(world: World) {
    let mut ids = BTreeMap::new();
    for number in 1..=6 {
        ids.insert(number, world.submit(with_priority(number, 100)).await.id);
    }
    for number in 7..=8 {
        let theirs = NewJob { principal: bob(), ..with_priority(number, 100) };
        ids.insert(number, world.submit(theirs).await.id);
    }
    ids.insert(9, world.submit(NewJob { principal: bob(), ..with_priority(9, 0) }).await.id);
    let all: Vec<_> = ids.values().copied().collect();
    let mut order = vec![1, 7, 2, 8, 3, 4, 5, 6, 9];
    while !order.is_empty() {
        let positions = world.store.queue_positions(&all).await.unwrap();
        for (place, number) in (0..).zip(&order) {
            assert_eq!(positions[&ids[number]], place, "{number} of {order:?}");
            assert_eq!(world.store.queue_position(ids[number]).await.unwrap(), place);
        }
        let claimed = world.claim().await.unwrap().id;
        assert_eq!(claimed, ids[&order.remove(0)], "before {order:?}");
    }
    // Who came long ago waits behind who never came.
    let ours = world.submit(request(20)).await.id;
    let carol = keystep::jobs::Principal("carol".to_owned());
    let hers = world.submit(NewJob { principal: carol, ..request(21) }).await.id;
    assert_eq!(world.store.queue_position(hers).await.unwrap(), 0);
    assert_eq!(world.store.queue_position(ours).await.unwrap(), 1);
    assert_eq!(world.claim().await.unwrap().id, hers);
    // A job that waits for its next try does not hold up its principal's others.
    let first = world.claim().await.unwrap();
    let retry_at = world.now() + LEASE;
    world.record(&first, failed(FailureReason::DiskFull, retry_at)).await;
    let second = world.submit(request(22)).await.id;
    assert_eq!(world.claim().await.unwrap().id, second);
    assert_eq!(world.claim().await, None);
}

pub async fn a_step_of_the_wall_clock_loses_nothing(world: World) {
    const MINUTE: i64 = 60_000_000;
    let ours = worker("worker");
    let done = world.job_in(1, StateName::Succeeded).await;
    world.store.put_scores(&ada(), SCORES, u64::MAX).await.unwrap();
    let held = world.submit(request(2)).await;
    let job = world.claim().await.unwrap();
    for jump in [5 * MINUTE, 60 * MINUTE, -120 * MINUTE, 40 * 24 * 60 * MINUTE] {
        world.clock.jump(jump);
        let swept = world.store.sweep(Some(&ours)).await.unwrap();
        assert_eq!(swept, keystep::jobs::Swept::default(), "after a jump of {jump}");
        world.store.extend(held.id, job.fence, LEASE).await.unwrap();
        world.store.record(held.id, job.fence, progress(1, 0.5)).await.unwrap();
    }
    assert_eq!(world.job(done.id).await, done);
    // Time that passes counts all the same.
    world.wait(RETENTION);
    assert_eq!(world.store.sweep(Some(&ours)).await.unwrap().forgotten, [done.id]);
    let scores = world.store.get_scores(&ada(), SCORES.digest).await.unwrap();
    assert_eq!(scores, None);
    // Another worker's lease is the wall clock's, as nobody knows whether it lives.
    let swept = world.store.sweep(Some(&worker("neighbour"))).await.unwrap();
    assert_eq!(swept.expired_leases, [held.id]);
}
