//! Logs to standard error, as lines for people or as JSON for machines.

use std::io::stderr;

use tracing_subscriber::{EnvFilter, util::SubscriberInitExt};

use super::TelemetryError;

/// The form of log lines, and which are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogStyle {
    /// Whether each line is a JSON object, else text.
    pub json: bool,
    /// A level, or directives such as `info,keystep::worker=debug`.
    pub level: String,
}

/// Sets the process's logs up; once a process.
pub fn log_to_stderr(style: &LogStyle) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&style.level)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    let set_up = if style.json {
        lines.json().flatten_event(true).with_span_list(true).finish().try_init()
    } else {
        // Colours would end up in files.
        lines.with_ansi(false).finish().try_init()
    };
    set_up.map_err(|_| TelemetryError::SetUpBefore { what: "logs" })
}

/// Logs panics as events; without this they would be bare text among JSON.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        tracing::error!(panic = message, place, thread, "panicked");
    }));
}
