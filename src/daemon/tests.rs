use std::{ffi::OsString, fs, path::PathBuf, time::Duration};

use super::{StartError, data_folder::DataFolder};
use crate::{
    config::{self, Settings, Sources},
    jobs::Identifiers,
    shutdown::Limits,
};

fn deployed(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file);
    fs::read_to_string(path).unwrap()
}

/// The number behind a key, such as `TimeoutStopSec=240`.
fn number(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap();
    line.trim().trim_end_matches('s').parse().unwrap()
}

/// The settings that a file of `deploy` gives.
fn loaded(sources: &Sources) -> Settings {
    config::load(sources).unwrap_or_else(|error| panic!("{error}")).settings
}

#[test]
fn whoever_kills_the_process_waits_longer_than_a_shutdown_takes() {
    let unit = deployed("keystep.service");
    let defaults = Limits::from(&Settings::default().shutdown).total();
    assert!(Duration::from_secs(number(&unit, "TimeoutStopSec=")) > defaults, "{defaults:?}");

    let cluster = deployed("kubernetes.yaml");
    let (_, config) = cluster.split_once("keystep.toml: |\n").unwrap();
    let (config, _) = config.split_once("---").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keystep.toml");
    fs::write(&file, config).unwrap();
    let settings = loaded(&Sources { file: Some(file), ..Sources::default() });
    let total = Limits::from(&settings.shutdown).total();
    let grace = number(&cluster, "terminationGracePeriodSeconds:");
    assert!(Duration::from_secs(grace) > total, "{total:?}");

    let compose = deployed("compose.yaml");
    let variables = compose.lines().filter_map(|line| line.trim().split_once(": "));
    let environment = variables
        .filter(|(name, _)| name.starts_with("KEYSTEP__"))
        .map(|(name, value)| (OsString::from(name), OsString::from(value.trim_matches('"'))))
        .collect();
    let settings = loaded(&Sources { environment, ..Sources::default() });
    let total = Limits::from(&settings.shutdown).total();
    assert!(Duration::from_secs(number(&compose, "stop_grace_period:")) > total, "{total:?}");
}

#[test]
fn a_data_folder_is_private_and_has_one_daemon() {
    let outer = tempfile::tempdir().unwrap();
    let path = outer.path().join("state/keystep");
    let taken = DataFolder::take(&path, &Identifiers::default()).unwrap();
    let again = DataFolder::take(&path, &Identifiers::default());
    assert!(matches!(again, Err(StartError::DataFolderTaken { .. })), "{again:?}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let models = taken.below("models").unwrap();
        for folder in [&path, &models] {
            let mode = fs::metadata(folder).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", folder.display());
        }
    }
    let identity = taken.identity().to_owned();
    drop(taken);
    let later = DataFolder::take(&path, &Identifiers::default()).unwrap();
    assert_eq!(later.identity(), identity, "a restart is the same worker");
}

#[test]
fn a_data_folder_that_cannot_be_is_named() {
    let outer = tempfile::tempdir().unwrap();
    let file = outer.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = DataFolder::take(&file.join("below"), &Identifiers::default());
    let Err(error @ StartError::DataFolder { .. }) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("--data-dir"), "{error}");
}
