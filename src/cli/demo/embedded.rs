//! The daemon that a demo runs in its own process, for as long as the demo takes.

use std::{path::Path, time::Duration};

use super::demo_run::{DemoRun, Found};
use crate::{
    cli::{
        CliError,
        remote::{Client, RemoteError},
        session::Session,
    },
    config::{Settings, ShutdownSettings},
    daemon::{Daemon, DaemonParts},
    device::EngineSource,
};

/// The daemon's folder within the unfinished result.
pub(super) const FOLDER: &str = ".daemon";

/// Starts the daemon, asks it, and ends it; what it published is then below the folder. No log is
/// set up, so that its lines do not run into the progress.
pub(super) fn ask_own_daemon(
    source: impl EngineSource,
    folder: &Path,
    demo_run: &DemoRun,
    session: &mut Session,
) -> Result<Found, CliError> {
    let settings = settings(folder);
    let interrupt = session.interrupt.clone();
    let display = session.display();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(RemoteError::Runtime)?;
    let found = runtime.block_on(async {
        let daemon = Daemon::start(&settings, DaemonParts::new(source)).await?;
        let asked = async { demo_run.run(Client::near(daemon.address())?, display).await };
        let found = interrupt.unless(asked).await;
        display.finish();
        daemon.stop().await;
        found?
    });
    // Everything that matters is closed; what still blocks a thread must not hold the program.
    runtime.shutdown_background();
    found
}

/// A free port of this machine, and results below the folder itself, as is the default.
fn settings(folder: &Path) -> Settings {
    let mut settings = Settings::default();
    settings.server.listen = ([127, 0, 0, 1], 0).into();
    folder.clone_into(&mut settings.server.data_dir);
    // Ended early, the job is of no use to anybody: it stops at once.
    settings.shutdown = ShutdownSettings {
        drain_delay: Duration::ZERO,
        grace: Duration::ZERO,
        ..ShutdownSettings::default()
    };
    settings
}
