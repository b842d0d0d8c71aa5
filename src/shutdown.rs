//! The phases of a shutdown, each with a limit of its own and each logged.
//!
//! [`run`] knows neither jobs nor calls: it cancels [`Steps`] in order, and waits for [`Tenants`]
//! between them.

use std::{fmt, time::Duration};

use futures::{Stream, StreamExt, future::BoxFuture};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

#[cfg(test)]
mod tests;

/// How long a worker may take to give its job back.
const GIVE_BACK: Duration = Duration::from_secs(5);
/// How long closing files may take.
const CLOSE: Duration = Duration::from_secs(5);

/// How long each phase may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For load balancers to notice, while calls are still taken.
    pub drain_delay: Duration,
    /// For calls under way to finish.
    pub unary: Duration,
    /// For the job under way to finish, before it is saved and given back.
    pub grace: Duration,
    /// For the job to be saved, or published.
    pub publish_grace: Duration,
}

impl Limits {
    /// The longest that a shutdown can take; a service manager must wait longer before it kills.
    pub fn total(&self) -> Duration {
        let Self { drain_delay, unary, grace, publish_grace } = *self;
        [drain_delay, unary, grace, publish_grace, GIVE_BACK, CLOSE]
            .into_iter()
            .fold(Duration::ZERO, Duration::saturating_add)
    }
}

/// The steps of a shutdown, in their order; each is cancelled when it begins.
#[derive(Debug, Clone, Default)]
pub struct Steps {
    /// Health checks answer "not serving", and no further job is claimed.
    pub draining: CancellationToken,
    /// New calls are refused, and open streams end.
    pub refuse: CancellationToken,
    /// Connections are cut.
    pub abort: CancellationToken,
    /// The job under way is saved and given back, unless it is publishing.
    pub pause_jobs: CancellationToken,
    /// The job that is publishing is given back as well.
    pub stop_publishing: CancellationToken,
}

/// What a shutdown waits for.
pub trait Tenants: Send + Sync {
    /// Ends with the last call.
    fn calls_ended(&self) -> BoxFuture<'_, ()>;
    /// Ends once there is no job under way and none will be claimed.
    fn jobs_ended(&self) -> BoxFuture<'_, ()>;
    /// Closes files; called last, once.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// A phase whose limit was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Calls did not finish.
    Unary,
    /// The job was neither saved nor published.
    PublishGrace,
    /// Files were not closed.
    Close,
}

impl Limit {
    /// The setting that names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unary => "shutdown.unary",
            Self::PublishGrace => "shutdown.publish_grace",
            Self::Close => "close",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a shutdown ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Departure {
    /// The shutdown went through all phases.
    Orderly {
        /// Phases that were not done in time, in their order; empty where all was well.
        limits_hit: Vec<Limit>,
        /// Whether a job was saved and given back before it was done.
        job_given_back: bool,
    },
    /// A second signal came, so the process must end at once.
    AtOnce,
    /// The daemon shut down because something failed.
    Failed,
}

impl Departure {
    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Orderly { limits_hit, .. } if limits_hit.is_empty() => 0,
            Self::Orderly { .. } | Self::Failed => 1,
            Self::AtOnce => 130,
        }
    }
}

/// Goes through the phases after the first signal; a further one ends the shutdown at once.
///
/// A job that is not done within `grace` is no failure: it is saved and given back, and goes on
/// elsewhere. A job that is not saved in time is one.
pub async fn run<S>(
    mut signals: impl Stream<Item = S> + Unpin,
    limits: Limits,
    steps: &Steps,
    tenants: &dyn Tenants,
) -> Departure {
    let second = async {
        if signals.next().await.is_none() {
            // There is nobody who could send one.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        () = second => {
            tracing::warn!("a second signal: going at once");
            Departure::AtOnce
        }
        departure = phases(limits, steps, tenants) => departure,
    }
}

async fn phases(limits: Limits, steps: &Steps, tenants: &dyn Tenants) -> Departure {
    let mut limits_hit = Vec::new();
    let mut job_given_back = false;

    tracing::info!(lasts = ?limits.drain_delay, "shutdown: not serving, no further job is claimed");
    steps.draining.cancel();
    sleep(limits.drain_delay).await;

    tracing::info!(at_most = ?limits.unary, "shutdown: new calls are refused, others finish");
    steps.refuse.cancel();
    if timeout(limits.unary, tenants.calls_ended()).await.is_err() {
        hit(&mut limits_hit, Limit::Unary, limits.unary);
    }
    steps.abort.cancel();

    tracing::info!(at_most = ?limits.grace, "shutdown: the job under way may finish");
    if timeout(limits.grace, tenants.jobs_ended()).await.is_err() {
        let at_most = limits.publish_grace;
        tracing::warn!(?at_most, "shutdown: the job under way is saved and given back");
        steps.pause_jobs.cancel();
        job_given_back = true;
        if timeout(at_most, tenants.jobs_ended()).await.is_err() {
            hit(&mut limits_hit, Limit::PublishGrace, at_most);
            steps.stop_publishing.cancel();
            // What is not given back now is found by its lease.
            if timeout(GIVE_BACK, tenants.jobs_ended()).await.is_err() {
                tracing::error!("shutdown: the job was not given back; its lease will expire");
            }
        }
    }
    // Ends what still waits for these phases.
    steps.pause_jobs.cancel();
    steps.stop_publishing.cancel();

    tracing::info!("shutdown: closing");
    if timeout(CLOSE, tenants.close()).await.is_err() {
        hit(&mut limits_hit, Limit::Close, CLOSE);
    }
    tracing::info!(job_given_back, limits_hit = limits_hit.len(), "shutdown: done");
    Departure::Orderly { limits_hit, job_given_back }
}

fn hit(limits_hit: &mut Vec<Limit>, limit: Limit, after: Duration) {
    tracing::error!(limit = limit.name(), ?after, "shutdown: a limit was hit");
    limits_hit.push(limit);
}
