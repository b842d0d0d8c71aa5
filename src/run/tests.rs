//! One suite for every store of a run's state, and what sharing it adds.

mod results;

use std::{io, path::Path, time::Duration};

use tokio::runtime::Runtime;

use super::{SharedState, StateFiles};
use crate::{
    engine::{PauseFlag, SavePoint, StateError, StatePart, StateStore},
    jobs::{Clock, ScriptedClock, Timestamp},
    storage::{
        Patience, StorageLocation, StorageSettings, Storages, TransferOptions, list_below,
        testing::{Fault, Flaky},
    },
};

/// Opens the store of an attempt on a disk.
type Open<'a> = dyn Fn(u64, &Path) -> Box<dyn StateStore> + 'a;

fn save(store: &mut dyn StateStore, part: StatePart, text: &str) {
    let point = SavePoint { part, done: 1 };
    store.save(point, &mut |out| out.write_all(text.as_bytes())).unwrap();
}

fn text(store: &mut dyn StateStore, part: StatePart) -> Option<String> {
    let (mut reader, length) = store.load(part).unwrap()?;
    let mut text = vec![0; length as usize];
    reader.read_exact(&mut text).unwrap();
    Some(String::from_utf8(text).unwrap())
}

/// What every store of state promises.
fn keeps_what_was_saved(open: &Open<'_>) {
    let disk = tempfile::tempdir().unwrap();
    let folder = disk.path().join("state");
    let mut store = open(1, &folder);
    for part in StatePart::ALL {
        assert_eq!(text(store.as_mut(), part), None);
        save(store.as_mut(), part, part.file_name());
    }
    // More than goes in one part.
    let long = "weights ".repeat(1_000);
    save(store.as_mut(), StatePart::Training, &long);
    let point = SavePoint { part: StatePart::Training, done: 2 };
    let cut = store.save(point, &mut |out| {
        out.write_all(b"half of it")?;
        Err(io::ErrorKind::StorageFull.into())
    });
    assert!(matches!(cut, Err(StateError::Unwritable { .. })), "{cut:?}");
    for mut store in [store, open(1, &folder), open(2, &folder)] {
        assert_eq!(text(store.as_mut(), StatePart::Training).as_deref(), Some(long.as_str()));
        assert_eq!(text(store.as_mut(), StatePart::Bank).as_deref(), Some("bank.safetensors"));
    }
}

/// A runtime, and shared state over a store.
struct Bench {
    runtime: Runtime,
    shared: SharedState,
    root: StorageLocation,
}

impl Bench {
    fn over(root: StorageLocation) -> Self {
        let runtime = Runtime::new().unwrap();
        let transfers = TransferOptions {
            part_bytes: 1_000,
            parts_in_flight: 2,
            journal: None,
            patience: Patience { attempts: 1, first_wait: Duration::ZERO },
        };
        Self { runtime, shared: SharedState::new(root.clone(), transfers), root }
    }

    fn open(&self, attempt: u64, folder: &Path) -> Box<dyn StateStore> {
        self.open_for(attempt, folder, &PauseFlag::default())
    }

    fn open_for(&self, attempt: u64, folder: &Path, pause: &PauseFlag) -> Box<dyn StateStore> {
        let (files, runtime) = (StateFiles::new(folder), self.runtime.handle().clone());
        Box::new(self.shared.open("job", attempt, files, runtime, pause.clone()).unwrap())
    }

    fn names(&self) -> Vec<String> {
        let listing = list_below(&self.root, Patience::default());
        let mut names = self.runtime.block_on(listing).unwrap();
        names.sort();
        names
    }
}

fn open(url: &str) -> StorageLocation {
    Storages::new(StorageSettings::default()).open(url).unwrap()
}

#[test]
fn a_folder_keeps_what_was_saved() {
    keeps_what_was_saved(&|_, folder| Box::new(StateFiles::new(folder)));
}

#[test]
fn object_storage_keeps_what_was_saved() {
    let local = tempfile::tempdir().unwrap();
    let local = url::Url::from_directory_path(local.path()).unwrap();
    for url in ["memory://run-state/keeps", local.as_str()] {
        let bench = Bench::over(open(url));
        keeps_what_was_saved(&|attempt, folder| bench.open(attempt, folder));
        bench.runtime.block_on(bench.shared.remove("job")).unwrap();
        assert!(bench.names().is_empty());
    }
}

#[test]
fn a_later_attempt_goes_on_from_an_empty_disk() {
    let bench = Bench::over(open("memory://run-state/goes-on"));
    let disks = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [one, two] = disks.each_ref().map(tempfile::TempDir::path);
    let training = StatePart::Training;
    let mut first = bench.open(1, one);
    save(first.as_mut(), StatePart::Bank, "bank");
    save(first.as_mut(), training, "10 updates");

    let mut second = bench.open(2, two);
    assert_eq!(text(second.as_mut(), training).as_deref(), Some("10 updates"));
    assert_eq!(text(second.as_mut(), StatePart::Bank).as_deref(), Some("bank"));
    save(second.as_mut(), training, "20 updates");
    // The first one was given up, and works all the same.
    save(first.as_mut(), training, "11 updates");
    assert_eq!(text(first.as_mut(), training).as_deref(), Some("11 updates"));

    // Back on the first disk, whose state is older than what is shared.
    let mut third = bench.open(3, one);
    assert_eq!(text(third.as_mut(), training).as_deref(), Some("20 updates"));
    save(third.as_mut(), training, "30 updates");
    assert_eq!(
        bench.names(),
        ["job/bank.safetensors/1", "job/training.safetensors/3"],
        "what earlier attempts saved of the part is of no more use"
    );
    bench.runtime.block_on(bench.shared.remove("job")).unwrap();
    assert!(bench.names().is_empty());
}

#[test]
fn an_outage_of_the_storage_ends_no_run() {
    let flaky = Flaky::in_memory();
    let storages = Storages::new(StorageSettings::default());
    storages.mount("memory://run-state-away", flaky.clone(), None).unwrap();
    let bench = Bench::over(storages.open("memory://run-state-away/a").unwrap());
    let disk = tempfile::tempdir().unwrap();
    let mut store = bench.open(1, disk.path());
    save(store.as_mut(), StatePart::Training, "10 updates");
    flaky.fail_from(0, Fault::Away);
    save(store.as_mut(), StatePart::Training, "20 updates");
    let mut again = bench.open(2, disk.path());
    assert_eq!(text(again.as_mut(), StatePart::Training).as_deref(), Some("20 updates"));
    flaky.heal();
    assert_eq!(text(again.as_mut(), StatePart::Training).as_deref(), Some("20 updates"));
}

#[test]
fn a_storage_that_is_slow_to_fail_is_not_asked_for_every_save() {
    let flaky = Flaky::in_memory();
    let storages = Storages::new(StorageSettings::default());
    storages.mount("memory://run-state-slow", flaky.clone(), None).unwrap();
    let mut bench = Bench::over(storages.open("memory://run-state-slow/a").unwrap());
    let (script, second) = (ScriptedClock::new(Timestamp(0)), Duration::from_secs(1));
    bench.shared = bench.shared.with_clock(Clock::Scripted(script.clone()));
    let (disk, pause) = (tempfile::tempdir().unwrap(), PauseFlag::default());
    let mut store = bench.open_for(1, disk.path(), &pause);
    let point = SavePoint { part: StatePart::Training, done: 1 };
    let mut save_in = |lasts: Duration| {
        store
            .save(point, &mut |out| {
                script.pass(lasts);
                out.write_all(b"10 updates")
            })
            .unwrap();
        flaky.calls().len()
    };
    flaky.fail_from(0, Fault::Away);
    let calls = save_in(60 * second);
    assert_eq!(save_in(600 * second), calls, "it is left alone");
    assert!(save_in(700 * second) > calls, "it is asked again");
    flaky.heal();
    assert_eq!(save_in(second), 0, "it is left alone once more");
    pause.pause();
    save_in(second);
    assert_eq!(bench.names(), ["job/training.safetensors/1"]);
}
