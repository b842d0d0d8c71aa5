//! What is not ours: Python packages and Azurite, installed once from pinned lists into a folder
//! below `target/tmp`.

use std::{
    env,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
    thread,
};

/// The folder of the scripts and of the pinned lists.
pub(crate) const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop");

/// The Python that has the packages of `requirements.txt`; a skip line where it cannot be had.
pub(crate) fn python() -> Option<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    or_skip(FOUND.get_or_init(|| Ok(environment("python", "requirements.txt")?.join("python"))))
}

/// The programs of a Python environment with the packages of a pinned list.
fn environment(name: &str, list: &str) -> Result<PathBuf, String> {
    let pins = Path::new(SCRIPTS).join(list);
    let folder = installed(name, &pins, |folder| {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
        run(Command::new(folder.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(["--retries", "1", "--timeout", "20", "-r"])
            .arg(&pins))
    })?;
    Ok(folder.join("bin"))
}

/// The folder of programs of the environment that has the packages of `signing-requirements.txt`; a skip
/// line where it cannot be had.
pub(crate) fn signing_tools() -> Option<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    or_skip(FOUND.get_or_init(|| environment("signing", "signing-requirements.txt")))
}

/// Azurite's program for blobs; a skip line where it cannot be had.
pub(crate) fn azurite() -> Option<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    or_skip(FOUND.get_or_init(|| {
        let pins = Path::new(SCRIPTS).join("package.json");
        let folder = installed("azurite", &pins, |folder| {
            fs::copy(&pins, folder.join("package.json")).map_err(|error| error.to_string())?;
            run(Command::new("npm")
                .args(["install", "--no-audit", "--no-fund", "--loglevel", "error"])
                .args(["--ignore-scripts", "--fetch-retries", "1", "--fetch-timeout", "20000"])
                .current_dir(folder))
        })?;
        Ok(folder.join("node_modules/.bin/azurite-blob"))
    }))
}

/// Says on the terminal that a test was skipped.
pub(crate) fn skip(why: &str) {
    let test = thread::current();
    // Straight to the terminal: what a passing test prints is not shown.
    let _ = writeln!(io::stderr(), "skipped: {}: {why}", test.name().unwrap_or_default());
}

/// Fails the test where what is not ours must be there.
fn or_skip(found: &'static Result<PathBuf, String>) -> Option<&'static Path> {
    let is_required = env::var_os("KEYSTEP_INTEROP").is_some_and(|value| value == "required");
    match found {
        Ok(path) => Some(path),
        Err(why) => {
            assert!(!is_required, "KEYSTEP_INTEROP=required, and {why}");
            skip(why);
            None
        }
    }
}

/// A folder that was filled from a pinned list; filled by one process at a time, and again when the
/// list changes.
fn installed(
    name: &str,
    pins: &Path,
    install: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    let prepare = || {
        fs::create_dir_all(&root)?;
        let lock = File::create(root.join(format!("{name}.lock")))?;
        lock.lock()?;
        Ok::<_, io::Error>((lock, fs::read(pins)?))
    };
    let (_lock, wanted) = prepare().map_err(|error| format!("{}: {error}", root.display()))?;
    let folder = root.join(name);
    let marker = folder.join("installed");
    if fs::read(&marker).is_ok_and(|found| found == wanted) {
        return Ok(folder);
    }
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    install(&folder)?;
    fs::write(&marker, wanted).map_err(|error| format!("{}: {error}", marker.display()))?;
    Ok(folder)
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().display().to_string();
    let output = command.output().map_err(|error| format!("{program} cannot be run: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{program} failed: {}", tail(&output)))
    }
}

/// The last lines of what a program said.
pub(crate) fn tail(output: &Output) -> String {
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
