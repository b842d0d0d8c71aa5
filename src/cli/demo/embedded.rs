//! The daemon that a demo runs in its own process, for as long as the demo takes.

use std::{path::Path, time::Duration};

use super::demo_run::{DemoAnswers, DemoRun};
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

/// Starts the daemon, makes the demo's calls, and stops it; what it published is then below the folder.
/// Sets up no log, whose lines would mix with the progress.
pub(super) fn ask_own_daemon(
    source: impl EngineSource,
    folder: &Path,
    demo_run: &DemoRun,
    session: &mut Session,
) -> Result<DemoAnswers, CliError> {
    let settings = settings(folder);
    let interrupt = session.interrupt.clone();
    let display = session.display();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(RemoteError::Runtime)?;
    let answers = runtime.block_on(async {
        let daemon = Daemon::start(&settings, DaemonParts::new(source)).await?;
        let asked = async { demo_run.run(Client::near(daemon.address())?, display).await };
        let answers = interrupt.unless(asked).await;
        display.finish();
        daemon.stop().await;
        answers?
    });
    // Everything that matters is closed; what still blocks a thread must not hold the program.
    runtime.shutdown_background();
    answers
}

/// Listens on a free port of this machine, and publishes below the folder itself, as by default.
fn settings(folder: &Path) -> Settings {
    let mut settings = Settings::default();
    settings.server.listen = ([127, 0, 0, 1], 0).into();
    folder.clone_into(&mut settings.server.data_dir);
    // A demo that ends early has no use for its job, which stops at once.
    settings.shutdown = ShutdownSettings {
        drain_delay: Duration::ZERO,
        grace: Duration::ZERO,
        ..ShutdownSettings::default()
    };
    settings
}
