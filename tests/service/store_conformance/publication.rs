//! Finished results that could not be published: kept for a while, and published when asked for.

use std::time::Duration;

use keystep::jobs::{
    FailureReason, JobState, JobStore, StateName, StoreError, Timestamp, Transition,
};

use super::world::{KEEP_UNPUBLISHED, LEASE, World, failed, outcome, with_deadline, with_priority};

pub async fn a_kept_result_is_published_before_all_that_waits(world: World) {
    let deadline = world.now() + 2 * LEASE;
    let job = world.submit(with_deadline(1, deadline)).await;
    let hold = world.claim().await.unwrap();
    world.record(&hold, Transition::Loaded).await;
    world.record(&hold, Transition::EngineDone).await;
    let unpublished = |reason| {
        let Transition::Failed { failure, .. } = failed(reason, Timestamp(0)) else { panic!() };
        Transition::Unpublished { failure }
    };
    let recorded = world.record(&hold, unpublished(FailureReason::StorageDenied)).await;
    assert_eq!(recorded.result_kept_until(), Some(world.now() + KEEP_UNPUBLISHED));
    assert_eq!(world.job(job.id).await, recorded, "the store holds what it answered");
    world.check_log(job.id).await;

    // Its deadline passes, and another job of a higher priority waits.
    world.wait(3 * LEASE);
    let urgent = world.submit(with_priority(2, 100)).await;
    let asked = world.store.publish_again(job.id).await.unwrap();
    assert_eq!(world.store.publish_again(job.id).await.unwrap(), asked);
    assert_eq!(world.job(job.id).await, asked);
    assert_eq!((asked.options.deadline, asked.expires_at), (None, None));
    assert_eq!(world.store.sweep(None).await.unwrap(), keystep::jobs::Swept::default());
    let mut wake = world.store.subscribe();
    wake.borrow_and_update();
    let hold = world.claim().await.unwrap();
    wake.changed().await.unwrap();
    assert_eq!((hold.id, hold.state.name(), hold.attempt), (job.id, StateName::Publishing, 1));
    assert!(hold.lease.is_some());
    assert_eq!(world.claim().await.unwrap().id, urgent.id);
    assert_eq!(world.claim().await, None, "each is claimed once");
    world.store.extend(job.id, hold.fence, LEASE).await.unwrap();

    // In vain once more, then with success.
    let recorded = world.record(&hold, unpublished(FailureReason::StorageUnavailable)).await;
    assert_eq!(recorded.result_kept_until(), Some(world.now() + KEEP_UNPUBLISHED));
    world.store.publish_again(job.id).await.unwrap();
    let hold = world.claim().await.unwrap();
    let done = world.record(&hold, Transition::Published(outcome())).await;
    assert_eq!(done.state, JobState::Succeeded(outcome()));
    assert_eq!(world.store.publish_again(job.id).await.unwrap(), done);
    world.check_log(job.id).await;
}

pub async fn only_what_is_kept_is_published_again(world: World) {
    for (number, &state) in (1..).zip(StateName::ALL) {
        let job = world.job_in(number, state).await;
        let asked = world.store.publish_again(job.id).await;
        match state {
            StateName::Failed | StateName::Cancelled => {
                let is_refused = matches!(&asked, Err(StoreError::ResultNotKept { id, state: found })
                    if *id == job.id && *found == state);
                assert!(is_refused, "{asked:?}");
            }
            _ => assert_eq!(asked.unwrap(), job),
        }
        if state == StateName::Queued {
            world.store.request_cancel(job.id).await.unwrap();
        }
    }
    // Whatever ends a job while it is published, its result is kept, and for no longer than reported.
    let ends = [Transition::LeaseExpired, Transition::DeadlinePassed];
    for (number, end) in (20..).zip(ends) {
        let job = world.job_in(number, StateName::Publishing).await;
        let failed = world.record(&job, end).await;
        assert!(failed.result_kept_until().is_some(), "{failed:?}");
        let second = Duration::from_secs(1);
        world.wait(KEEP_UNPUBLISHED.saturating_sub(second));
        assert!(world.job(job.id).await.result_kept_until().unwrap() > world.now());
        world.wait(second);
        let asked = world.store.publish_again(job.id).await;
        assert!(matches!(asked, Err(StoreError::ResultNotKept { .. })), "{asked:?}");
    }
    let job = world.job_in(30, StateName::Running).await;
    let failed = world.record(&job, failed(FailureReason::StorageUnavailable, world.now())).await;
    assert_eq!(failed.result_kept_until(), None, "there is no result yet");
}

pub async fn a_cancel_reaches_a_result_that_waits(world: World) {
    let job = world.job_in(1, StateName::Publishing).await;
    world.record(&job, Transition::DeadlinePassed).await;
    world.store.publish_again(job.id).await.unwrap();
    let asked = world.store.request_cancel(job.id).await.unwrap();
    assert!(asked.cancel_requested);
    assert_eq!(world.claim().await, None);
    assert_eq!(world.job(job.id).await.state, JobState::Cancelled);
    world.check_log(job.id).await;
}
