//! Checks the rules that types do not express: ranges, and what one section demands of another.
//! Opens no file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Debug, Display},
    net::SocketAddr,
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use tracing_subscriber::EnvFilter;
use url::Url;

use super::{
    ConfigViolation, DeviceSettings, ModelSettings, Origin, Settings, SigningSettings,
    secret::masked,
};

/// The schemes of URLs of models and results.
const SCHEMES: [&str; 4] = ["file", "s3", "gs", "az"];
/// The name of the model that is built in.
const BUILTIN: &str = "emoji-canvas";
/// The longest duration that a setting may have.
const LONGEST: Duration = Duration::from_hours(10 * 365 * 24);

/// Every rule that the settings break.
pub(super) fn validate(settings: &Settings) -> Vec<ConfigViolation> {
    let mut violations = Violations::default();
    exposure(settings, &mut violations);
    numbers(settings, &mut violations);
    durations(settings, &mut violations);
    storage(settings, &mut violations);
    signing(&settings.signing, &mut violations);
    models(&settings.models, &mut violations);
    judges(&settings.judges, &mut violations);
    device(&settings.device, &mut violations);
    let level = &settings.log.level;
    if let Err(error) = EnvFilter::try_new(level) {
        let remedy = "give error, warn, info, debug or trace, or directives";
        violations.add("log.level", format!("{level:?}"), &error.to_string(), remedy);
    }
    violations.0
}

#[derive(Debug, Default)]
struct Violations(Vec<ConfigViolation>);

impl Violations {
    fn add(&mut self, key: &str, value: impl Display, problem: &str, remedy: &str) {
        self.0.push(ConfigViolation {
            key: key.to_owned(),
            value: value.to_string(),
            origin: Origin::Default,
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
        });
    }

    fn within<T: PartialOrd + Display>(&mut self, key: &str, value: T, range: &RangeInclusive<T>) {
        if !range.contains(&value) {
            let remedy = format!("give a number from {} to {}", range.start(), range.end());
            self.add(key, value, "is out of range", &remedy);
        }
    }

    fn duration(&mut self, key: &str, value: Duration, least: Duration) {
        if !(least..=LONGEST).contains(&value) {
            let remedy = format!("give at least {least:?} and at most ten years");
            self.add(key, quoted(value), "is out of range", &remedy);
        }
    }
}

/// A server that is reachable from outside needs TLS and authentication.
fn exposure(settings: &Settings, violations: &mut Violations) {
    let (server, tls) = (&settings.server, &settings.tls);
    let encrypted = tls.certificate.is_some() && tls.key.is_some();
    let known = settings.authentication.token_file.is_some() || tls.client_ca.is_some();
    let is_hidden = server.listen.ip().is_loopback() || server.insecure;
    let is_safe = encrypted && known;
    if !(is_hidden || is_safe) {
        let missing = match (encrypted, known) {
            (false, false) => "TLS and authentication",
            (false, true) => "TLS",
            _ => "authentication",
        };
        violations.add(
            "server.listen",
            quoted(server.listen),
            &format!("listens beyond loopback without {missing}"),
            "set tls.certificate, tls.key and authentication.token_file, listen on 127.0.0.1, or \
             write server.insecure = true",
        );
    }
    match (&tls.certificate, &tls.key) {
        (Some(path), None) => {
            violations.add("tls.certificate", shown(path), "has no private key", "set tls.key");
        }
        (None, Some(path)) => {
            violations.add("tls.key", shown(path), "has no certificate", "set tls.certificate");
        }
        _ => {}
    }
    if let Some(path) = &tls.client_ca
        && !encrypted
    {
        let remedy = "set tls.certificate and tls.key, or unset it";
        violations.add("tls.client_ca", shown(path), "needs TLS", remedy);
    }
    if settings.authentication.certificate_roles.is_empty() {
        let remedy = "give some of read, generate, submit and admin, or unset it";
        violations.add("authentication.certificate_roles", "[]", "lets nobody do anything", remedy);
    }
    if let Some(listen) = settings.metrics.listen
        && collide(listen, server.listen)
    {
        let problem = format!("is taken by server.listen, {}", server.listen);
        violations.add("metrics.listen", quoted(listen), &problem, "give another port");
    }
    if server.data_dir.as_os_str().is_empty() {
        violations.add("server.data_dir", "\"\"", "is empty", "name a folder");
    }
}

/// The device's names alone: opening it shows whether it answers.
fn device(device: &DeviceSettings, violations: &mut Violations) {
    let name = device.name.as_str();
    let number = name.strip_prefix("cuda:").map(str::parse::<usize>);
    if !(["auto", "cpu", "cuda"].contains(&name) || matches!(number, Some(Ok(_)))) {
        let remedy = "give auto, cpu, cuda or cuda:N";
        violations.add("device.name", format!("{name:?}"), "is no device", remedy);
    }
    if device.slots > 1 && name == "auto" {
        let problem = "leaves open where the slots are while device.name is \"auto\"";
        let remedy = "give device.name cpu, or cuda:N for devices from N on";
        violations.add("device.slots", device.slots, problem, remedy);
    }
    let compute_type = device.compute_type.as_str();
    if !["f32", "f16", "bf16"].contains(&compute_type) {
        let remedy = "give f32, f16 or bf16";
        let value = format!("{compute_type:?}");
        violations.add("device.compute_type", value, "is no type to compute in", remedy);
    } else if name == "cpu" && compute_type != "f32" {
        let remedy = "give f32, or a CUDA device as device.name";
        let value = format!("{compute_type:?}");
        violations.add("device.compute_type", value, "is not what a CPU computes in", remedy);
    }
}

/// Whether the two addresses exclude each other; port 0 is any free one.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && one.port() != 0
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

fn numbers(settings: &Settings, violations: &mut Violations) {
    const GIB: u64 = 1 << 30;
    let Settings { server, limits, jobs, storage, cache, device, .. } = settings;
    violations.within("server.max_message_bytes", server.max_message_bytes, &(1024..=64 << 20));
    violations.within(
        "server.max_concurrent_streams",
        server.max_concurrent_streams,
        &(1..=1 << 20),
    );
    violations.within("server.max_connections", server.max_connections, &(1..=1 << 20));
    let of_address = server.max_connections_of_address;
    violations.within("server.max_connections_of_address", of_address.unwrap_or(1), &(1..=1 << 20));
    violations.within("limits.queued_total", limits.queued_total, &(1..=10_000_000));
    violations.within("limits.queued_of_principal", limits.queued_of_principal, &(1..=10_000_000));
    // Less would not hold one request of the longest kind.
    let stored = limits.stored_bytes_of_principal;
    violations.within("limits.stored_bytes_of_principal", stored, &(4 << 20..=1 << 50));
    violations.within("limits.prompt_characters", limits.prompt_characters, &(1..=100_000));
    violations.within("limits.images_per_call", limits.images_per_call, &(1..=10_000));
    violations.within("limits.pixels_per_image", limits.pixels_per_image, &(64..=1 << 26));
    violations.within("limits.interactive_queue", limits.interactive_queue, &(1..=10_000));
    let of_principal = limits.interactive_queue_of_principal;
    violations.within("limits.interactive_queue_of_principal", of_principal, &(1..=10_000));
    let pixel_steps = limits.pixel_steps_per_call;
    violations.within("limits.pixel_steps_per_call", pixel_steps, &(64..=1 << 60));
    let evaluations = limits.score_evaluations_per_call;
    violations.within("limits.score_evaluations_per_call", evaluations, &(1..=1 << 60));
    violations.within("jobs.max_attempts", jobs.max_attempts, &(1..=1_000));
    violations.within("jobs.save_every_updates", jobs.save_every_updates, &(1..=1_000_000));
    // What S3 takes as a part of an upload.
    violations.within("storage.part_bytes", storage.part_bytes, &(5 << 20..=5 * GIB));
    violations.within("storage.parts_in_flight", storage.parts_in_flight, &(1..=1_000));
    violations.within("cache.max_bytes", cache.max_bytes, &(1..=1 << 60));
    violations.within("device.slots", device.slots, &(1..=64));
    violations.within("device.threads", device.threads.unwrap_or(1), &(1..=4_096));
    let memory_limit = device.memory_limit_bytes.unwrap_or(1 << 30);
    violations.within("device.memory_limit_bytes", memory_limit, &(1 << 20..=1 << 60));
    violations.within("device.loaded_models", device.loaded_models, &(1..=1_000));
    if limits.queued_of_principal > limits.queued_total {
        let problem = format!("is more than limits.queued_total, {}", limits.queued_total);
        let remedy = "lower it, or raise limits.queued_total";
        violations.add("limits.queued_of_principal", limits.queued_of_principal, &problem, remedy);
    }
}

fn durations(settings: &Settings, violations: &mut Violations) {
    let Settings { jobs, publishing, shutdown, .. } = settings;
    let moment = Duration::from_millis(10);
    let server = &settings.server;
    let second = Duration::from_secs(1);
    violations.duration("server.max_connection_idle", server.max_connection_idle, second);
    violations.duration("server.max_connection_age", server.max_connection_age, second);
    violations.duration("jobs.lease", jobs.lease, moment);
    violations.duration("jobs.extend_every", jobs.extend_every, moment);
    violations.duration("jobs.sweep_every", jobs.sweep_every, moment);
    violations.duration("jobs.retention", jobs.retention, Duration::from_secs(1));
    violations.duration("publishing.retry_for", publishing.retry_for, Duration::ZERO);
    violations.duration("publishing.longest_wait", publishing.longest_wait, moment);
    violations.duration("publishing.keep_unpublished", publishing.keep_unpublished, Duration::ZERO);
    violations.duration("shutdown.drain_delay", shutdown.drain_delay, Duration::ZERO);
    violations.duration("shutdown.unary", shutdown.unary, Duration::ZERO);
    violations.duration("shutdown.grace", shutdown.grace, Duration::ZERO);
    violations.duration("shutdown.publish_grace", shutdown.publish_grace, Duration::ZERO);
    if jobs.lease <= jobs.extend_every.saturating_mul(2) {
        let every = jobs.extend_every;
        violations.add(
            "jobs.lease",
            quoted(jobs.lease),
            &format!("is not more than twice jobs.extend_every, {every:?}: one lost sign of life would end it"),
            "lengthen it, or shorten jobs.extend_every",
        );
    }
}

fn storage(settings: &Settings, violations: &mut Violations) {
    let storage = &settings.storage;
    for (index, text) in storage.outputs.iter().enumerate() {
        if let Err((problem, remedy)) = place(text) {
            violations.add(
                &format!("storage.outputs[{index}]"),
                quoted(masked(text)),
                &problem,
                remedy,
            );
        }
    }
    if let Some(text) = &settings.jobs.state_url
        && let Err((problem, remedy)) = place(text)
    {
        violations.add("jobs.state_url", quoted(masked(text)), &problem, remedy);
    }
    if let Some(text) = &storage.endpoint {
        match Url::parse(text) {
            Ok(url) if has_password(&url) => {
                let remedy = "give storage.access_key_id and storage.secret_access_key_file";
                violations.add(
                    "storage.endpoint",
                    quoted(masked(text)),
                    "holds a password",
                    remedy,
                );
            }
            Ok(url) if url.query().is_some() || url.fragment().is_some() => {
                let remedy = "leave it out; keys belong under [storage]";
                let problem = "has a query or fragment";
                violations.add("storage.endpoint", quoted(masked(text)), problem, remedy);
            }
            Ok(url) if url.scheme() == "https" && url.has_host() => {}
            Ok(url) if url.scheme() == "http" && url.has_host() => {
                if !storage.allow_http {
                    let remedy = "use https, or write storage.allow_http = true";
                    violations.add("storage.endpoint", quoted(text), "is not encrypted", remedy);
                }
            }
            _ => {
                let remedy = "give an address such as https://minio.internal:9000";
                let value = quoted(masked(text));
                violations.add("storage.endpoint", value, "is no http or https URL", remedy);
            }
        }
    }
    let secret = storage.secret_access_key.is_some() || storage.secret_access_key_file.is_some();
    match &storage.access_key_id {
        Some(id) if !secret => {
            let remedy = "set storage.secret_access_key_file, or \
                          KEYSTEP__STORAGE__SECRET_ACCESS_KEY in the environment";
            violations.add("storage.access_key_id", quoted(id), "has no secret", remedy);
        }
        None if secret => {
            let problem = "is not set, but its secret is";
            violations.add(
                "storage.access_key_id",
                "",
                problem,
                "name the access key, or unset both",
            );
        }
        _ => {}
    }
    if let (Some(_), Some(path)) = (&storage.secret_access_key, &storage.secret_access_key_file) {
        let problem = "storage.secret_access_key is set too";
        violations.add(
            "storage.secret_access_key_file",
            shown(path),
            problem,
            "give one of the two",
        );
    }
}

/// A key signs for somebody, and nobody signs without one.
fn signing(settings: &SigningSettings, violations: &mut Violations) {
    match (&settings.key_file, &settings.builder_id) {
        (Some(path), None) => {
            let remedy = "set signing.builder_id to a URI that stands for this deployment";
            violations.add("signing.key_file", shown(path), "signs for nobody", remedy);
        }
        (None, Some(id)) => {
            let remedy = "set signing.key_file, or unset it";
            violations.add("signing.builder_id", quoted(id), "has no key", remedy);
        }
        (Some(_), Some(id)) if Url::parse(id).is_err() => {
            let remedy = "give one such as https://models.example/keystep";
            violations.add("signing.builder_id", quoted(id), "is no URI", remedy);
        }
        _ => {}
    }
}

fn models(models: &[ModelSettings], violations: &mut Violations) {
    let mut names = BTreeSet::from([BUILTIN]);
    for (index, model) in models.iter().enumerate() {
        let key = |part: &str| format!("models[{index}].{part}");
        let name = &model.name;
        if !is_name(name) {
            violations.add(&key("name"), quoted(name), "is no name of a model", NAME_REMEDY);
        } else if !names.insert(name) {
            let problem = "is taken by another model";
            violations.add(&key("name"), quoted(name), problem, "give another name");
        }
        if let Err((problem, remedy)) = place(&model.url) {
            violations.add(&key("url"), quoted(masked(&model.url)), &problem, remedy);
        }
        if let Some(digest) = &model.sha256
            && (digest.len() != 64 || !digest.chars().all(|c| c.is_ascii_hexdigit()))
        {
            let remedy = "give 64 hexadecimal digits, or unset it";
            violations.add(&key("sha256"), quoted(digest), "is no SHA-256", remedy);
        }
    }
}

fn judges(judges: &BTreeMap<String, PathBuf>, violations: &mut Violations) {
    for (name, folder) in judges {
        let key = format!("judges.{name}");
        if !is_name(name) {
            violations.add("judges", quoted(name), "is no name of a judge", NAME_REMEDY);
        } else if !folder.is_absolute() {
            let problem = "is no absolute path";
            violations.add(&key, shown(folder), problem, "give a folder such as /srv/judges/vit");
        }
    }
}

const NAME_REMEDY: &str =
    "give up to 63 of a-z, 0-9, '-', '.' and '_', the first a letter or digit";

/// Whether requests can call a model or a judge so.
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    starts && name.len() <= 63 && name.chars().all(plain)
}

/// Checks that a text is a URL of models or results; else returns the problem and the remedy.
fn place(text: &str) -> Result<(), (String, &'static str)> {
    const REMEDY: &str = "give a URL such as file:///srv/keystep, s3://bucket/prefix, \
                          gs://bucket/prefix or az://container/prefix";
    let url = Url::parse(text).map_err(|error| (format!("is no URL: {error}"), REMEDY))?;
    if !SCHEMES.contains(&url.scheme()) {
        return Err((format!("has the scheme {:?}", url.scheme()), REMEDY));
    }
    if has_password(&url) {
        let remedy = "give the credentials under [storage]";
        return Err(("holds a password".to_owned(), remedy));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(("has a query or fragment".to_owned(), REMEDY));
    }
    if url.scheme() == "file" {
        if url.to_file_path().is_err() {
            return Err(("is no path of this machine".to_owned(), REMEDY));
        }
    } else if !url.has_host() {
        return Err(("names no bucket".to_owned(), REMEDY));
    }
    Ok(())
}

fn has_password(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

fn quoted(value: impl Debug) -> String {
    let text = format!("{value:?}");
    if text.starts_with('"') { text } else { format!("\"{text}\"") }
}

fn shown(path: &std::path::Path) -> String {
    format!("\"{}\"", path.display())
}
