//! The daemon with clients and servers that are not ours: Python's grpcio, moto's S3, Azurite, a
//! network that fails and a disk that is full. `tests/interop/README.md` says how to run the parts
//! by hand.
//!
//! What is not ours is installed once, from pinned lists, below `target/tmp/interop`. Where that
//! cannot be, a test says `skipped:` and why; with `KEYSTEP_INTEROP=required` it fails.
#![cfg(all(unix, feature = "server"))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]

mod gate;
mod outage;
mod processes;
mod signing;
mod tools;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use keystep::auth::{NewToken, Role, TokenGrant};
use processes::{Daemon, Server, Setup, local};
use serde_json::{Value, json};
use tools::{SCRIPTS, python, skip, tail};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const BUCKET: &str = "erased";
/// Azurite's one account, as its manual gives it.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str = concat!(
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/",
    "K1SZFPTOtr/KBHBeksoGMGw=="
);
/// The smallest part that S3 takes, so that the model's files go in several.
const PART_BYTES: u64 = 5 << 20;

/// A few updates of a method that measures nothing first.
fn short_work(model: &str, formats: &[&str]) -> Value {
    json!({
        "baseModel": model,
        "concepts": ["cat"],
        "conceptKind": "CONCEPT_KIND_OBJECT_CLASS",
        "method": "UNLEARNING_METHOD_KSCU",
        "updates": 6,
        "seed": "7",
        "learningRate": 1e-4,
        "evaluate": false,
        "outputFormats": formats,
    })
}

fn script(python: &Path, name: &str) -> Command {
    let mut command = local(python);
    command.arg(Path::new(SCRIPTS).join(name));
    command
}

/// What a command that must succeed wrote.
fn output(command: &mut Command, daemon: Option<&Daemon>) -> String {
    let output = command.output().unwrap();
    let log = daemon.map(|daemon| daemon.process.said()).unwrap_or_default();
    assert!(output.status.success(), "{command:?}:\n{}\n{log}", tail(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The finished operation of a request.
fn submit(python: &Path, daemon: &Daemon, request: &Value, more: &[&str]) -> Value {
    let mut command = script(python, "submit.py");
    command.args(["--target", &daemon.address, "--request", &request.to_string()]).args(more);
    serde_json::from_str(&output(&mut command, Some(daemon))).unwrap()
}

/// A bucket as its vendor's client sees it.
struct Bucket<'a> {
    python: &'a Path,
    kind: &'a str,
    endpoint: String,
}

impl Bucket<'_> {
    fn run(&self, arguments: &[&str]) -> String {
        let mut command = script(self.python, "bucket.py");
        output(command.args([self.kind, &self.endpoint]).args(arguments), None)
    }

    /// Holds an operation's result against what is in the bucket.
    fn verify(&self, operation: &Value, folder: &Path) -> Value {
        assert_eq!(state(operation), "JOB_STATE_SUCCEEDED", "{operation:#}");
        let path = folder.join("operation.json");
        fs::write(&path, operation.to_string()).unwrap();
        serde_json::from_str(&self.run(&["verify", BUCKET, path.to_str().unwrap()])).unwrap()
    }
}

fn state(operation: &Value) -> &str {
    operation["metadata"]["state"].as_str().unwrap_or_default()
}

/// The SHA-256 that an operation gives for a file.
fn digest<'a>(operation: &'a Value, name: &str) -> &'a str {
    let files = operation["response"]["files"].as_array().unwrap();
    let file = files.iter().find(|file| file["uri"].as_str().unwrap().ends_with(name));
    file.unwrap_or_else(|| panic!("no {name} in {operation:#}"))["sha256"].as_str().unwrap()
}

fn s3<'a>(setup: Setup<'a>, endpoint: &str) -> Setup<'a> {
    setup
        .set("KEYSTEP__STORAGE__ENDPOINT", &endpoint)
        .set("KEYSTEP__STORAGE__REGION", &"us-east-1")
        .set("KEYSTEP__STORAGE__ALLOW_HTTP", &true)
        .set("KEYSTEP__STORAGE__ACCESS_KEY_ID", &"interop")
        .set("KEYSTEP__STORAGE__SECRET_ACCESS_KEY", &"interop")
        .set("KEYSTEP__STORAGE__PART_BYTES", &PART_BYTES)
}

fn file_url(path: &Path) -> String {
    format!("file://{}", path.display())
}

/// Every file below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn manifests_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = files_below(folder);
    files.retain(|path| path.ends_with("manifest.json"));
    files
}

#[test]
fn a_client_that_is_not_ours_has_the_whole_api() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let published = file_url(&folder.path().join("published"));
    let daemon = Daemon::start(&Setup::new(folder.path(), &published));
    let pictures = folder.path().join("pictures");
    let mut client = script(python, "client.py");
    client.args(["--target", &daemon.address, "--pictures"]).arg(&pictures);
    let said = client.output().unwrap();
    let lines = String::from_utf8(said.stdout).unwrap();
    let failed: Vec<&str> = lines.lines().filter(|line| !line.contains(r#""ok": true"#)).collect();
    assert!(
        said.status.success() && failed.is_empty(),
        "{}\n{}\n{}",
        failed.join("\n"),
        String::from_utf8_lossy(&said.stderr),
        daemon.process.said()
    );
    assert_eq!(lines.lines().count(), 14, "{lines}");
    for name in ["base-0.png", "erased-1.png", "base-0-preview-0.png"] {
        assert!(pictures.join(name).is_file(), "{name}");
    }
    daemon.stop();
}

#[test]
fn no_message_is_answered_as_the_servers_fault() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let published = file_url(&folder.path().join("published"));
    let daemon = Daemon::start(&Setup::new(folder.path(), &published));
    let mut fuzz = script(python, "fuzz.py");
    fuzz.args(["--target", &daemon.address, "--examples", "400"]);
    let answered: Value = serde_json::from_str(&output(&mut fuzz, Some(&daemon))).unwrap();
    assert!(answered["calls"].as_u64() >= Some(400), "{answered:#}");
    let log = daemon.process.said();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    daemon.stop();
}

#[test]
fn a_client_that_is_not_ours_needs_the_certificate_and_a_token() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(path("tls.pem"), made.cert.pem()).unwrap();
    fs::write(path("tls.key"), made.signing_key.serialize_pem()).unwrap();
    let grant = TokenGrant {
        principal: "ada".to_owned(),
        roles: [Role::Read, Role::Generate, Role::Submit].into(),
        queued_jobs: None,
        highest_priority: None,
        requests_per_second: None,
    };
    let token = NewToken::generate(&grant).unwrap();
    fs::write(path("tokens.toml"), &token.entry).unwrap();
    fs::write(path("token"), &token.token).unwrap();
    let published = file_url(&path("published"));
    let setup = Setup::new(folder.path(), &published)
        .set("KEYSTEP__TLS__CERTIFICATE", &path("tls.pem").display())
        .set("KEYSTEP__TLS__KEY", &path("tls.key").display())
        .set("KEYSTEP__AUTHENTICATION__TOKEN_FILE", &path("tokens.toml").display());
    let daemon = Daemon::start(&setup);

    let client = |more: &[&str]| {
        let mut client = script(python, "client.py");
        client.args(["--target", &daemon.address, "--pictures"]).arg(path("pictures"));
        client.arg("--authority").arg(path("tls.pem")).args(more);
        client
    };
    let token_file = path("token");
    let with_token = ["--token-file", token_file.to_str().unwrap(), "--only"];
    let wanted = ["reflection", "health", "models", "plan", "score", "bad_request"];
    output(client(&with_token).args(wanted), Some(&daemon));
    // Probes have no token; nothing else goes without one.
    output(&mut client(&["--only", "health"]), Some(&daemon));
    let refused = client(&["--only", "models"]).output().unwrap();
    let said = tail(&refused);
    assert!(!refused.status.success() && said.contains("UNAUTHENTICATED"), "{said}");
    daemon.stop();
}

#[test]
fn s3_takes_a_result_over_a_network_that_fails() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let moto = Server::moto(python, folder.path());
    let bucket = Bucket { python, kind: "s3", endpoint: moto.url() };
    bucket.run(&["make", BUCKET]);
    let proxy = Server::proxy(python, folder.path(), &moto.address, 20_260);
    let place = format!("s3://{BUCKET}/results");
    let daemon = Daemon::start(&s3(Setup::new(folder.path(), &place), &proxy.url()));

    let formats = ["OUTPUT_FORMAT_PIPELINE", "OUTPUT_FORMAT_DELTA"];
    let operation = submit(python, &daemon, &short_work("emoji-canvas", &formats), &[]);
    let seen = bucket.verify(&operation, folder.path());
    let in_parts = seen["in_parts"].as_array().unwrap();
    assert!(in_parts.len() >= 3, "files of more than {PART_BYTES} bytes go in parts: {seen:#}");
    assert_eq!(seen["stray"], json!([]), "what nobody lists was left behind");

    let log = fs::read_to_string(folder.path().join("proxy.jsonl")).unwrap();
    let requests: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let faults: BTreeSet<&str> =
        requests.iter().filter_map(|request| request["fault"].as_str()).collect();
    assert_eq!(faults.len(), 6, "every kind of fault was met: {faults:?}");
    // An upload whose name never reached us is S3's to forget, by a rule of the bucket.
    let is_lost_creation = |request: &&Value| {
        let is_creation = request["method"] == "POST"
            && request["status"] == 200
            && request["target"].as_str().unwrap().contains("uploads");
        is_creation && ["lost_answer", "cut_answer"].map(Value::from).contains(&request["fault"])
    };
    let open = seen["open_uploads"].as_array().unwrap().len();
    let lost = requests.iter().filter(is_lost_creation).count();
    assert!(open <= lost, "{open} uploads are open, {lost} were never answered for: {seen:#}");
    let is_write = |request: &&Value| {
        let method = request["method"].as_str().unwrap();
        ["PUT", "POST"].contains(&method) && request["status"] == 200
    };
    let last = requests.iter().rfind(is_write).unwrap()["target"].as_str().unwrap();
    assert!(last.contains("manifest.json"), "{last} was written after the manifest");

    // A checkpoint comes back over the same network and draws.
    let mut client = script(python, "client.py");
    client.args(["--target", &daemon.address, "--only", "generate", "--pictures"]);
    output(client.arg(folder.path().join("pictures")), Some(&daemon));
    daemon.stop();
}

#[test]
fn azure_takes_a_result() {
    let (Some(python), Some(azurite)) = (python(), tools::azurite()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let azurite = Server::azurite(azurite, folder.path());
    let endpoint = format!("{}/{AZURITE_ACCOUNT}", azurite.url());
    let bucket = Bucket { python, kind: "az", endpoint: endpoint.clone() };
    bucket.run(&["make", BUCKET]);
    let place = format!("az://{BUCKET}/results");
    let setup = Setup::new(folder.path(), &place)
        .set("KEYSTEP__STORAGE__ENDPOINT", &endpoint)
        .set("KEYSTEP__STORAGE__ALLOW_HTTP", &true)
        .set("KEYSTEP__STORAGE__ACCESS_KEY_ID", &AZURITE_ACCOUNT)
        .set("KEYSTEP__STORAGE__SECRET_ACCESS_KEY", &AZURITE_KEY)
        .set("KEYSTEP__STORAGE__PART_BYTES", &PART_BYTES);
    let daemon = Daemon::start(&setup);

    let formats = ["OUTPUT_FORMAT_UNET", "OUTPUT_FORMAT_DELTA"];
    let operation = submit(python, &daemon, &short_work("emoji-canvas", &formats), &[]);
    let seen = bucket.verify(&operation, folder.path());
    assert!(!seen["in_parts"].as_array().unwrap().is_empty(), "{seen:#}");
    assert_eq!(seen["open_uploads"], json!([]));
    assert_eq!(seen["stray"], json!([]), "what nobody lists was left behind");
    daemon.stop();
}

#[test]
fn a_model_from_a_bucket_is_erased_as_the_built_in_one() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let moto = Server::moto(python, folder.path());
    let bucket = Bucket { python, kind: "s3", endpoint: moto.url() };
    bucket.run(&["make", "models"]);
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/emoji-canvas/model");
    bucket.run(&["upload", "models", "emoji", model.to_str().unwrap()]);
    let proxy = Server::proxy(python, folder.path(), &moto.address, 11);
    let published = file_url(&folder.path().join("published"));
    let mut setup = s3(Setup::new(folder.path(), &published), &proxy.url());
    setup.config = Some("[[models]]\nname = \"afar\"\nurl = \"s3://models/emoji\"\n".to_owned());
    let daemon = Daemon::start(&setup);

    let formats = ["OUTPUT_FORMAT_UNET"];
    let afar = submit(python, &daemon, &short_work("afar", &formats), &[]);
    let built_in = submit(python, &daemon, &short_work("emoji-canvas", &formats), &[]);
    assert_eq!(state(&afar), "JOB_STATE_SUCCEEDED", "{afar:#}");
    assert_eq!(state(&built_in), "JOB_STATE_SUCCEEDED", "{built_in:#}");
    assert_eq!(digest(&afar, UNET), digest(&built_in, UNET), "the same bytes");
    assert_ne!(afar["name"], built_in["name"]);
    daemon.stop();
}

/// No file may grow beyond 4 MiB, which is less than the model's weights and more than the
/// database: a limit that needs no rights and no file system of its own. The signal that goes with
/// it is ignored, so that the write fails as it does on a full disk.
#[test]
fn a_disk_that_takes_no_more_fails_the_job_and_not_the_daemon() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let published = folder.path().join("published");
    let place = file_url(&published);
    let mut setup = Setup::new(folder.path(), &place).set("KEYSTEP__JOBS__MAX_ATTEMPTS", &1);
    let limited = r#"trap "" XFSZ; ulimit -f 8192; exec "$0" "$@""#;
    setup.wrapper = Some((vec!["sh", "-c"], limited.to_owned()));
    let daemon = Daemon::start(&setup);

    let request = short_work("emoji-canvas", &["OUTPUT_FORMAT_UNET"]);
    let operation = submit(python, &daemon, &request, &[]);
    assert_eq!(state(&operation), "JOB_STATE_FAILED", "{operation:#}");
    let error = &operation["error"];
    assert_eq!(error["code"], "RESOURCE_EXHAUSTED", "{error:#}");
    assert_eq!(error["details"]["ErrorInfo"]["reason"], "DISK_FULL", "{error:#}");
    let manifests = manifests_below(&published);
    assert!(manifests.is_empty(), "{manifests:?}");
    let left = files_below(&daemon.data.join("jobs"));
    assert!(left.is_empty(), "what the job wrote is removed: {left:?}");

    // It goes on serving.
    let mut client = script(python, "client.py");
    client.args(["--target", &daemon.address, "--only", "health", "score", "--pictures"]);
    output(client.arg(folder.path().join("pictures")), Some(&daemon));
    daemon.stop();
}

/// A file system of 40 MiB with 8 MiB left, where the system lets us mount one for ourselves. The
/// database lies on it too. Room is made while the job waits for its second attempt.
#[test]
fn a_job_that_met_a_full_disk_succeeds_once_there_is_room() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir_all(&data).unwrap();
    let mount = format!(r#"mount -t tmpfs -o size=160m tmpfs "{}""#, data.display());
    let tried = Command::new("unshare").args(["-rm", "sh", "-c", &mount]).output();
    if !tried.is_ok_and(|output| output.status.success()) {
        return skip("no file system of one's own can be mounted here (unshare -rm)");
    }
    let published = folder.path().join("published");
    let place = file_url(&published);
    let mut setup = Setup::new(folder.path(), &place);
    let ballast = data.join("ballast");
    let fill = format!(r#"head -c 152M /dev/zero > "{}""#, ballast.display());
    let mounted = format!(r#"set -e; {mount}; {fill}; exec "$0" "$@""#);
    setup.wrapper = Some((vec!["unshare", "-rm", "sh", "-c"], mounted));
    let daemon = Daemon::start(&setup);

    // The way into the daemon's own view of the file system.
    let seen_by_it = format!("/proc/{}/root{}", daemon.process.id(), ballast.display());
    assert!(Path::new(&seen_by_it).is_file(), "{seen_by_it}");
    let request = short_work("emoji-canvas", &["OUTPUT_FORMAT_UNET"]);
    let operation = submit(python, &daemon, &request, &["--remove-on-retry", &seen_by_it]);
    assert_eq!(state(&operation), "JOB_STATE_SUCCEEDED", "{operation:#}");
    let states = operation["states"].as_array().unwrap();
    let queued = states.iter().filter(|change| change["state"] == "QUEUED").count();
    assert!(queued >= 2, "the first attempt failed: {states:?}");
    assert_eq!(manifests_below(&published).len(), 1);
    daemon.stop();
}
