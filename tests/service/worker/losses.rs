//! Workers that are lost over and over, and clocks that somebody sets: what that costs a job.

use keystep::jobs::{Clock, Milestone, ScriptedClock, Timestamp, WorkerLoss};

use super::*;

impl Bench {
    /// The worker's process is lost: whoever starts under its name says so.
    async fn lose(&self) {
        let worker = WorkerId("one".to_owned());
        self.store.expire_worker(&worker, &[], WorkerLoss::Unexplained).await.unwrap();
    }

    /// Another worker in the same place, with the same store.
    fn again(&self, script: &Arc<FakeScript>) -> Self {
        let source = FakeSource(script.clone());
        Self::start_with(source, Duration::ZERO, self.place.clone(), self.store.clone())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_gets_on_outlives_twenty_losses() {
    let script = script(1_000, MILLISECOND);
    let bench = Bench::start(&script);
    let id = bench.insert(7).await;
    let mut reached = Milestone(0);
    for loss in 0..20_u64 {
        // Somewhere after a save that the loss before did not have.
        bench.wait(id, |job| job.milestone > reached).await;
        tokio::time::sleep(Duration::from_micros(loss * 7_919 % 9_000)).await;
        bench.lose().await;
        reached = bench.job(id).await.milestone;
    }
    let job = bench.finish(id).await;
    assert_eq!((unlearned(&job).updates, job.attempt, job.losses), (1_000, 1, 0));
    assert_eq!(job.fence.0, 21, "each loss took the job from its holder");
    // What was saved was not done again: at most what came after each save.
    let made = script.updates_made.load(Ordering::SeqCst);
    assert!(made < 2_000, "{made} updates");
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_gets_nowhere_ends_and_leaves_what_it_has() {
    let script = script(2_000, 20 * MILLISECOND);
    let bench = Bench::start(&script);
    let id = bench.insert(7).await;
    bench.wait(id, |job| job.milestone > Milestone(0)).await;
    let mut last = 0;
    for losses in 0.. {
        // At once, before it comes to its next save.
        let job = bench
            .wait(id, |job| {
                let runs = job.state.name() == StateName::Running && job.fence.0 > last;
                runs || job.state.name().is_terminal()
            })
            .await;
        if job.state.name().is_terminal() {
            break;
        }
        assert!(losses < 50, "it goes on for ever");
        last = job.fence.0;
        bench.lose().await;
    }
    assert_eq!(failure(&bench.job(id).await), FailureReason::AttemptsExhausted);
    bench.drain().await;
    // Whoever tidies up leaves its state alone: nothing in it is wrong.
    let next = bench.again(&FakeScript::new(1, Duration::ZERO));
    let other = next.insert(8).await;
    next.finish(other).await;
    next.drain().await;
    assert!(next.folder(id).join("state").join("training.safetensors").is_file());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_of_the_wall_clock_takes_no_job_from_its_worker() {
    const MINUTE: i64 = 60_000_000;
    let clock = ScriptedClock::new(Timestamp(1_700_000_000_000_000));
    let store_settings =
        StoreSettings { clock: Clock::Scripted(clock.clone()), ..StoreSettings::default() };
    let store = Arc::new(MemoryStore::new(store_settings));
    let place = Arc::new(tempfile::tempdir().unwrap());
    let script = script(400, MILLISECOND);
    let bench = Bench::start_with(FakeSource(script.clone()), Duration::ZERO, place, store);
    let done = bench.insert(1).await;
    bench.finish(done).await;
    let id = bench.insert(2).await;
    for (updates, jump) in
        [(20, 5 * MINUTE), (60, 60 * MINUTE), (100, -120 * MINUTE), (140, 40 * 24 * 60 * MINUTE)]
    {
        bench.wait(id, |job| job.progress.is_some_and(|now| now.updates_done > updates)).await;
        clock.jump(jump);
    }
    let job = bench.finish(id).await;
    assert_eq!((unlearned(&job).updates, job.attempt, job.fence.0), (400, 1, 1));
    assert_eq!(script.updates_made.load(Ordering::SeqCst), 800, "nothing is done again");
    assert_eq!(bench.job(done).await.state.name(), StateName::Succeeded, "nothing is forgotten");
    bench.drain().await;
}
