//! The data folder and the files in `deploy`, held against the settings.

use std::{ffi::OsString, fs, path::PathBuf, time::Duration};

use super::{StartError, data_folder::DataFolder};
use crate::{
    config::{self, Settings, Sources},
    jobs::{Identifiers, SqliteStore, StoreSettings},
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
fn service_managers_wait_longer_than_a_shutdown_takes() {
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
    taken.keep_identity().unwrap();
    drop(taken);
    let later = DataFolder::take(&path, &Identifiers::default()).unwrap();
    assert_eq!(later.identity(), identity, "a restart is the same worker");
}

#[cfg(unix)]
#[test]
fn a_folder_that_was_there_keeps_its_mode_and_what_is_put_there_is_private() {
    use std::os::unix::fs::PermissionsExt;

    let outer = tempfile::tempdir().unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    for (name, there) in [("shared", 0o1777), ("open", 0o755), ("private", 0o700)] {
        let path = outer.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(there)).unwrap();
        // Nor does the second start, when our files are in it.
        for _ in 0..2 {
            let taken = DataFolder::take(&path, &Identifiers::default()).unwrap();
            assert_eq!(mode(&path), there, "{name}");
            taken.keep_identity().unwrap();
            fs::write(taken.database(), "").unwrap();
            fs::set_permissions(taken.database(), fs::Permissions::from_mode(0o644)).unwrap();
            taken.narrow_database().unwrap();
            let below = taken.below("models").unwrap();
            let files = [taken.database(), path.join("identity"), path.join("lock")];
            assert_eq!(mode(&below), 0o700);
            assert!(files.iter().all(|file| mode(file) == 0o600), "{name}");
        }
    }
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

#[tokio::test]
async fn a_store_that_was_lost_is_not_silently_replaced() {
    let outer = tempfile::tempdir().unwrap();
    let file = outer.path().join("jobs.sqlite");
    let look = async || {
        let folder = DataFolder::take(outer.path(), &Identifiers::default()).unwrap();
        let store = SqliteStore::open(&file, StoreSettings::default()).await.unwrap();
        let checked = folder.check_store(&store).await;
        store.close().await;
        checked.and_then(|()| folder.keep_identity())
    };
    let removed = || {
        for tail in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(outer.path().join(format!("jobs.sqlite{tail}")));
        }
    };
    // A first start, one that ended before its store was there, and a second one.
    look().await.unwrap();
    look().await.unwrap();
    removed();
    let lost = look().await.unwrap_err().to_string();
    assert!(lost.contains("--begin-anew") && lost.contains("jobs.sqlite"), "{lost}");
    // Emptied, which opening made of what was removed, is as bad; until somebody begins anew.
    fs::remove_file(outer.path().join("identity")).unwrap();
    look().await.unwrap();
    // As where the log was lost: the store is there, and knows none of the work that lies here.
    let job = outer.path().join("jobs/0198c5f0-0000-7000-8000-000000000001/state");
    fs::create_dir_all(&job).unwrap();
    let lost = look().await.unwrap_err().to_string();
    assert!(lost.contains("1 jobs") && lost.contains("0198c5f0"), "{lost}");
    assert!(job.is_dir(), "nothing is removed");
    fs::remove_dir_all(outer.path().join("jobs")).unwrap();
    fs::create_dir_all(outer.path().join("jobs/something else")).unwrap();
    look().await.unwrap();
}
