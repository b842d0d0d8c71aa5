//! The settings, section by section, each key with its default and its line of the reference.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Secret,
    section::{Key, Kind, Section, Setting, section},
};

/// One mebibyte.
const MIB: u64 = 1 << 20;

/// The settings of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Base models of the catalogue, beside the built-in one.
    pub models: Vec<ModelSettings>,
    /// Folders of judges by the names that requests call them by.
    pub judges: BTreeMap<String, PathBuf>,
    /// The gRPC server.
    pub server: ServerSettings,
    /// Encryption of the gRPC server.
    pub tls: TlsSettings,
    /// Who may call.
    pub authentication: AuthenticationSettings,
    /// How much one call or caller may ask for.
    pub limits: LimitSettings,
    /// The queue and its jobs.
    pub jobs: JobSettings,
    /// How long finished results wait for an output that fails.
    pub publishing: PublishingSettings,
    /// Who signs results.
    pub signing: SigningSettings,
    /// Where results are published.
    pub storage: StorageSettings,
    /// Local copies of base models.
    pub cache: CacheSettings,
    /// What computes.
    pub device: DeviceSettings,
    /// What is logged, and how.
    pub log: LogSettings,
    /// The Prometheus endpoint.
    pub metrics: MetricsSettings,
    /// How long each phase of a shutdown may take.
    pub shutdown: ShutdownSettings,
}

impl Settings {
    /// The base models, above all sections.
    const MODELS: Key = Key {
        section: "",
        name: "models",
        about: &[
            "Base models of the catalogue, beside the built-in emoji-canvas; a table for each.",
            "The name is what requests say, the url a folder in the layout of diffusers (file://,",
            "s3://, gs:// or az://), the sha256 optional: the digest that the model must have.",
        ],
        kind: Kind::Models,
        example: Some("[{ name = \"sd-1-4\", url = \"s3://models/sd-1-4\" }]"),
    };

    /// The judges, above all sections.
    const JUDGES: Key = Key {
        section: "",
        name: "judges",
        about: &[
            "Folders of judges on this machine, beside what models bring of their own, by the names",
            "that requests call them by; docs/judges.md says what lies in one. A folder that is",
            "changed needs another name: equal requests are answered from results that there are.",
        ],
        kind: Kind::Folders,
        example: Some("{ unlearncanvas = \"/srv/judges/unlearncanvas\" }"),
    };

    /// The keys above all sections, in the order of the reference.
    pub(super) const ABOVE_SECTIONS: [Key; 2] = [Self::MODELS, Self::JUDGES];

    /// The sections in the order of the reference.
    pub(super) const SECTIONS: [Section; 13] = [
        ServerSettings::SECTION,
        TlsSettings::SECTION,
        AuthenticationSettings::SECTION,
        LimitSettings::SECTION,
        JobSettings::SECTION,
        PublishingSettings::SECTION,
        SigningSettings::SECTION,
        StorageSettings::SECTION,
        CacheSettings::SECTION,
        DeviceSettings::SECTION,
        LogSettings::SECTION,
        MetricsSettings::SECTION,
        ShutdownSettings::SECTION,
    ];

    /// Every key.
    pub(super) fn keys() -> impl Iterator<Item = Key> {
        let of_sections =
            Self::SECTIONS.into_iter().flat_map(|section| section.keys.iter().copied());
        Self::ABOVE_SECTIONS.into_iter().chain(of_sections)
    }
}

/// A base model of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// What requests call it.
    pub name: String,
    /// A folder in the layout of diffusers.
    pub url: String,
    /// The digest that the model must have, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

impl Setting for Vec<ModelSettings> {
    const KIND: Kind = Kind::Models;
}

impl Setting for BTreeMap<String, PathBuf> {
    const KIND: Kind = Kind::Folders;
}

/// What a caller with a client certificate may do; `admin` sees and changes everybody's operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateRole {
    /// See models and its own operations.
    Read,
    /// Draw and score.
    Generate,
    /// Submit jobs.
    Submit,
    /// Everything.
    Admin,
}

impl Setting for Vec<CertificateRole> {
    const KIND: Kind = Kind::List;
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    Json,
    /// For people.
    Text,
}

impl Setting for LogFormat {
    const KIND: Kind = Kind::Text;
}

section! {
    /// The gRPC server.
    pub struct ServerSettings at "server" {
        /// Where gRPC is served. Anything beyond loopback needs `tls` and `authentication`.
        pub listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 50051));
        /// Serve beyond loopback without TLS or without authentication; for networks where another
        /// layer does both.
        pub insecure: bool = false;
        /// The folder of the daemon's own state: database, saved training, cached models.
        pub data_dir: PathBuf = PathBuf::from("keystep-data");
        /// The longest request message.
        pub max_message_bytes: usize = 1 << 20;
        /// Most calls at a time on one connection.
        pub max_concurrent_streams: u32 = 256;
        /// Most connections at a time. For one beyond, the longest without a call of a known caller
        /// is closed; where all are in use, it may ask for health alone.
        pub max_connections: usize = 1024;
        /// Most of them from one address, or one IPv6 network of 64 bits; raise it behind a proxy,
        /// whose address all its clients share. Unset: a quarter of `max_connections`.
        pub max_connections_of_address: Option<usize> = None, example "256";
        /// How long a connection may be without a call before it is closed (GOAWAY).
        #[serde(with = "humantime_serde")]
        pub max_connection_idle: Duration = Duration::from_mins(5);
        /// How long a connection takes new calls; then it is closed (GOAWAY) as soon as those in it
        /// have ended.
        #[serde(with = "humantime_serde")]
        pub max_connection_age: Duration = Duration::from_hours(1);
        /// Serve gRPC reflection of the public services.
        pub reflection: bool = true;
    }
}

section! {
    /// Encryption of the gRPC server. The files are read again when they change, and on
    /// SIGHUP.
    pub struct TlsSettings at "tls" {
        /// PEM file with the server's certificate and those above it.
        pub certificate: Option<PathBuf> = None, example "\"/etc/keystep/tls.pem\"";
        /// PEM file with the certificate's private key.
        pub key: Option<PathBuf> = None, example "\"/etc/keystep/tls.key\"";
        /// PEM file with the authorities whose certificates clients must show (mutual TLS).
        pub client_ca: Option<PathBuf> = None, example "\"/etc/keystep/clients.pem\"";
    }
}

section! {
    /// Who may call. The file is read again when it changes, and on SIGHUP.
    pub struct AuthenticationSettings at "authentication" {
        /// File with the hashes of bearer tokens, each with its principal, roles and limits.
        pub token_file: Option<PathBuf> = None, example "\"/etc/keystep/tokens.toml\"";
        /// Roles of everybody who shows a client certificate, where `tls.client_ca` is set and
        /// `token_file` is not: read, generate, submit, admin. Each certificate is a principal of its
        /// own, named by its first SAN URI, else its first SAN DNS name, else its common name.
        pub certificate_roles: Vec<CertificateRole> =
            vec![CertificateRole::Read, CertificateRole::Generate, CertificateRole::Submit];
    }
}

section! {
    /// How much one call or caller may ask for.
    pub struct LimitSettings at "limits" {
        /// Most jobs that wait, of all callers.
        pub queued_total: u64 = 10_000;
        /// Most jobs that wait, of one caller, unless the token file gives the caller its own.
        pub queued_of_principal: u64 = 1_000;
        /// Most bytes that are stored for one caller: its jobs and scores, done or not.
        pub stored_bytes_of_principal: u64 = 1024 * MIB;
        /// The longest prompt or concept, in characters.
        pub prompt_characters: usize = 1_000;
        /// Most pictures of one Generate call.
        pub images_per_call: usize = 64;
        /// Most pixels of one picture.
        pub pixels_per_image: usize = 1024 * 1024;
        /// Most pixels that one Generate call may denoise: pictures × steps × pixels of a picture.
        pub pixel_steps_per_call: u64 = 1 << 30;
        /// Most U-Net evaluations of one `ScoreTimesteps` call: steps × trajectories × 3, and more with
        /// each measure.
        pub score_evaluations_per_call: u64 = 100_000;
        /// Most calls that wait for the device; as many plans may wait beside them.
        pub interactive_queue: usize = 16;
        /// Most of them that one caller may have.
        pub interactive_queue_of_principal: usize = 8;
    }
}

section! {
    /// The queue and its jobs.
    pub struct JobSettings at "jobs" {
        /// How long a worker holds a job without a sign of life before another may take it.
        #[serde(with = "humantime_serde")]
        pub lease: Duration = Duration::from_mins(1);
        /// How often a worker gives that sign; the lease must be more than twice as long.
        #[serde(with = "humantime_serde")]
        pub extend_every: Duration = Duration::from_secs(15);
        /// How often leases, deadlines and retention that have passed are looked for.
        #[serde(with = "humantime_serde")]
        pub sweep_every: Duration = Duration::from_secs(5);
        /// How often a job is tried where it fails in a way that may pass, and how often in a row its
        /// worker may be lost before it has saved anything new.
        pub max_attempts: u32 = 3;
        /// How long a finished job and its events are kept.
        #[serde(with = "humantime_serde")]
        pub retention: Duration = Duration::from_hours(30 * 24);
        /// Updates between two saves of the training state, from which a lost job resumes; where
        /// they take long, it is saved more often.
        pub save_every_updates: usize = 25;
        /// URL below which training state and finished results are kept as well (file://, s3://, gs://,
        /// az://), so that a worker with another disk can take a job up. Unset: on the local disk alone.
        pub state_url: Option<String> = None, example "\"s3://erased/state\"";
        /// Start although the data folder holds work of jobs that the store does not know, as where
        /// the store was lost, and remove that work.
        pub begin_anew: bool = false;
    }
}

section! {
    /// How long finished results wait for an output that fails. Meanwhile no job is claimed.
    pub struct PublishingSettings at "publishing" {
        /// How long a finished result is tried to be published, from the first failure on; a job's
        /// deadline may end it earlier.
        #[serde(with = "humantime_serde")]
        pub retry_for: Duration = Duration::from_hours(12);
        /// The longest wait between two tries; it begins with two seconds and doubles.
        #[serde(with = "humantime_serde")]
        pub longest_wait: Duration = Duration::from_mins(1);
        /// How long the result is kept after its job failed so, for `PublishResult`; at most as long as
        /// the job itself (`jobs.retention`).
        #[serde(with = "humantime_serde")]
        pub keep_unpublished: Duration = Duration::from_hours(7 * 24);
    }
}

section! {
    /// Who signs results, so that others can check them with `keystep verify`: docs/provenance.md says
    /// how keys are made. Unset: results are published unsigned.
    pub struct SigningSettings at "signing" {
        /// PEM file with the private key and no passphrase: ECDSA P-256 (PKCS#8 or SEC1), or Ed25519
        /// (PKCS#8), which signs statements and no model folder. Read at the start.
        pub key_file: Option<PathBuf> = None, example "\"/run/secrets/signing-key.pem\"";
        /// URI that stands for this deployment in what it signs, and needs to lead nowhere.
        pub builder_id: Option<String> = None, example "\"https://models.example/keystep\"";
    }
}

section! {
    /// Where results are published, and the bucket's access.
    pub struct StorageSettings at "storage" {
        /// URL prefixes that results may be published under (file://, s3://, gs://, az://); the
        /// first is the default. Unset: the folder `published` in `server.data_dir`.
        pub outputs: Vec<String> = Vec::new(), example "[\"s3://erased/keystep\"]";
        /// Address of an S3 service other than Amazon's.
        pub endpoint: Option<String> = None, example "\"https://minio.internal:9000\"";
        /// Region of the bucket.
        pub region: Option<String> = None, example "\"eu-central-1\"";
        /// Reach the bucket without TLS.
        pub allow_http: bool = false;
        /// Name of the access key. Unset: what the machine's own role grants.
        pub access_key_id: Option<String> = None, example "\"AKIAEXAMPLE\"";
        /// The access key, given in the environment only; in a file, use
        /// `secret_access_key_file`.
        pub secret_access_key: Option<Secret> = None;
        /// File that holds the access key and nothing else.
        pub secret_access_key_file: Option<PathBuf> = None, example "\"/run/secrets/s3-key\"";
        /// Size of the parts that large files are uploaded in.
        pub part_bytes: u64 = 8 * MIB;
        /// Most parts of one upload on their way at a time.
        pub parts_in_flight: usize = 4;
    }
}

section! {
    /// Local copies of base models that are read from buckets, and pictures that base models drew to
    /// be judged by.
    pub struct CacheSettings at "cache" {
        /// Most bytes that they take, pictures at most an eighth of them; the longest unused go first.
        pub max_bytes: u64 = 50 * 1024 * MIB;
    }
}

section! {
    /// What computes.
    pub struct DeviceSettings at "device" {
        /// `auto` (the first CUDA device where this build knows CUDA and one answers, else the CPU),
        /// `cpu`, `cuda` or `cuda:N`.
        pub name: String = "auto".to_owned();
        /// What the U-Net computes in: `f32`, or on CUDA `f16` or `bf16`. Trained weights are f32.
        pub compute_type: String = "f32".to_owned();
        /// Jobs that are worked on side by side. Slots of the CPU share its cores, so that each job
        /// takes longer, and its memory: a job that does not fit beside the others waits. On CUDA each
        /// slot takes a device of its own, from `device.name` on. With more than one, `device.name`
        /// must say which of the two it is.
        pub slots: usize = 1;
        /// Threads that compute. Unset: as many as cores.
        pub threads: Option<usize> = None, example "8";
        /// Most bytes that the process may take: loaded models, the jobs under way and the calls beside
        /// them together; on CUDA, on each device. To stay below, it computes parts of the network
        /// twice, runs fewer passes side by side and decodes large pictures in tiles; what cannot be
        /// made to fit is refused. Unset: on the CPU nine tenths of what cgroup, address space and
        /// machine leave at the start, on CUDA no limit.
        pub memory_limit_bytes: Option<u64> = None, example "17179869184";
        /// Most models that stay in memory at a time, and fewer where the memory is needed.
        pub loaded_models: usize = 2;
    }
}

section! {
    /// What is logged, to standard error.
    pub struct LogSettings at "log" {
        /// `json`, one object a line, or `text`.
        pub format: LogFormat = LogFormat::Json;
        /// The lowest level, or directives such as `info,keystep::worker=debug`.
        pub level: String = "info".to_owned();
        /// Log prompts and concepts as they are, and not as digests.
        pub log_prompts: bool = false;
    }
}

section! {
    /// The Prometheus endpoint: plain HTTP without authentication.
    pub struct MetricsSettings at "metrics" {
        /// Where `/metrics` is served; the address decides who can read it. Unset: nowhere.
        pub listen: Option<SocketAddr> = None, example "\"127.0.0.1:9464\"";
    }
}

section! {
    /// How long each phase of a shutdown may take.
    pub struct ShutdownSettings at "shutdown" {
        /// How long calls are still taken after health says not-serving, for load balancers.
        #[serde(with = "humantime_serde")]
        pub drain_delay: Duration = Duration::ZERO;
        /// How long calls under way may take to finish.
        #[serde(with = "humantime_serde")]
        pub unary: Duration = Duration::from_secs(10);
        /// How long a running job may take to finish before it is saved and given back.
        #[serde(with = "humantime_serde")]
        pub grace: Duration = Duration::from_mins(1);
        /// How long saving and publishing may take after that.
        #[serde(with = "humantime_serde")]
        pub publish_grace: Duration = Duration::from_mins(2);
    }
}
