//! The signals that a daemon hears, as a stream.

use std::io;

use futures::{Stream, StreamExt, stream};

use crate::daemon::DaemonSignal;

/// `SIGXFSZ` on Linux, macOS and the BSDs.
#[cfg(unix)]
const FILE_TOO_LARGE: i32 = 25;

/// Hears signals from now on.
#[cfg(unix)]
pub(super) fn listen() -> io::Result<impl Stream<Item = DaemonSignal> + Unpin> {
    use tokio::signal::unix::{SignalKind, signal};

    let heard = |kind: SignalKind, means: DaemonSignal| {
        let signals = signal(kind)?;
        Ok::<_, io::Error>(stream::unfold(signals, move |mut signals| async move {
            signals.recv().await.map(|()| (means, signals))
        }))
    };
    // A file that reaches the limit of `ulimit -f` is an error like a full disk, and no reason to be
    // killed: with a handler, the write fails instead.
    let _ = signal(SignalKind::from_raw(FILE_TOO_LARGE))?;
    let terminate = heard(SignalKind::terminate(), DaemonSignal::Terminate)?;
    let interrupt = heard(SignalKind::interrupt(), DaemonSignal::Terminate)?;
    let hang_up = heard(SignalKind::hangup(), DaemonSignal::Reload)?;
    Ok(stream::select(stream::select(terminate, interrupt), hang_up).boxed())
}

/// Hears Ctrl-C from now on.
#[cfg(not(unix))]
pub(super) fn listen() -> io::Result<impl Stream<Item = DaemonSignal> + Unpin> {
    let interrupts = stream::unfold((), |()| async {
        tokio::signal::ctrl_c().await.ok().map(|()| (DaemonSignal::Terminate, ()))
    });
    Ok(interrupts.boxed())
}
