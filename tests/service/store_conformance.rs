//! One suite for every job store: what the rest of the daemon may rely on, whichever store keeps
//! its jobs.
#![allow(unreachable_pub, reason = "a test has no public interface")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panics")]

mod alike;
mod crash;
mod publication;
mod queue;
mod room;
mod world;

use std::{collections::BTreeMap, time::Duration};

use keystep::jobs::{
    EventBody, FailureReason, Inserted, JobId, JobOptions, JobState, JobStore, ListQuery, NewEvent,
    NewJob, ScoresJson, Sequence, StateName, StoreError, Timestamp, Transition,
};
use uuid::Uuid;
use world::{
    LEASE, NO_LIMITS, RETENTION, World, ada, bob, failed, fence, outcome, progress, request, worker,
};

/// Each test, once a store.
macro_rules! suite {
    ($($name:ident in $module:path;)*) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                use $module as suite;
                suite::$name(crate::store_conformance::World::memory()).await;
            })*
        }

        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                use $module as suite;
                suite::$name(crate::store_conformance::World::sqlite().await).await;
            })*
        }
    };
}

suite! {
    a_repeated_request_makes_no_second_job in crate::store_conformance;
    a_log_has_no_gaps_and_is_read_in_pieces in crate::store_conformance;
    a_cancel_works_in_every_state in crate::store_conformance;
    only_a_job_that_is_done_is_forgotten in crate::store_conformance;
    what_is_done_is_kept_for_its_retention in crate::store_conformance;
    a_finished_job_is_found_by_its_work in crate::store_conformance;
    scores_are_their_principals_own in crate::store_conformance;
    subscribers_are_notified in crate::store_conformance;
    pages_hold_every_job_once in crate::store_conformance;
    filters_choose_what_they_say in crate::store_conformance;
    what_is_unknown_is_not_found in crate::store_conformance;
    the_queue_has_limits in crate::store_conformance::queue;
    claims_go_by_priority_then_age in crate::store_conformance::queue;
    each_job_is_claimed_once in crate::store_conformance::queue;
    an_old_fence_writes_nothing in crate::store_conformance::queue;
    a_lease_ends_unless_it_is_extended in crate::store_conformance::queue;
    a_failure_is_retried_when_its_time_comes in crate::store_conformance::queue;
    a_job_given_back_loses_no_attempt in crate::store_conformance::queue;
    a_deadline_fails_what_is_not_done in crate::store_conformance::queue;
    a_wish_that_was_seen_by_nobody_is_granted_by_the_sweep in crate::store_conformance::queue;
    a_lost_worker_gives_back_what_it_held_at_once in crate::store_conformance::queue;
    many_hands_leave_every_log_whole in crate::store_conformance::queue;
    a_kept_result_is_published_before_all_that_waits in crate::store_conformance::publication;
    only_what_is_kept_is_published_again in crate::store_conformance::publication;
    a_cancel_reaches_a_result_that_waits in crate::store_conformance::publication;
    losses_count_where_nothing_was_gained in crate::store_conformance::queue;
    principals_take_turns in crate::store_conformance::queue;
    a_step_of_the_wall_clock_loses_nothing in crate::store_conformance::queue;
    a_principal_has_room_for_so_much in crate::store_conformance::room;
    the_work_of_what_never_ran_is_dropped in crate::store_conformance::room;
    a_page_ends_where_it_is_long in crate::store_conformance::room;
}

async fn a_repeated_request_makes_no_second_job(world: World) {
    let first = world.submit(request(1)).await;
    assert_eq!((first.state.clone(), first.attempt), (JobState::Queued, 0));
    let again = world.store.insert(request(1), NO_LIMITS).await.unwrap();
    assert_eq!(again, Inserted::Existing(Box::new(first.clone())));

    let other = NewJob { request_digest: "another".to_owned(), ..request(1) };
    match world.store.insert(other, NO_LIMITS).await {
        Err(StoreError::RequestIdReused { request_id, existing }) => {
            assert_eq!((request_id, existing), (first.request_id, first.id));
        }
        other => panic!("{other:?}"),
    }

    let find = async |principal| world.store.find_request(&principal, first.request_id).await;
    assert_eq!(find(ada()).await.unwrap(), Some(first.clone()));
    assert_eq!(find(bob()).await.unwrap(), None);

    let theirs = world.submit(NewJob { principal: bob(), ..request(1) }).await;
    assert_ne!(theirs.id, first.id);
    let claimed = world.claim().await.unwrap();
    let again = world.store.insert(request(1), NO_LIMITS).await.unwrap();
    assert_eq!(again, Inserted::Existing(Box::new(claimed.summary())));
    assert_eq!(world.log(theirs.id).await.len(), 1);
    assert_eq!(world.job(theirs.id).await, theirs);
}

async fn a_log_has_no_gaps_and_is_read_in_pieces(world: World) {
    let id = world.submit(request(1)).await.id;
    let job = world.claim().await.unwrap();
    world.record(&job, Transition::Loaded).await;
    for done in 0..20 {
        let loss = if done == 7 { f64::NAN } else { 0.1 + 0.2 };
        world.store.record(id, job.fence, progress(done, loss)).await.unwrap();
    }
    let warning = NewEvent::Warning { reason: "SLOW", message: "it is slow".to_owned() };
    let job = world.store.record(id, job.fence, warning).await.unwrap();
    assert_eq!(job.last_sequence, Sequence(24));
    assert_eq!(job.progress.unwrap().done, 19);
    world.check_log(id).await;

    let mut pieces = Vec::new();
    let mut after = Sequence(0);
    loop {
        let piece = world.store.events_after(id, after, 7).await.unwrap();
        let Some(last) = piece.last() else { break };
        after = last.sequence;
        pieces.push(piece.len());
    }
    assert_eq!(pieces, [7, 7, 7, 3]);
    let log = world.log(id).await;
    let EventBody::Progress(seventh) = &log[10].body else { panic!("{:?}", log[10]) };
    assert!(seventh.loss.is_nan());
    let EventBody::Progress(eighth) = &log[11].body else { panic!("{:?}", log[11]) };
    assert_eq!(eighth.loss.to_bits(), (0.1_f64 + 0.2).to_bits());
    assert!(matches!(&log[23].body, EventBody::Warning { reason, .. } if reason == "SLOW"));
    assert!(world.store.events_after(id, Sequence(u64::MAX), 7).await.unwrap().is_empty());
    assert!(world.store.events_after(id, Sequence(0), 0).await.unwrap().is_empty());
}

async fn a_cancel_works_in_every_state(world: World) {
    for (number, &state) in (1..).zip(StateName::ALL) {
        let job = world.job_in(number, state).await;
        let asked = world.store.request_cancel(job.id).await.unwrap();
        match state {
            StateName::Queued => assert_eq!(asked.state, JobState::Cancelled),
            _ if state.is_terminal() => assert_eq!(asked, job),
            _ => {
                assert_eq!((&asked.state, asked.cancel_requested), (&job.state, true));
                assert_eq!(world.store.request_cancel(job.id).await.unwrap(), asked);
                let status = world.store.extend(job.id, job.fence, LEASE).await.unwrap();
                assert!(status.cancel_requested);
                let done = world.record(&job, Transition::CancelObserved).await;
                assert_eq!((&done.state, &done.lease), (&JobState::Cancelled, &None));
            }
        }
        world.check_log(job.id).await;
    }
}

async fn only_a_job_that_is_done_is_forgotten(world: World) {
    for (number, &state) in (1..).zip(StateName::ALL) {
        let job = world.job_in(number, state).await;
        match world.store.delete(job.id).await {
            Ok(()) => {
                assert!(state.is_terminal());
                assert_eq!(world.store.get(job.id).await.unwrap(), None);
                assert!(matches!(
                    world.store.events_after(job.id, Sequence(0), 1).await,
                    Err(StoreError::NotFound(id)) if id == job.id
                ));
                let anew = world.submit(request(number)).await;
                world.store.request_cancel(anew.id).await.unwrap();
            }
            Err(StoreError::IllegalTransition { id, state: named, .. }) => {
                assert!(!state.is_terminal());
                assert_eq!((id, named), (job.id, state));
                world.store.request_cancel(job.id).await.unwrap();
            }
            Err(other) => panic!("{other}"),
        }
    }
}

async fn what_is_done_is_kept_for_its_retention(world: World) {
    let done = world.job_in(1, StateName::Succeeded).await;
    let cancelled = world.job_in(2, StateName::Cancelled).await;
    assert_eq!(done.expires_at, Some(world.now() + RETENTION));
    assert_eq!(cancelled.expires_at, done.expires_at);
    let waits = world.submit(request(3)).await;
    world.store.put_scores(&ada(), scores("{}"), u64::MAX).await.unwrap();

    world.wait(RETENTION.checked_sub(Duration::from_micros(1)).unwrap());
    assert_eq!(world.store.sweep(None).await.unwrap(), keystep::jobs::Swept::default());
    assert_eq!(world.job(done.id).await, done);
    world.wait(Duration::from_micros(1));
    let swept = world.store.sweep(None).await.unwrap();
    assert_eq!(swept.forgotten, [done.id, cancelled.id]);
    assert_eq!(world.store.get(done.id).await.unwrap(), None);
    assert_eq!(world.store.get_scores(&ada(), "digest").await.unwrap(), None);
    assert_eq!(world.job(waits.id).await, waits);
    assert_eq!(world.store.counts().await.unwrap().values().sum::<u64>(), 1);
}

async fn a_finished_job_is_found_by_its_work(world: World) {
    let find = async |principal, digest: &str| {
        world.store.find_finished(&principal, digest).await.unwrap().map(|job| job.id)
    };
    world.job_in(1, StateName::Failed).await;
    assert_eq!(find(ada(), "work 1").await, None);
    let first = world.job_in(2, StateName::Succeeded).await;
    assert_eq!(find(ada(), "work 2").await, Some(first.id));
    assert_eq!(find(bob(), "work 2").await, None);
    let again = NewJob { work_digest: "work 2".to_owned(), ..request(3) };
    world.submit(again).await;
    let job = world.claim().await.unwrap();
    assert_eq!(find(ada(), "work 2").await, Some(first.id));
    for transition in [Transition::Loaded, Transition::EngineDone, Transition::Published(outcome())]
    {
        world.record(&job, transition).await;
    }
    assert_eq!(find(ada(), "work 2").await, Some(job.id));
}

fn scores(json: &str) -> ScoresJson<'_> {
    ScoresJson { digest: "digest", json }
}

async fn scores_are_their_principals_own(world: World) {
    let get = async |principal| world.store.get_scores(&principal, "digest").await.unwrap();
    world.store.put_scores(&ada(), scores("{\"a\":1}"), u64::MAX).await.unwrap();
    assert_eq!(get(ada()).await.as_deref(), Some("{\"a\":1}"));
    assert_eq!(get(bob()).await, None);
    world.store.put_scores(&ada(), scores("{\"a\":2}"), u64::MAX).await.unwrap();
    assert_eq!(get(ada()).await.as_deref(), Some("{\"a\":2}"));
}

async fn subscribers_are_notified(world: World) {
    let mut wake = world.store.subscribe();
    let id = world.submit(request(1)).await.id;
    wake.changed().await.unwrap();
    let job = world.claim().await.unwrap();
    wake.changed().await.unwrap();
    world.store.record(id, job.fence, progress(1, 0.5)).await.unwrap();
    wake.changed().await.unwrap();
    world.store.request_cancel(id).await.unwrap();
    wake.changed().await.unwrap();
    world.record(&job, Transition::CancelObserved).await;
    wake.changed().await.unwrap();
    world.store.get(id).await.unwrap();
    world.store.sweep(None).await.unwrap();
    assert_eq!(world.claim().await, None);
    assert!(!wake.has_changed().unwrap(), "reading woke");
    world.store.delete(id).await.unwrap();
    wake.changed().await.unwrap();
    world.store.probe().await.unwrap();
}

async fn pages_hold_every_job_once(world: World) {
    let mut wanted = Vec::new();
    for number in 0..25 {
        wanted.insert(0, world.submit(request(number)).await);
    }
    for limit in [1, 5, 24, 25, 26] {
        let mut query = ListQuery { limit, ..ListQuery::default() };
        let mut found = Vec::new();
        loop {
            let page = world.store.list(&query).await.unwrap();
            assert!(page.jobs.len() <= limit as usize);
            found.extend(page.jobs);
            query.before = page.next;
            if page.next.is_none() {
                break;
            }
        }
        assert_eq!(found, wanted, "pages of {limit}");
    }
    let none = world.store.list(&ListQuery::default()).await.unwrap();
    assert_eq!((none.jobs.len(), none.next), (1, Some(wanted[0].id)));
}

async fn filters_choose_what_they_say(world: World) {
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    for number in 0..24 {
        let mut new = request(number);
        new.principal = if number % 2 == 0 { ada() } else { bob() };
        let mut labels = BTreeMap::from([label("size", if number % 4 < 2 { "s" } else { "l" })]);
        if number % 5 == 0 {
            labels.extend([label("team", "x; DROP TABLE jobs --")]);
        }
        new.options = JobOptions { labels, priority: 0, ..JobOptions::default() };
        world.submit(new).await;
    }
    for transitions in
        [vec![], vec![Transition::Loaded], vec![failed(FailureReason::NoOp, Timestamp(0))]]
    {
        for _ in 0..4 {
            let job = world.claim().await.unwrap();
            for transition in &transitions {
                world.record(&job, transition.clone()).await;
            }
        }
    }
    let all =
        world.store.list(&ListQuery { limit: 99, ..ListQuery::default() }).await.unwrap().jobs;
    assert_eq!(all.len(), 24);
    let mut hits = 0;
    for choice in 0..(3 * 5 * 3 * 3 * 4) {
        let digit = |base: usize, place: usize| choice / place % base;
        let query = ListQuery {
            principal: [None, Some(ada()), Some(bob())][digit(3, 1)].clone(),
            states: [
                vec![],
                vec![StateName::Queued],
                vec![StateName::Running, StateName::Failed],
                vec![StateName::Preparing, StateName::Queued, StateName::Preparing],
                vec![StateName::Succeeded],
            ][digit(5, 3)]
            .clone(),
            kind: [None, Some("unlearn"), Some("evaluate")][digit(3, 15)].map(str::to_owned),
            base_model: [None, Some("other/model"), Some("none")][digit(3, 45)].map(str::to_owned),
            labels: [
                vec![],
                vec![label("size", "s")],
                vec![label("size", "l"), label("team", "x; DROP TABLE jobs --")],
                vec![label("team", "y")],
            ][digit(4, 135)]
            .iter()
            .cloned()
            .collect(),
            before: (choice % 2 == 0).then(|| all[3].id),
            limit: 3,
        };
        let wanted: Vec<_> = all
            .iter()
            .filter(|job| {
                query.principal.as_ref().is_none_or(|principal| *principal == job.principal)
                    && (query.states.is_empty() || query.states.contains(&job.state.name()))
                    && query.kind.as_deref().is_none_or(|kind| kind == job.work.kind())
                    && query.base_model.as_deref().is_none_or(|name| name == job.work.base_model())
                    && query.labels.iter().all(|(k, v)| job.options.labels.get(k) == Some(v))
                    && query.before.is_none_or(|before| job.id < before)
            })
            .cloned()
            .collect();
        let page = world.store.list(&query).await.unwrap();
        assert_eq!(page.jobs, wanted[..wanted.len().min(3)], "{query:?}");
        assert_eq!(page.next, wanted.get(3).map(|_| wanted[2].id), "{query:?}");
        hits += usize::from(!wanted.is_empty());
    }
    assert!(hits > 100, "{hits} queries found anything");
}

async fn what_is_unknown_is_not_found(world: World) {
    let id = JobId(Uuid::from_u128(99));
    let store = &world.store;
    assert_eq!(store.get(id).await.unwrap(), None);
    assert_eq!(store.claim(&worker("w"), LEASE).await.unwrap(), None);
    for result in [
        store.extend(id, fence(1), LEASE).await.map(drop),
        store.record(id, fence(1), progress(1, 0.0)).await.map(drop),
        store.events_after(id, Sequence(0), 1).await.map(drop),
        store.request_cancel(id).await.map(drop),
        store.publish_again(id).await.map(drop),
        store.delete(id).await,
        store.queue_position(id).await.map(drop),
    ] {
        assert!(
            matches!(result, Err(StoreError::NotFound(unknown)) if unknown == id),
            "{result:?}"
        );
    }
    assert_eq!(
        store.counts().await.unwrap(),
        StateName::ALL.iter().map(|state| (*state, 0)).collect()
    );
}
