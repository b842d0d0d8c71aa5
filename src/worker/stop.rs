//! Why a job under way must stop, and the flags by which the engine learns of it.

use tokio::sync::watch;

use crate::{
    device::JobFlags,
    engine::{CancelFlag, PauseFlag},
};

/// Why a job stops before its end. Later ones outweigh earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stop {
    /// The process goes away: save, and give the job back.
    Drained,
    /// A client asked for it.
    Cancelled,
    /// The job's time is up.
    DeadlinePassed,
    /// Another claim came after: nothing may be recorded or published any more.
    Lost,
}

/// Raised from anywhere. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct StopSignal {
    raised: watch::Sender<Option<Stop>>,
    pub(super) cancel: CancelFlag,
    pub(super) pause: PauseFlag,
}

impl StopSignal {
    pub(super) fn new() -> Self {
        Self {
            raised: watch::Sender::new(None),
            cancel: CancelFlag::default(),
            pause: PauseFlag::default(),
        }
    }

    /// Asks the job to stop; a weightier reason replaces a lighter one.
    pub(super) fn raise(&self, stop: Stop) {
        match stop {
            Stop::Drained => self.pause.pause(),
            Stop::Cancelled | Stop::DeadlinePassed | Stop::Lost => self.cancel.cancel(),
        }
        self.raised.send_if_modified(|raised| {
            let is_weightier = *raised < Some(stop);
            if is_weightier {
                *raised = Some(stop);
            }
            is_weightier
        });
    }

    /// The flags, for a slot of the device.
    pub(super) fn flags(&self) -> JobFlags {
        JobFlags { cancel: self.cancel.clone(), pause: self.pause.clone() }
    }

    /// The weightiest reason so far.
    pub(super) fn reason(&self) -> Option<Stop> {
        *self.raised.borrow()
    }

    /// Waits for a reason of at least this weight.
    pub(super) async fn raised(&self, least: Stop) {
        let mut seen = self.raised.subscribe();
        if seen.wait_for(|raised| *raised >= Some(least)).await.is_err() {
            // The sender lives as long as this: not reached, and then nothing is raised.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_weightiest_reason_stays() {
        let signal = StopSignal::new();
        signal.raise(Stop::Drained);
        assert!(signal.pause.is_paused() && !signal.cancel.is_cancelled());
        signal.raise(Stop::Lost);
        signal.raise(Stop::Cancelled);
        signal.raised(Stop::Cancelled).await;
        assert_eq!(signal.reason(), Some(Stop::Lost));
        assert!(signal.cancel.is_cancelled());
    }
}
