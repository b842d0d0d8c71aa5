//! Base models, and the cache.

use std::fs;

use futures::future::join_all;

use super::world::{MODEL_BYTES, NAMES, UNET, World, assert_whole, base, read, weights};
use crate::{
    catalogue::{BUILTIN, BaseModel, ModelOrigin},
    device::ModelProvider,
    jobs::FailureReason as Reason,
    spec::Vocabulary,
};

fn local(name: &str, folder: &std::path::Path) -> BaseModel {
    let url = url::Url::from_directory_path(folder).unwrap().to_string();
    BaseModel { name: name.to_owned(), url, sha256: None }
}

#[tokio::test]
async fn the_builtin_model_is_there_and_has_the_digest_of_its_folder() {
    let world = World::new();
    let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/emoji-canvas/model");
    let copy = local("copy", assets.as_ref());
    let catalogue = world.catalogue(vec![copy], 0);
    let unread = catalogue.get(BUILTIN, None).await.unwrap().unwrap();
    assert_eq!(unread.origin, ModelOrigin::Base);

    let opened = catalogue.open(BUILTIN).await.unwrap();
    let again = world.roomy(&[]).open(BUILTIN).await.unwrap();
    let folder = catalogue.open("copy").await.unwrap();
    assert_eq!(opened.digest.len(), 64);
    assert_eq!(opened.digest, again.digest);
    assert_eq!(opened.digest, folder.digest, "the same bytes have the same name");
    let known = catalogue.get(BUILTIN, None).await.unwrap().unwrap();
    assert_eq!(known.digest, Some(opened.digest));
    assert!(known.vocabulary.unwrap().objects.contains(&"cat".to_owned()));
    assert!(!world.cache().exists(), "neither of them is cached");
}

#[tokio::test]
async fn what_there_is_not_is_not_found() {
    let world = World::new();
    let catalogue = world.roomy(&["gone"]);
    for name in ["", "nothing", "checkpoints/", "checkpoints/../emoji-canvas"] {
        assert_eq!(catalogue.get(name, None).await.unwrap(), None);
        assert_eq!(catalogue.open(name).await.unwrap_err().reason, Reason::ModelNotFound);
        assert_eq!(catalogue.ready(name, None).await.unwrap_err().reason, Reason::ModelNotFound);
    }
    // Configured, and not in the bucket.
    let failure = catalogue.open("gone").await.unwrap_err();
    assert_eq!(failure.reason, Reason::ModelNotFound);
    assert!(failure.message.contains("s3://models/gone"), "{failure}");
}

#[tokio::test]
async fn a_bucket_is_read_once_for_all_who_ask() {
    let world = World::new();
    world.put_model("sd").await;
    let catalogue = world.roomy(&["sd"]);
    assert_eq!(catalogue.get("sd", None).await.unwrap().unwrap().digest, None);
    let opened = join_all((0..8).map(|_| catalogue.open("sd"))).await;
    for opened in &opened {
        assert_whole(opened.as_ref().unwrap(), "sd");
    }
    let digest = opened[0].as_ref().unwrap().digest.clone();
    let names = NAMES.map(|name| format!("sd/{name}"));
    assert_eq!(world.bucket.asked(), (names.to_vec(), 1));
    assert_eq!(world.cached("models"), std::slice::from_ref(&digest));
    let entry = catalogue.ready("sd", None).await.unwrap();
    assert_eq!(entry.digest.as_ref(), Some(&digest));
    assert_eq!(entry.vocabulary.unwrap().objects, ["cat"]);

    // After a restart, the listing alone tells that nothing changed.
    let opened = world.roomy(&["sd"]).open("sd").await.unwrap();
    assert_whole(&opened, "sd");
    assert_eq!((opened.digest, world.bucket.asked()), (digest.clone(), (Vec::new(), 1)));
    // Where the operator names the digest, not even that.
    let pinned = BaseModel { sha256: Some(digest.to_uppercase()), ..base("sd") };
    world.catalogue(vec![pinned], 1 << 20).open("sd").await.unwrap();
    assert_eq!(world.bucket.asked(), (Vec::new(), 0));
    // And while the bucket is away, the copy will do.
    world.bucket.go_away();
    assert_whole(&world.roomy(&["sd"]).open("sd").await.unwrap(), "sd");

    world.bucket.heal();
    world.bucket.write(&format!("sd/{UNET}"), &weights("other")).await;
    let changed = world.roomy(&["sd"]).open("sd").await.unwrap();
    assert_ne!(changed.digest, digest);
    assert_eq!(read(changed.files.as_ref(), UNET), weights("other"));
}

#[tokio::test(start_paused = true)]
async fn a_download_that_is_cut_off_leaves_nothing_that_passes_for_whole() {
    let world = World::new();
    world.put_model("sd").await;
    world.bucket.cut(&format!("sd/{UNET}"));
    let catalogue = world.roomy(&["sd"]);
    let failure = catalogue.open("sd").await.unwrap_err();
    assert_eq!(failure.reason, Reason::StorageUnavailable);
    assert!(failure.message.contains("sd") && failure.metadata["model"] == "sd", "{failure}");
    assert!(world.cached("models").is_empty() && world.cached("partial").is_empty());
    assert_eq!(catalogue.get("sd", None).await.unwrap().unwrap().digest, None);
    // Another process finds no model either, only what came whole: that is not asked for again.
    world.bucket.asked();
    world.bucket.heal();
    let opened = world.roomy(&["sd"]).open("sd").await.unwrap();
    assert_whole(&opened, "sd");
    let (read, _) = world.bucket.asked();
    assert!(read.contains(&format!("sd/{UNET}")) && read.len() < NAMES.len(), "{read:?}");
}

#[tokio::test]
async fn a_download_whose_caller_went_away_is_taken_up_by_the_next() {
    let world = World::new();
    world.put_model("sd").await;
    let catalogue = world.roomy(&["sd"]);
    for _ in 0..20 {
        let open = catalogue.open("sd");
        tokio::select! {
            biased;
            () = tokio::task::yield_now() => {}
            opened = open => assert_whole(&opened.unwrap(), "sd"),
        }
    }
    assert_whole(&catalogue.open("sd").await.unwrap(), "sd");
}

#[tokio::test]
async fn damage_in_the_cache_is_noticed_and_mended() {
    let world = World::new();
    world.put_model("sd").await;
    let catalogue = world.roomy(&["sd"]);
    let digest = catalogue.open("sd").await.unwrap().digest;
    let file = world.cache().join("models").join(&digest).join("files").join(UNET);

    // One byte is another one: seen when a process first uses it.
    let mut bytes = fs::read(&file).unwrap();
    bytes[500] ^= 1;
    fs::write(&file, &bytes).unwrap();
    world.bucket.asked();
    let restarted = world.roomy(&["sd"]);
    assert_whole(&restarted.open("sd").await.unwrap(), "sd");
    assert_eq!(world.bucket.asked().0.len(), NAMES.len());

    // A file that is too short is seen at once, and so is a lost mark.
    fs::write(&file, &bytes[..10]).unwrap();
    assert_whole(&restarted.open("sd").await.unwrap(), "sd");
    fs::remove_file(world.cache().join("models").join(&digest).join("complete.json")).unwrap();
    assert_whole(&restarted.open("sd").await.unwrap(), "sd");
    assert_eq!(world.bucket.asked().0.len(), 2 * NAMES.len());
}

#[tokio::test]
async fn room_is_made_by_what_was_used_longest_ago_and_never_by_what_is_in_use() {
    let world = World::new();
    for name in ["a", "b", "c"] {
        world.put_model(name).await;
    }
    let bases = || ["a", "b", "c"].map(base).to_vec();
    let catalogue = world.catalogue(bases(), 2 * MODEL_BYTES);
    let a = catalogue.open("a").await.unwrap();
    let b = catalogue.open("b").await.unwrap().digest;
    let c = catalogue.open("c").await.unwrap();
    assert!(!world.cached("models").contains(&b), "b was idle, a was older and in use");
    assert_whole(&a, "a");

    // Both are in use: no third fits.
    let failure = catalogue.open("b").await.unwrap_err();
    assert_eq!(failure.reason, Reason::DiskFull);
    assert_eq!(failure.metadata["neededBytes"], MODEL_BYTES.to_string());
    assert_eq!(failure.metadata["inUseBytes"], (2 * MODEL_BYTES).to_string());
    assert_whole(&a, "a");
    assert_whole(&c, "c");

    // The order of uses outlives the process; a smaller bound holds from its start.
    drop((a, c));
    catalogue.open("a").await.unwrap();
    drop(catalogue);
    let digest = world.catalogue(bases(), MODEL_BYTES).open("b").await.unwrap().digest;
    assert_eq!(world.cached("models"), [digest]);
}

#[tokio::test]
async fn a_model_that_is_larger_than_the_cache_says_so() {
    let world = World::new();
    world.put_model("sd").await;
    let catalogue = world.catalogue(vec![base("sd")], MODEL_BYTES - 1);
    let failure = catalogue.open("sd").await.unwrap_err();
    assert_eq!(failure.reason, Reason::DiskFull);
    for number in [MODEL_BYTES, MODEL_BYTES - 1] {
        assert!(failure.message.contains(&number.to_string()), "{failure}");
    }
    assert_eq!(world.bucket.asked().0, Vec::<String>::new());
}

#[tokio::test]
async fn a_model_that_is_not_the_configured_one_is_refused_and_not_kept() {
    let world = World::new();
    world.put_model("sd").await;
    let folder = world.folder.path().join("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("model_index.json"), "{}").unwrap();
    let expected = "ab".repeat(32);
    let pinned = |base| BaseModel { sha256: Some(expected.clone()), ..base };
    let bases = vec![pinned(base("sd")), pinned(local("local", &folder))];
    let catalogue = world.catalogue(bases, 1 << 20);
    for name in ["sd", "local"] {
        let failure = catalogue.open(name).await.unwrap_err();
        assert_eq!(failure.reason, Reason::DamagedModel);
        let found = &failure.metadata["digest"];
        assert!(failure.message.contains(found) && failure.message.contains(&expected));
        assert_eq!(catalogue.get(name, None).await.unwrap().unwrap().digest, None);
    }
    assert!(world.cached("models").is_empty());
    assert_eq!(fs::read_dir(world.cache().join("partial")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_local_folder_is_read_where_it_lies_and_changes_are_seen() {
    let world = World::new();
    let folder = world.folder.path().join("a b");
    fs::create_dir_all(folder.join("unet")).unwrap();
    fs::write(folder.join("model_index.json"), "{}").unwrap();
    fs::write(folder.join(UNET), "weights").unwrap();
    let catalogue = world.catalogue(vec![local("mine", &folder)], 0);
    let before = catalogue.open("mine").await.unwrap();
    assert_eq!(catalogue.open("mine").await.unwrap().digest, before.digest);
    let entry = catalogue.ready("mine", None).await.unwrap();
    assert_eq!(entry.vocabulary, Some(Vocabulary::default()));

    fs::write(folder.join(UNET), "other weights").unwrap();
    let after = catalogue.open("mine").await.unwrap();
    assert_ne!(after.digest, before.digest);
    assert_eq!(catalogue.get("mine", None).await.unwrap().unwrap().digest, Some(after.digest));

    fs::write(folder.join("vocabulary.json"), "[]").unwrap();
    let failure = catalogue.open("mine").await.unwrap_err();
    assert_eq!(failure.reason, Reason::DamagedModel);
    assert!(failure.message.contains("vocabulary.json"), "{failure}");
}

#[tokio::test]
async fn prewarming_makes_ready_what_can_be() {
    let world = World::new();
    world.put_model("sd").await;
    let catalogue = world.roomy(&["sd", "gone"]);
    catalogue.prewarm().await;
    for (name, is_ready) in [(BUILTIN, true), ("sd", true), ("gone", false)] {
        let entry = catalogue.get(name, None).await.unwrap().unwrap();
        assert_eq!(entry.digest.is_some(), is_ready, "{name}");
    }
    world.bucket.asked();
    catalogue.open("sd").await.unwrap();
    assert_eq!(world.bucket.asked(), (Vec::new(), 0));
}

#[tokio::test]
async fn a_cache_that_is_emptied_while_nobody_uses_it_fills_again() {
    let world = World::new();
    world.put_model("sd").await;
    world.put_model("other").await;
    let catalogue = world.roomy(&["sd", "other"]);
    let digest = catalogue.open("sd").await.unwrap().digest;
    for emptied in [world.cache(), world.cache().join("sources"), world.cache().join("models")] {
        fs::remove_dir_all(emptied).unwrap();
        assert_whole(&catalogue.open("sd").await.unwrap(), "sd");
        assert!(world.cached("models").contains(&digest));
        assert_whole(&catalogue.open("other").await.unwrap(), "other");
    }
    // A restart finds what was fetched anew.
    world.bucket.asked();
    assert_whole(&world.roomy(&["sd"]).open("sd").await.unwrap(), "sd");
    assert_eq!(world.bucket.asked().0, Vec::<String>::new());
}

#[cfg(unix)]
#[tokio::test]
async fn a_model_that_is_in_use_is_read_to_its_end_from_an_emptied_cache() {
    let world = World::new();
    world.put_model("sd").await;
    let catalogue = world.roomy(&["sd"]);
    let opened = catalogue.open("sd").await.unwrap();
    fs::remove_dir_all(world.cache()).unwrap();
    assert_whole(&opened, "sd");
    let again = catalogue.open("sd").await.unwrap();
    assert_whole(&again, "sd");
    assert_eq!(again.digest, opened.digest);
    assert_whole(&opened, "sd");
}

#[tokio::test]
async fn a_cache_that_is_emptied_while_a_model_is_fetched_is_filled_from_the_start() {
    for after in 0..NAMES.len() {
        let world = World::new();
        world.put_model("sd").await;
        let catalogue = world.roomy(&["sd"]);
        world.bucket.empty(world.cache(), after);
        let opened = catalogue.open("sd").await;
        let opened = opened.unwrap_or_else(|failure| panic!("after {after}: {failure}"));
        assert_whole(&opened, "sd");
        assert_whole(&world.roomy(&["sd"]).open("sd").await.unwrap(), "sd");
    }
}
