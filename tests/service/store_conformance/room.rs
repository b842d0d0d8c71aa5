//! How much is kept for whom, and how much a list reads of it.

use std::collections::BTreeMap;

use keystep::jobs::{
    Inserted, JobOptions, JobState, JobStore, ListQuery, NewJob, QueueLimits, ScoresJson,
    StateName, StoreError, Work,
};

use super::world::{NO_LIMITS, World, ada, bob, request, with_deadline};

/// What a job counts for beside its texts.
const A_JOB: u64 = 4 << 10;

/// A request that takes so many bytes and a few.
pub fn long_request(number: u128, bytes: usize) -> NewJob {
    let mut new = request(3 * number);
    if let Work::Unlearn(work) = &mut new.work {
        work.spec.preserve = vec!["a".repeat(bytes)];
    } else {
        panic!("request {number} is no erasure");
    }
    new
}

fn storage_full(result: Result<Inserted, StoreError>) -> (u64, u64, u64) {
    match result {
        Err(StoreError::PrincipalStorageFull { stored, adds, limit }) => (stored, adds, limit),
        other => panic!("{other:?}"),
    }
}

pub async fn a_principal_has_room_for_so_much(world: World) {
    let limits = QueueLimits { stored_bytes: 350_000, ..NO_LIMITS };
    let insert = async |new| world.store.insert(new, limits).await;
    let first = insert(long_request(2, 100_000)).await.unwrap();
    insert(long_request(4, 100_000)).await.unwrap();
    insert(long_request(6, 100_000)).await.unwrap();
    let (stored, adds, limit) = storage_full(insert(long_request(8, 100_000)).await);
    assert_eq!(limit, 350_000);
    assert!((300_000..330_000).contains(&stored) && (100_000..110_000).contains(&adds));
    // Others have room of their own, and a repeated request takes none.
    insert(NewJob { principal: bob(), ..long_request(8, 100_000) }).await.unwrap();
    assert!(matches!(insert(long_request(2, 100_000)).await, Ok(Inserted::Existing(_))));
    // Scores count as well, and take the place of those before.
    let json = "a".repeat(30_000);
    let scores = ScoresJson { digest: "digest", json: &json };
    for _ in 0..3 {
        world.store.put_scores(&ada(), scores, limits.stored_bytes).await.unwrap();
    }
    let more = ScoresJson { digest: "another", json: &json };
    let refused = world.store.put_scores(&ada(), more, limits.stored_bytes).await;
    assert!(matches!(refused, Err(StoreError::PrincipalStorageFull { .. })), "{refused:?}");
    // What is done counts until it is deleted.
    let (Inserted::Created(first) | Inserted::Existing(first)) = first;
    world.store.request_cancel(first.id).await.unwrap();
    world.store.delete(first.id).await.unwrap();
    insert(long_request(10, 60_000)).await.unwrap();
}

/// As a caller does who submits and cancels in turn.
pub async fn the_work_of_what_never_ran_is_dropped(world: World) {
    let limits = QueueLimits { stored_bytes: 300_000, ..NO_LIMITS };
    for number in 0..40 {
        let number = 2 * number + 2;
        let new = long_request(number, 100_000);
        let Inserted::Created(job) = world.store.insert(new, limits).await.unwrap() else {
            panic!("{number} was there before");
        };
        assert!(world.store.get_whole(job.id).await.unwrap().is_some());
        let cancelled = world.store.request_cancel(job.id).await.unwrap();
        assert_eq!(cancelled.state, JobState::Cancelled);
        assert_eq!(world.store.get_whole(job.id).await.unwrap(), None);
        assert_eq!(world.job(job.id).await, cancelled, "what is shown of it stays");
    }
    // Each still counts for its row.
    let tight = QueueLimits { stored_bytes: 40 * A_JOB, ..NO_LIMITS };
    storage_full(world.store.insert(request(200), tight).await);

    let late = world.submit(with_deadline(300, world.now())).await;
    assert_eq!(world.claim().await, None);
    assert_eq!(world.job(late.id).await.state.name(), StateName::Failed);
    assert_eq!(world.store.get_whole(late.id).await.unwrap(), None);
    // What ran may be asked for again.
    let ran = world.job_in(301, StateName::Failed).await;
    let whole = world.store.get_whole(ran.id).await.unwrap().unwrap();
    assert_eq!(whole.summary(), ran);
}

pub async fn a_page_ends_where_it_is_long(world: World) {
    let labels: BTreeMap<_, _> =
        (0..64).map(|index| (format!("{index}"), "ü".repeat(256))).collect();
    let mut wanted = Vec::new();
    for number in 0..150 {
        let options = JobOptions { labels: labels.clone(), ..JobOptions::default() };
        wanted.insert(0, world.submit(NewJob { options, ..request(number) }).await);
    }
    let mut query = ListQuery { limit: 1_000, ..ListQuery::default() };
    let (mut found, mut pages) = (Vec::new(), Vec::new());
    loop {
        let page = world.store.list(&query).await.unwrap();
        pages.push(page.jobs.len());
        found.extend(page.jobs);
        query.before = page.next;
        if page.next.is_none() {
            break;
        }
    }
    assert_eq!(found, wanted);
    // 64 labels of 512 bytes and some: about 2 MiB a page.
    assert!(pages.len() >= 3 && pages.iter().all(|jobs| *jobs <= 65), "{pages:?}");
}
