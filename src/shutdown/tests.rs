//! The phases of a shutdown in paused time: their order, their limits, and what hits one.

use std::{pin::pin, time::Duration};

use futures::{FutureExt, future::BoxFuture, stream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Departure, Limit, Limits, Steps, Tenants, run};

const NEVER: Duration = Duration::from_secs(1_000_000);

fn limits() -> Limits {
    let seconds = Duration::from_secs;
    Limits {
        drain_delay: seconds(3),
        unary: seconds(10),
        grace: seconds(60),
        publish_grace: seconds(120),
    }
}

/// What a job does when it is asked to go.
#[derive(Debug, Clone, Copy)]
enum Job {
    None,
    /// Ends by itself so long after the first signal.
    EndsAt(Duration),
    /// Is saved so long after it was asked to.
    SavedAfter(Duration),
    /// Publishes, and gives up when it is asked to.
    Publishes,
    /// Hears nothing.
    Stuck,
}

/// Calls and a job that take as long as a test says.
struct Occupants {
    steps: Steps,
    calls_end_at: Instant,
    job: Job,
    began: Instant,
    closing: Duration,
    closed: CancellationToken,
}

impl Occupants {
    fn new(job: Job) -> Self {
        let began = Instant::now();
        Self {
            steps: Steps::default(),
            calls_end_at: began,
            job,
            began,
            closing: Duration::ZERO,
            closed: CancellationToken::new(),
        }
    }

    async fn leave(&self) -> (Departure, Duration) {
        let departure = run(stream::pending::<()>(), limits(), &self.steps, self).await;
        (departure, self.began.elapsed())
    }
}

impl Tenants for Occupants {
    fn calls_ended(&self) -> BoxFuture<'_, ()> {
        assert!(self.steps.refuse.is_cancelled(), "calls are waited for while new ones come");
        tokio::time::sleep_until(self.calls_end_at).boxed()
    }

    fn jobs_ended(&self) -> BoxFuture<'_, ()> {
        async {
            match self.job {
                Job::None => {}
                Job::EndsAt(after) => tokio::time::sleep_until(self.began + after).await,
                Job::SavedAfter(after) => {
                    self.steps.pause_jobs.cancelled().await;
                    sleep(after).await;
                }
                Job::Publishes => self.steps.stop_publishing.cancelled().await,
                Job::Stuck => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async {
            sleep(self.closing).await;
            self.closed.cancel();
        }
        .boxed()
    }
}

fn orderly(limits_hit: &[Limit], job_given_back: bool) -> Departure {
    Departure::Orderly { limits_hit: limits_hit.to_vec(), job_given_back }
}

#[tokio::test(start_paused = true)]
async fn an_idle_server_is_gone_after_the_drain_delay() {
    let occupants = Occupants::new(Job::None);
    let (departure, lasted) = occupants.leave().await;
    assert_eq!((departure.exit_code(), &departure), (0, &orderly(&[], false)));
    assert_eq!(lasted.as_secs(), 3);
    assert!(occupants.closed.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_finishes_within_its_grace_is_left_alone() {
    let occupants = Occupants::new(Job::EndsAt(Duration::from_secs(40)));
    let (departure, lasted) = occupants.leave().await;
    assert_eq!((departure, lasted.as_secs()), (orderly(&[], false), 40));
}

#[tokio::test(start_paused = true)]
async fn a_long_job_is_saved_and_given_back_and_that_is_fine() {
    let occupants = Occupants::new(Job::SavedAfter(Duration::from_secs(5)));
    let (departure, lasted) = occupants.leave().await;
    assert_eq!((departure.exit_code(), &departure), (0, &orderly(&[], true)));
    assert_eq!(lasted.as_secs(), 3 + 60 + 5);
}

#[tokio::test(start_paused = true)]
async fn publishing_is_cut_short_only_after_its_own_grace() {
    let occupants = Occupants::new(Job::Publishes);
    let (departure, lasted) = occupants.leave().await;
    assert_eq!(departure.exit_code(), 1);
    assert_eq!(departure, orderly(&[Limit::PublishGrace], true));
    assert_eq!(lasted.as_secs(), 3 + 60 + 120);
    assert_eq!(Limit::PublishGrace.name(), "shutdown.publish_grace");
}

#[tokio::test(start_paused = true)]
async fn what_hears_nothing_cannot_hold_the_process() {
    let mut occupants = Occupants::new(Job::Stuck);
    occupants.calls_end_at += NEVER;
    occupants.closing = NEVER;
    let (departure, lasted) = occupants.leave().await;
    assert_eq!(departure, orderly(&[Limit::Unary, Limit::PublishGrace, Limit::Close], true));
    assert_eq!(lasted, limits().total());
}

#[tokio::test(start_paused = true)]
async fn calls_have_their_limit_and_are_then_cut() {
    let mut occupants = Occupants::new(Job::None);
    occupants.calls_end_at += NEVER;
    let (departure, lasted) = occupants.leave().await;
    assert_eq!((departure.exit_code(), lasted.as_secs()), (1, 13));
    assert_eq!(departure, orderly(&[Limit::Unary], false));
    assert!(occupants.steps.abort.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn the_steps_are_taken_in_their_order() {
    let mut occupants = Occupants::new(Job::Publishes);
    occupants.calls_end_at += Duration::from_secs(5);
    let steps = occupants.steps.clone();
    let at = |token: CancellationToken| {
        let began = occupants.began;
        async move {
            token.cancelled().await;
            began.elapsed().as_secs()
        }
    };
    let (_, draining, refuse, abort, pause, stop) = tokio::join!(
        occupants.leave(),
        at(steps.draining),
        at(steps.refuse),
        at(steps.abort),
        at(steps.pause_jobs),
        at(steps.stop_publishing),
    );
    assert_eq!((draining, refuse, abort, pause, stop), (0, 3, 5, 65, 185));
}

#[tokio::test(start_paused = true)]
async fn a_second_signal_ends_it_at_once_in_every_phase() {
    for second in [0, 1, 5, 30, 100, 187] {
        let mut occupants = Occupants::new(Job::Stuck);
        occupants.calls_end_at += Duration::from_secs(8);
        let signals = stream::once(sleep(Duration::from_secs(second)));
        let departure = run(pin!(signals), limits(), &occupants.steps, &occupants).await;
        assert_eq!((departure.exit_code(), &departure), (130, &Departure::AtOnce));
        assert_eq!(occupants.began.elapsed().as_secs(), second);
        assert!(!occupants.closed.is_cancelled());
    }
}

#[tokio::test(start_paused = true)]
async fn that_no_signal_can_come_is_no_signal() {
    let occupants = Occupants::new(Job::EndsAt(Duration::from_secs(20)));
    let departure = run(stream::empty::<()>(), limits(), &occupants.steps, &occupants).await;
    assert_eq!(departure, orderly(&[], false));
}
