//! The task beside every running job that extends its lease and watches for what must stop it.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    context::{Hold, WorkerContext},
    stop::{Stop, StopSignal},
};
use crate::jobs::{Job, JobStore, StoreError, Timestamp};

/// Least time between two looks at the job, since everything that is stored wakes: short beside an
/// update, so that a cancel is seen within one.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How soon an extension that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Runs until the job is lost; ended from outside once it is settled.
pub(super) async fn keep<S: JobStore>(context: &WorkerContext<S>, job: &Job, stop: &StopSignal) {
    let hold = Hold { id: job.id, fence: job.fence };
    let (store, settings) = (&context.parts.store, &context.settings);
    let mut wakeups = store.subscribe();
    let mut wakes = true;
    let mut deadline = job.options.deadline;
    let mut extend_at = Instant::now() + settings.extend_every;
    let mut held_until = Instant::now() + settings.lease;
    let mut look_at = Instant::now();
    if job.cancel_requested {
        stop.raise(Stop::Cancelled);
    }
    loop {
        let now = settings.clock.now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            stop.raise(Stop::DeadlinePassed);
            deadline = None;
        }
        tokio::select! {
            () = sleep_until(extend_at) => {
                match store.extend(hold.id, hold.fence, settings.lease).await {
                    Ok(status) => {
                        held_until = Instant::now() + settings.lease;
                        extend_at = Instant::now() + settings.extend_every;
                        if status.cancel_requested {
                            stop.raise(Stop::Cancelled);
                        }
                    }
                    Err(StoreError::Backend(message)) if Instant::now() < held_until => {
                        tracing::warn!(job = %hold.id, message, "cannot extend the lease");
                        extend_at = Instant::now() + TRY_AGAIN.min(settings.extend_every);
                    }
                    Err(error) => {
                        tracing::warn!(job = %hold.id, %error, "the lease is lost");
                        return stop.raise(Stop::Lost);
                    }
                }
            }
            changed = changed_after(look_at, &mut wakeups), if wakes => {
                wakes = changed.is_ok();
                look_at = Instant::now() + LOOK_EVERY;
                match store.get(hold.id).await {
                    Ok(Some(seen)) if seen.fence == hold.fence && !seen.state.name().is_terminal() => {
                        if seen.cancel_requested {
                            stop.raise(Stop::Cancelled);
                        }
                    }
                    Ok(_) => return stop.raise(Stop::Lost),
                    // The next extension tells whether it is serious.
                    Err(_) => {}
                }
            }
            () = context.parts.signals.pause_jobs.cancelled(), if !stop.pause.is_paused() => {
                stop.raise(Stop::Drained);
            }
            () = sleep(until(deadline, now)), if deadline.is_some() => {}
        }
    }
}

/// The next change, and not before that time.
async fn changed_after(
    time: Instant,
    wakeups: &mut watch::Receiver<u64>,
) -> Result<(), watch::error::RecvError> {
    sleep_until(time).await;
    wakeups.changed().await
}

fn until(deadline: Option<Timestamp>, now: Timestamp) -> Duration {
    deadline.map_or(Duration::ZERO, |deadline| deadline.since(now))
}
