//! `keystep serve`: the daemon.

mod arguments;
mod callers;
mod notify;
mod signals;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

pub(super) use arguments::ServeArguments;

use super::{process::settle_environment, session::print_result};
use crate::{
    auth::TokenFileError,
    config::{self, ConfigError, DeviceSettings, LogFormat, Settings},
    daemon::{self, Daemon, DaemonParts, StartError, available_memory},
    device::CandleSource,
    engine::{ComputeSettings, DeviceChoice, EngineError},
    jobs::{Clock, Identifiers},
    shutdown::Departure,
    telemetry::{self, BuildInfo, LogStyle, TelemetryError},
};
use notify::Notifier;

/// The configuration is wrong.
const BAD_CONFIGURATION: u8 = 64;

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    /// The settings are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Logs or metrics cannot be had.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// Tasks cannot be run.
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
    /// Signals cannot be heard.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    /// The settings of the device are not those of one.
    #[error("{0}")]
    Device(String),
    /// The device that the settings name is not there.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A part of the daemon does not start.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl ServeError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::Telemetry(TelemetryError::Level(_))
            | Self::Device(_)
            | Self::Start(
                StartError::Callers(TokenFileError::Invalid { .. }) | StartError::Signing { .. },
            )
            | Self::Engine(
                EngineError::NoDevice { .. } | EngineError::UnsupportedComputeType { .. },
            ) => BAD_CONFIGURATION,
            _ => 1,
        }
    }

    fn lines(&self) -> Vec<String> {
        if let Self::Config(error) = self {
            return error.lines();
        }
        let mut line = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            let text = error.to_string();
            if !line.contains(&text) {
                line = format!("{line}: {text}");
            }
            source = error.source();
        }
        vec![line]
    }

    fn print(&self) {
        let mut stderr = std::io::stderr().lock();
        for line in self.lines() {
            // A closed stderr leaves nothing to report to.
            let _ = writeln!(stderr, "error: {line}");
        }
    }
}

/// Runs the daemon, or looks at its configuration; gives the exit code.
pub(super) fn run(arguments: &ServeArguments) -> ExitCode {
    match serve(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            error.print();
            ExitCode::from(error.exit_code())
        }
    }
}

fn serve(arguments: &ServeArguments) -> Result<u8, ServeError> {
    let loaded = config::load(&arguments.sources())?;
    if arguments.print_config {
        print_result(&config::print(&loaded)?);
        return Ok(0);
    }
    if arguments.check {
        print_result(&who_may(&loaded.settings)?);
        return Ok(0);
    }
    settle_environment(loaded.settings.device.threads);
    let settings = config::open_files(&loaded)?;
    let json = settings.log.format == LogFormat::Json;
    telemetry::log_to_stderr(&LogStyle { json, level: settings.log.level.clone() })?;
    telemetry::log_panics();
    tracing::info!("{}", BuildInfo::CURRENT);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    let departure = runtime.block_on(run_daemon(&settings, arguments.ready_file.clone()));
    // What still blocks a thread must not hold the process: everything that matters is closed.
    runtime.shutdown_background();
    Ok(departure?.exit_code())
}

/// Reads the token file, where it is here: what is checked may be meant for another machine.
fn who_may(settings: &Settings) -> Result<String, ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(ServeError::Runtime)?;
    match runtime.block_on(daemon::authenticator(settings, Clock::default())) {
        Ok(authenticator) => Ok(callers::callers(settings, &authenticator.allowances())),
        Err(error @ TokenFileError::Unreadable { .. }) => {
            Ok(format!("who may do what: those in the token file, but {error}\n"))
        }
        Err(error) => Err(ServeError::Start(error.into())),
    }
}

async fn run_daemon(
    settings: &Settings,
    ready_file: Option<PathBuf>,
) -> Result<Departure, ServeError> {
    // Before anything else, so that no signal kills what has just begun.
    let signals = signals::listen().map_err(ServeError::Signals)?;
    let _metrics = match settings.metrics.listen {
        Some(address) => {
            let runtime = tokio::runtime::Handle::current();
            let exporter = telemetry::export_metrics(address, &runtime)?;
            tracing::info!("metrics on http://{address}/metrics");
            Some(exporter)
        }
        None => None,
    };
    let available = available_memory();
    let mut sources = Vec::new();
    for compute in computes(&settings.device)? {
        // A device that cannot be had ends the daemon here, rather than every job.
        let opened = compute.open()?;
        tracing::info!("computing on {:?} in {}", opened.device.location(), compute.compute_type);
        let source = CandleSource::new(compute)
            .with_memory_limit(settings.device.memory_limit_bytes)
            .with_available_memory(available);
        sources.push(source);
    }
    if let (None, Some(bytes)) = (settings.device.memory_limit_bytes, available) {
        tracing::info!(
            bytes,
            "device.memory_limit_bytes is unset: on the CPU, what there is holds"
        );
    }
    let (clock, identifiers) = (Clock::default(), Identifiers::default());
    let parts = DaemonParts { sources, clock, identifiers };
    let daemon = Daemon::start(settings, parts).await?;
    let address = daemon.address();
    tracing::info!("listening on {address}");
    let announcing = announce(&daemon, ready_file);
    let departure = daemon.run(signals).await;
    announcing.abort();
    Ok(departure)
}

/// The devices that compute: slots of the CPU share it, on CUDA each has the next device.
fn computes(settings: &DeviceSettings) -> Result<Vec<ComputeSettings>, ServeError> {
    let device = settings.name.parse().map_err(ServeError::Device)?;
    let compute_type = settings.compute_type.parse().map_err(ServeError::Device)?;
    let devices = match device {
        DeviceChoice::Cuda(first) => {
            (0..settings.slots).map(|slot| DeviceChoice::Cuda(first.saturating_add(slot))).collect()
        }
        DeviceChoice::Cpu | DeviceChoice::Auto => vec![device],
    };
    Ok(devices.into_iter().map(|device| ComputeSettings { device, compute_type }).collect())
}

/// Announces that the daemon is ready, and later that it shuts down: to systemd, and by the ready file.
fn announce(daemon: &Daemon, ready_file: Option<PathBuf>) -> tokio::task::JoinHandle<()> {
    let (mut ready, draining, address) = (daemon.ready(), daemon.draining(), daemon.address());
    let notifier = Notifier::of_environment();
    tokio::spawn(async move {
        if ready.wait_for(|is_ready| *is_ready).await.is_ok() {
            notifier.say(&format!("READY=1\nSTATUS=listening on {address}"));
            if let Some(path) = &ready_file
                && let Err(error) = write_whole(path, &address.to_string())
            {
                tracing::error!(path = %path.display(), %error, "the ready file is not written");
            }
        }
        draining.cancelled().await;
        notifier.say("STOPPING=1");
    })
}

/// Writes the file at once, so that a reader that waits for it never sees half of it.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    writeln!(file, "{text}")?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_configuration_has_its_own_code_and_a_line_a_violation() {
        let arguments = ServeArguments {
            listen: Some("0.0.0.0:1".to_owned()),
            output: vec!["nowhere".to_owned()],
            ..ServeArguments::default()
        };
        let error = config::load(&arguments.sources_without_environment()).unwrap_err();
        let error = ServeError::from(error);
        assert_eq!((error.exit_code(), error.lines().len()), (64, 2), "{:?}", error.lines());
        let start = ServeError::from(StartError::DataFolder {
            path: PathBuf::from("x"),
            source: std::io::Error::other("the disk is gone"),
        });
        assert_eq!(start.exit_code(), 1);
        assert!(start.lines()[0].ends_with("--data-dir: the disk is gone"), "{:?}", start.lines());
    }

    #[test]
    fn a_check_says_who_may_what_and_refuses_a_bad_token_file() {
        let check = |tokens: Option<&Path>, client_ca: Option<&str>| {
            let mut settings = Settings::default();
            settings.authentication.token_file = tokens.map(Path::to_owned);
            settings.tls.client_ca = client_ca.map(PathBuf::from);
            who_may(&settings)
        };
        let everybody = check(None, None).unwrap();
        assert!(everybody.contains("\"local\": read, generate, submit, admin;"), "{everybody}");
        let each = check(None, Some("clients.pem")).unwrap();
        assert!(each.contains("each certificate name") && !each.contains("admin"), "{each}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        let elsewhere = check(Some(&path), None).unwrap();
        assert!(elsewhere.contains("cannot read the token file"), "{elsewhere}");
        std::fs::write(&path, "").unwrap();
        assert!(check(Some(&path), None).unwrap().contains("nobody"));
        std::fs::write(&path, "token = 3").unwrap();
        let error = check(Some(&path), None).unwrap_err();
        assert_eq!(error.exit_code(), 64, "{:?}", error.lines());
    }

    #[test]
    fn a_device_that_is_not_there_is_wrong_configuration() {
        let settings = DeviceSettings { name: "cuda:4096".to_owned(), ..DeviceSettings::default() };
        let error = ServeError::from(computes(&settings).unwrap()[0].open().unwrap_err());
        assert_eq!(error.exit_code(), 64);
        assert!(error.lines()[0].contains("docs/cuda.md"), "{:?}", error.lines());
        // What the settings accept is what the engine understands.
        for (name, accepted) in
            [("auto", true), ("cpu", true), ("cuda", true), ("cuda:7", true), ("gpu", false)]
        {
            let settings = DeviceSettings { name: name.to_owned(), ..DeviceSettings::default() };
            assert_eq!(computes(&settings).is_ok(), accepted, "{name}");
            let arguments =
                ServeArguments { device: Some(name.to_owned()), ..ServeArguments::default() };
            let loaded = config::load(&arguments.sources_without_environment());
            assert_eq!(loaded.is_ok(), accepted, "{name}");
        }
    }

    #[test]
    fn slots_share_the_cpu_and_have_cuda_devices_of_their_own() {
        let devices = |name: &str| {
            let settings =
                DeviceSettings { name: name.to_owned(), slots: 2, ..DeviceSettings::default() };
            let computes = computes(&settings).unwrap().into_iter();
            computes.map(|compute| compute.device.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(devices("cpu"), ["cpu"]);
        assert_eq!(devices("cuda:3"), ["cuda:3", "cuda:4"]);
    }

    #[test]
    fn the_ready_file_holds_the_address() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ready");
        write_whole(&path, "127.0.0.1:5").unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "127.0.0.1:5\n");
    }
}
