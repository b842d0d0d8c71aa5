//! Programs that run beside a test and end with it: the daemon, object stores, the proxy.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::Duration,
};

use super::tools::SCRIPTS;

/// Between two looks at something that is awaited.
const BEAT: Duration = Duration::from_millis(50);
/// Looks before a program counts as stuck: 60 s.
const BEATS: usize = 1_200;
/// What would send a connection on this machine elsewhere, or lend it somebody's keys.
const FOREIGN: [&str; 12] = [
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy",
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL",
    "AWS_PROFILE", "GRPC_PROXY",
];

/// A command that stays on this machine.
pub(crate) fn local(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for name in FOREIGN {
        command.env_remove(name);
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

/// A program under way; killed when the test ends.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; what it says goes to a file.
    pub(crate) fn start(command: &mut Command, log: PathBuf) -> Self {
        let out = File::create(&log).unwrap();
        let err = out.try_clone().unwrap();
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// Waits until something can be seen; a program that ended before is a failure.
    fn until<T>(&mut self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        for _ in 0..BEATS {
            if let Some(seen) = look() {
                return seen;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{what}: it ended before, with {status}:\n{}", self.said());
            }
            sleep(BEAT);
        }
        panic!("{what}: still not after 60 s:\n{}", self.said());
    }

    fn ended(&mut self) -> ExitStatus {
        for _ in 0..BEATS {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            sleep(BEAT);
        }
        panic!("it did not end within 60 s:\n{}", self.said());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already where all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a daemon is started.
pub(crate) struct Setup<'a> {
    /// Where all its files go.
    pub(crate) folder: &'a Path,
    /// Where it publishes.
    pub(crate) output: &'a str,
    /// Settings from the environment.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// The configuration file.
    pub(crate) config: Option<String>,
    /// A shell script that ends with `exec "$0" "$@"`, and the program that runs it.
    pub(crate) wrapper: Option<(Vec<&'static str>, String)>,
}

impl<'a> Setup<'a> {
    pub(crate) fn new(folder: &'a Path, output: &'a str) -> Self {
        Self { folder, output, environment: Vec::new(), config: None, wrapper: None }
    }

    pub(crate) fn set(mut self, variable: &'static str, value: &impl ToString) -> Self {
        self.environment.push((variable, value.to_string()));
        self
    }
}

/// A running `keystep serve`.
pub(crate) struct Daemon {
    pub(crate) process: Process,
    pub(crate) address: String,
    /// Its folder of jobs and database.
    pub(crate) data: PathBuf,
}

impl Daemon {
    pub(crate) fn start(setup: &Setup<'_>) -> Self {
        let program = env!("CARGO_BIN_EXE_keystep");
        let mut command = match &setup.wrapper {
            Some((shell, script)) => {
                let mut command = local(shell[0]);
                command.args(&shell[1..]).arg(script).arg(program);
                command
            }
            None => local(program),
        };
        let data = setup.folder.join("data");
        fs::create_dir_all(&data).unwrap();
        let ready = setup.folder.join("ready");
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--output", setup.output])
            .arg("--data-dir")
            .arg(&data)
            .arg("--ready-file")
            .arg(&ready);
        if let Some(config) = &setup.config {
            let path = setup.folder.join("keystep.toml");
            fs::write(&path, config).unwrap();
            command.arg("--config").arg(path);
        }
        command.envs(setup.environment.iter().map(|(name, value)| (name, value)));
        let mut process = Process::start(&mut command, setup.folder.join("daemon.log"));
        let address = process.until("the daemon is ready", || read_address(&ready));
        Self { process, address, data }
    }

    /// Asks it to end, which it must do well.
    pub(crate) fn stop(mut self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let status = self.process.ended();
        assert!(status.success(), "ended with {status}:\n{}", self.process.said());
    }
}

fn read_address(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let address = text.trim();
    address.parse::<SocketAddr>().ok().map(|_| address.to_owned())
}

/// Neither server says which port it took, so that one is found for it.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server on this machine, and where it listens.
pub(crate) struct Server {
    _process: Process,
    /// `host:port`.
    pub(crate) address: String,
}

impl Server {
    /// moto's S3.
    pub(crate) fn moto(python: &Path, folder: &Path) -> Self {
        Self::moto_at(python, folder, free_port())
    }

    /// The same at a port, such as that of one that ended.
    pub(crate) fn moto_at(python: &Path, folder: &Path, port: u16) -> Self {
        Self::listening(&folder.join("moto.log"), port, |port| {
            let mut command = local(python);
            command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
            command
        })
    }

    /// Azurite's blobs.
    pub(crate) fn azurite(program: &Path, folder: &Path) -> Self {
        Self::listening(&folder.join("azurite.log"), free_port(), |port| {
            let mut command = local(program);
            command
                .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
                .args(["--skipApiVersionCheck", "--disableTelemetry", "--silent", "--location"])
                .arg(folder.join("azurite"));
            command
        })
    }

    fn listening(log: &Path, port: u16, command: impl FnOnce(u16) -> Command) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut process = Process::start(&mut command(port), log.to_owned());
        process.until("the server listens", || TcpStream::connect(address).ok());
        Self { _process: process, address: address.to_string() }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.parse::<SocketAddr>().unwrap().port()
    }

    /// Our proxy before a server; its log is in `proxy.jsonl`.
    pub(crate) fn proxy(python: &Path, folder: &Path, upstream: &str, seed: u32) -> Self {
        let ready = folder.join("proxy.ready");
        let mut command = local(python);
        command
            .arg(Path::new(SCRIPTS).join("proxy.py"))
            .args(["--upstream", upstream, "--seed", &seed.to_string(), "--log"])
            .arg(folder.join("proxy.jsonl"))
            .arg("--ready-file")
            .arg(&ready);
        let mut process = Process::start(&mut command, folder.join("proxy.log"));
        let address = process.until("the proxy listens", || read_address(&ready));
        Self { _process: process, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
