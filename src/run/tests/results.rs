//! One suite for every store of a finished result, and what sharing it adds.

use std::{collections::BTreeMap, fs, io::Write, path::Path, sync::Arc, time::Duration};

use super::{Bench, open, save};
use crate::{
    artifacts::digest::list_digests,
    engine::{SavePoint, StatePart},
    jobs::{Clock, ScriptedClock, Timestamp},
    outcome::{DeviceKind, EvaluationResults, FileDigest, FinishedResult},
    run::{CopyProblem, FoundResult, ResultFiles, ResultStore},
    storage::{
        Patience, StorageSettings, Storages, deliver_bytes, remove,
        testing::{Fault, Flaky},
    },
};

/// Names the work of every result.
const WORK: &str = "work";
/// Opens the store of an attempt on a disk.
type Open<'a> = dyn Fn(u64, &Path) -> ResultStore + 'a;

const DELTA: &str = "delta.safetensors";
const CONFIG: &str = "pipeline/unet/config.json";

/// Finishes a result whose delta, longer than a part of an upload, is made of a text.
fn finish(store: &ResultStore, text: &str) -> FinishedResult {
    let mut staged = store.files().begin().unwrap();
    let delta = text.repeat(1_000);
    for (name, bytes) in [(DELTA, delta.as_str()), (CONFIG, "{}")] {
        staged.write(name, |out: &mut dyn Write| out.write_all(bytes.as_bytes())).unwrap();
    }
    let finished = FinishedResult {
        work_digest: WORK.to_owned(),
        files: list_digests(staged.unfinished()).unwrap(),
        verdicts: Vec::new(),
        key_steps: Vec::new(),
        window: None,
        updates: 20,
        unet_evaluations: 160,
        training: None,
        seeds: BTreeMap::new(),
        device: DeviceKind::Cpu,
        left_out: Vec::new(),
        evaluation: EvaluationResults::default(),
        ancestors: Vec::new(),
    };
    store.files().complete(staged, finished).unwrap()
}

fn digests(store: &ResultStore) -> Vec<FileDigest> {
    list_digests(store.files().folder()).unwrap()
}

/// Alters the first byte of a file.
fn alter(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    fs::write(path, bytes).unwrap();
}

impl Bench {
    fn results(&self, attempt: u64, disk: &Path) -> ResultStore {
        let files = ResultFiles::new(disk.join("result"));
        self.shared.results("job", attempt, files).unwrap()
    }

    fn find(&self, store: &mut ResultStore) -> FoundResult {
        self.runtime.block_on(store.find(WORK))
    }

    fn found(&self, store: &mut ResultStore) -> Option<FinishedResult> {
        let found = self.find(store);
        assert!(found.problem.is_none(), "{:?}", found.problem);
        found.result
    }

    fn share(&self, store: &mut ResultStore, finished: &FinishedResult) {
        self.runtime.block_on(store.share(finished));
    }

    /// Puts other bytes in the place of an object.
    fn replace(&self, name: &str, bytes: Vec<u8>) {
        let place = self.root.child(name).unwrap();
        let put = deliver_bytes(&place, bytes.into(), Patience::default());
        self.runtime.block_on(put).unwrap();
    }
}

/// What every store of results promises.
fn keeps_what_was_finished(bench: &Bench, open: &Open<'_>) {
    let disk = tempfile::tempdir().unwrap();
    let mut store = open(1, disk.path());
    assert_eq!(bench.found(&mut store), None);
    for text in ["weights ", "others "] {
        let finished = finish(&store, text);
        bench.share(&mut store, &finished);
        let written = digests(&store);
        for attempt in [1, 2] {
            let mut store = open(attempt, disk.path());
            assert_eq!(bench.found(&mut store).as_ref(), Some(&finished));
            assert_eq!(digests(&store), written);
            let other = bench.runtime.block_on(store.find("other work"));
            assert_eq!(other.result, None);
        }
        store = open(3, disk.path());
        assert_eq!(bench.found(&mut store).as_ref(), Some(&finished));
    }
    // What changed on the disk is never taken for the result.
    let expected = digests(&store);
    for name in [DELTA, CONFIG, "complete.json"] {
        alter(&disk.path().join("result").join(name));
        let mut store = open(4, disk.path());
        if bench.find(&mut store).result.is_some() {
            assert_eq!(digests(&store), expected, "{name}");
        } else {
            finish(&store, "others ");
        }
    }
}

#[test]
fn a_folder_keeps_what_was_finished() {
    let bench = Bench::over(open("memory://run-results/unused"));
    keeps_what_was_finished(&bench, &|_, disk| {
        ResultStore::local(ResultFiles::new(disk.join("result")))
    });
    assert!(bench.names().is_empty());
}

#[test]
fn object_storage_keeps_what_was_finished() {
    let local = tempfile::tempdir().unwrap();
    let local = url::Url::from_directory_path(local.path()).unwrap();
    for url in ["memory://run-results/keeps", local.as_str()] {
        let bench = Bench::over(open(url));
        keeps_what_was_finished(&bench, &|attempt, disk| bench.results(attempt, disk));
        assert!(!bench.names().is_empty());
        bench.runtime.block_on(bench.shared.remove("job")).unwrap();
        assert!(bench.names().is_empty());
    }
}

#[test]
fn another_disk_gets_the_same_bytes_and_the_newest_result() {
    let local = tempfile::tempdir().unwrap();
    let local = url::Url::from_directory_path(local.path()).unwrap();
    for url in ["memory://run-results/newest", local.as_str()] {
        let bench = Bench::over(open(url));
        let disks = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let [one, two, three] = disks.each_ref().map(tempfile::TempDir::path);
        let mut first = bench.results(1, one);
        let finished = finish(&first, "first ");
        bench.share(&mut first, &finished);

        let mut second = bench.results(2, two);
        assert_eq!(bench.found(&mut second).as_ref(), Some(&finished));
        assert_eq!(digests(&second), digests(&first), "complete.json and all");
        bench.share(&mut second, &finished);
        let shared =
            |attempt| [CONFIG, DELTA].map(|name| format!("job/result/{attempt}/{name}")).to_vec();
        let expected = |attempt: u64| {
            let marker = format!("job/result/{attempt}/complete.json");
            let mut names = [vec![marker], shared(attempt)].concat();
            names.sort();
            names
        };
        assert_eq!(bench.names(), expected(1), "what stands there is not sent again");

        let mut third = bench.results(3, three);
        let renewed = finish(&third, "third ");
        bench.share(&mut third, &renewed);
        assert_eq!(bench.names(), expected(3), "earlier ones are of no more use");
        // The second one was given up, and works all the same.
        bench.share(&mut bench.results(2, two), &finished);
        let mut fourth = bench.results(4, one);
        assert_eq!(bench.found(&mut fourth).as_ref(), Some(&renewed), "this disk had an older one");
        assert_eq!(digests(&fourth), digests(&third));
    }
}

#[test]
fn a_copy_that_is_torn_or_altered_is_refused() {
    let bench = Bench::over(open("memory://run-results/torn"));
    let marker = |change: &dyn Fn(&mut FinishedResult)| {
        let disk = tempfile::tempdir().unwrap();
        let store = ResultStore::local(ResultFiles::new(disk.path().join("result")));
        let mut finished = finish(&store, "weights ");
        change(&mut finished);
        serde_json::to_vec(&finished).unwrap()
    };
    let altered = "Weights ".repeat(1_000).into_bytes();
    let damages: [(&str, Option<Vec<u8>>); 8] = [
        (DELTA, Some(altered)),
        (DELTA, Some(b"weights ".to_vec())),
        (DELTA, None),
        (CONFIG, None),
        ("complete.json", Some(b"{\"work_digest\"".to_vec())),
        ("complete.json", Some(marker(&|result| result.work_digest = "other".to_owned()))),
        ("complete.json", Some(marker(&|result| result.files[0].name = "../../out".to_owned()))),
        ("complete.json", Some(marker(&|result| result.files[1].sha256 = "0".repeat(64)))),
    ];
    for (name, bytes) in damages {
        let disk = tempfile::tempdir().unwrap();
        let mut first = bench.results(1, &disk.path().join("one"));
        let finished = finish(&first, "weights ");
        bench.share(&mut first, &finished);
        let object = format!("job/result/1/{name}");
        let what = format!("{name} {:?}", bytes.as_ref().map(Vec::len));
        if let Some(bytes) = bytes {
            bench.replace(&object, bytes);
        } else {
            let place = bench.root.child(&object).unwrap();
            bench.runtime.block_on(remove(&place, Patience::default())).unwrap();
        }
        let mut second = bench.results(2, &disk.path().join("two"));
        let found = bench.find(&mut second);
        assert_eq!(found.result, None, "{what}");
        assert!(matches!(found.problem, Some(CopyProblem::Refused(_))), "{what}: {found:?}");
        assert!(!second.files().folder().exists() && !disk.path().join("out").exists(), "{what}");
        // What is finished anew takes its place.
        let finished = finish(&second, "weights ");
        bench.share(&mut second, &finished);
        let mut third = bench.results(3, &disk.path().join("three"));
        assert_eq!(bench.found(&mut third), Some(finished), "{what}");
        bench.runtime.block_on(bench.shared.remove("job")).unwrap();
    }
}

/// Shared state over a store that fails on purpose.
fn flaky(name: &str) -> (Arc<Flaky>, Bench) {
    let store = Flaky::in_memory();
    let storages = Storages::new(StorageSettings::default());
    let url = format!("memory://{name}");
    storages.mount(&url, store.clone(), Some(store.clone())).unwrap();
    let mut bench = Bench::over(storages.open(&format!("{url}/a")).unwrap());
    // On its clock nothing takes time, so that nothing is left alone.
    let clock = Clock::Scripted(ScriptedClock::new(Timestamp(0)));
    bench.shared = bench.shared.with_clock(clock);
    (store, bench)
}

#[test]
fn a_copy_that_was_cut_short_at_any_call_is_no_copy() {
    let (store, bench) = flaky("run-results-cut");
    let disk = tempfile::tempdir().unwrap();
    let mut calls = 1;
    for at in 0.. {
        if at >= calls {
            break;
        }
        let mut first = bench.results(1, &disk.path().join(format!("one {at}")));
        let finished = finish(&first, "weights ");
        store.heal();
        store.fail_from(at, Fault::Away);
        bench.share(&mut first, &finished);
        store.heal();
        let is_whole = bench.names().contains(&"job/result/1/complete.json".to_owned());
        let mut second = bench.results(2, &disk.path().join(format!("two {at}")));
        assert_eq!(bench.found(&mut second).is_some(), is_whole, "{at}");
        // Tried again, it sends what is missing.
        bench.share(&mut first, &finished);
        calls = calls.max(store.calls().len());
        let mut third = bench.results(3, &disk.path().join(format!("three {at}")));
        assert_eq!(bench.found(&mut third).as_ref(), Some(&finished), "{at}");
        assert_eq!(digests(&third), digests(&first));
        bench.runtime.block_on(bench.shared.remove("job")).unwrap();
    }
    assert!(calls > 6, "the loop saw every call");
}

#[test]
fn a_storage_that_is_away_leaves_the_result_on_the_disk_and_is_left_alone() {
    let (store, mut bench) = flaky("run-results-away");
    let (script, second) = (ScriptedClock::new(Timestamp(0)), Duration::from_secs(1));
    bench.shared = bench.shared.with_clock(Clock::Scripted(script.clone()));
    let disk = tempfile::tempdir().unwrap();
    let mut first = bench.results(1, &disk.path().join("one"));
    let finished = finish(&first, "weights ");
    // A save of state finds that it takes a minute to fail; every store of the worker knows then.
    let mut state = bench.open(1, &disk.path().join("state"));
    store.fail_from(0, Fault::Away);
    let point = SavePoint { part: StatePart::Training, done: 1 };
    let slow = &mut |out: &mut dyn Write| {
        script.pass(60 * second);
        out.write_all(b"10 updates")
    };
    state.save(point, slow).unwrap();
    let calls = store.calls().len();
    bench.share(&mut first, &finished);
    assert_eq!(store.calls().len(), calls, "it is left alone");
    script.pass(1_200 * second);
    bench.share(&mut first, &finished);
    assert!(store.calls().len() > calls, "it is asked again");

    let mut here = bench.results(2, &disk.path().join("one"));
    let found = bench.find(&mut here);
    assert_eq!(found.result.as_ref(), Some(&finished), "what this disk has is used");
    let mut elsewhere = bench.results(2, &disk.path().join("two"));
    let found = bench.find(&mut elsewhere);
    assert!(found.result.is_none());
    assert!(matches!(found.problem, Some(CopyProblem::OutOfReach(_))), "{found:?}");
    store.heal();
    bench.share(&mut here, &finished);
    assert_eq!(bench.found(&mut elsewhere), Some(finished));
}

#[test]
fn the_result_may_outlive_the_state() {
    let bench = Bench::over(open("memory://run-results/outlives"));
    let disk = tempfile::tempdir().unwrap();
    for part in StatePart::ALL {
        save(bench.open(1, &disk.path().join("state")).as_mut(), part, "saved");
    }
    let mut store = bench.results(1, disk.path());
    let finished = finish(&store, "weights ");
    bench.share(&mut store, &finished);
    assert_eq!(bench.names().len(), 3 + StatePart::ALL.len());
    bench.runtime.block_on(bench.shared.remove_all_but_result("job")).unwrap();
    assert!(bench.names().iter().all(|name| name.starts_with("job/result/")));
    assert_eq!(bench.names().len(), 3);
    bench.runtime.block_on(bench.shared.remove("job")).unwrap();
    assert!(bench.names().is_empty());
}
