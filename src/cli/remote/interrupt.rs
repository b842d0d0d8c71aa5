//! Ctrl-C and SIGTERM during a call: the first ends the verb, the second the process.

use std::future::Future;

use tokio::sync::watch;

use super::RemoteError;

/// Knows whether a signal has come.
#[derive(Debug)]
pub(super) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Sets the handler, once a process.
    pub(super) fn install() -> Result<Self, RemoteError> {
        let (sender, receiver) = watch::channel(false);
        let signal = move || {
            if sender.send_replace(true) {
                std::process::exit(130);
            }
        };
        ctrlc::set_handler(signal).map_err(RemoteError::Signals)?;
        Ok(Self(receiver))
    }

    /// The result of the work, or `None` once a signal has come.
    pub(super) async fn unless<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            _ = self.0.wait_for(|signalled| *signalled) => None,
            done = work => Some(done),
        }
    }
}
