//! What the daemon takes on its command line.

use std::path::PathBuf;

use clap::Args;

use crate::config::{FlagValue, Sources};

/// Runs the server: takes jobs over gRPC, keeps them, works on them, publishes results.
///
/// Settings come from defaults, the file of --config, variables `KEYSTEP__SECTION__KEY` and the
/// flags below, the later over the earlier. docs/configuration.md has them all.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
Examples:
  keystep serve --listen 127.0.0.1:50051 --data-dir /var/lib/keystep --output s3://erased/keystep
  keystep serve --config /etc/keystep.toml --check

Signals: SIGTERM or SIGINT goes away in phases, a second one at once; SIGHUP reads tokens and
certificates again.
Exit codes: 0 fine, 1 it failed or a limit of the shutdown was hit, 64 wrong configuration, 130
ended by a second signal.")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(in crate::cli) struct ServeArguments {
    /// The TOML file with the settings.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Check the settings, print who may do what, and end: 0, or 64 and every violation. Changes
    /// nothing, and reads no file but the configuration and the token file.
    #[arg(long)]
    pub(super) check: bool,
    /// Print the settings, secrets masked, and where each came from, and end.
    #[arg(long)]
    pub(super) print_config: bool,
    /// Where gRPC is served [server.listen, default: 127.0.0.1:50051].
    #[arg(long, value_name = "ADDR")]
    pub(super) listen: Option<String>,
    /// The folder of the daemon's own state [`server.data_dir`, default: keystep-data].
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<String>,
    /// URL prefix that results may be published under; may be given again, the first is the default
    /// [storage.outputs, default: the folder "published" in the data folder].
    #[arg(long, value_name = "URL")]
    pub(super) output: Vec<String>,
    /// Start although the job store does not know the work that lies in the data folder, and remove
    /// that work [`jobs.begin_anew`].
    #[arg(long)]
    pub(super) begin_anew: bool,
    /// File with the hashes of bearer tokens [`authentication.token_file`].
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<String>,
    /// Where Prometheus finds metrics [metrics.listen].
    #[arg(long, value_name = "ADDR")]
    pub(super) metrics_listen: Option<String>,
    /// Serve beyond loopback without TLS or without authentication [server.insecure].
    #[arg(long)]
    pub(super) insecure: bool,
    /// What computes: auto, cpu, cuda or cuda:N [device.name, default: auto].
    #[arg(long, value_name = "DEVICE")]
    pub(super) device: Option<String>,
    /// What the U-Net computes in: f32, f16 or bf16 [`device.compute_type`, default: f32].
    #[arg(long, value_name = "TYPE")]
    pub(super) compute_type: Option<String>,
    /// json or text [log.format, default: json].
    #[arg(long, value_name = "FORMAT")]
    pub(super) log_format: Option<String>,
    /// The lowest level that is logged, or directives [log.level, default: info].
    #[arg(long, value_name = "LEVEL")]
    pub(super) log_level: Option<String>,
    /// Write the address to this file once health says serving.
    #[arg(long, value_name = "FILE")]
    pub(super) ready_file: Option<PathBuf>,
}

impl ServeArguments {
    /// Everything that the settings are made of.
    pub(super) fn sources(&self) -> Sources {
        let environment = std::env::vars_os().collect();
        Sources { environment, ..self.sources_without_environment() }
    }

    pub(super) fn sources_without_environment(&self) -> Sources {
        let mut flags = Vec::new();
        let mut give = |flag, key, value: Option<String>| {
            flags.extend(value.map(|value| FlagValue { flag, key, value }));
        };
        give("--listen", "server.listen", self.listen.clone());
        give("--data-dir", "server.data_dir", self.data_dir.clone());
        for output in &self.output {
            give("--output", "storage.outputs", Some(output.clone()));
        }
        give("--begin-anew", "jobs.begin_anew", self.begin_anew.then(|| "true".to_owned()));
        give("--token-file", "authentication.token_file", self.token_file.clone());
        give("--metrics-listen", "metrics.listen", self.metrics_listen.clone());
        give("--insecure", "server.insecure", self.insecure.then(|| "true".to_owned()));
        give("--device", "device.name", self.device.clone());
        give("--compute-type", "device.compute_type", self.compute_type.clone());
        give("--log-format", "log.format", self.log_format.clone());
        give("--log-level", "log.level", self.log_level.clone());
        Sources { file: self.config.clone(), environment: Vec::new(), flags }
    }
}
