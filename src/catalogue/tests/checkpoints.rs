//! What jobs published.

use super::world::{Erasure, UNET, World, ada, assert_whole, bob, published};
use crate::{
    catalogue::ModelOrigin, device::ModelProvider, jobs::FailureReason as Reason,
    outcome::PublishedFile,
};

const DELTA: &[u8] = b"the edited tensors";
const WHOLE: &[u8] = b"the edited tensors and all the others";

fn erasure(base_digest: &str, files: Vec<PublishedFile>) -> Erasure<'_> {
    Erasure { principal: ada(), base: "sd", base_digest, files }
}

/// A base model, and its digest.
async fn world() -> (World, String) {
    let world = World::new();
    world.put_model("sd").await;
    world.bucket.write("out/files/delta.safetensors", DELTA).await;
    world.bucket.write(&format!("out/files/pipeline/{UNET}"), WHOLE).await;
    let digest = world.roomy(&["sd"]).open("sd").await.unwrap().digest;
    (world, digest)
}

#[tokio::test]
async fn an_erased_model_is_its_base_and_the_smallest_file_of_edited_tensors() {
    let (world, base) = world().await;
    let pipeline = published(&format!("pipeline/{UNET}"), WHOLE);
    let readme = published("README.md", b"x");
    let files = vec![pipeline.clone(), published("delta.safetensors", DELTA), readme.clone()];
    let id = world.erase(erasure(&base, files)).await;
    let whole_only = world.erase(erasure(&base, vec![pipeline])).await;
    let none = world.erase(erasure(&base, vec![readme])).await;
    let catalogue = world.roomy(&["sd"]);
    let name = format!("checkpoints/{id}");

    let known = catalogue.get(&name, None).await.unwrap().unwrap();
    assert_eq!(known.vocabulary, None);
    let opened = catalogue.open(&name).await.unwrap();
    assert_whole(&opened, "sd");
    let edited = opened.edited.as_ref().unwrap();
    assert_eq!((edited.base.as_str(), edited.base_digest.as_str()), ("sd", base.as_str()));
    assert_eq!(std::fs::read(&edited.path).unwrap(), DELTA);
    assert_ne!(opened.digest, base);
    assert_eq!(known.digest.as_ref(), Some(&opened.digest));
    let ready = catalogue.ready(&name, None).await.unwrap();
    assert_eq!(ready.digest.as_ref(), Some(&opened.digest));
    assert_eq!(ready.vocabulary.unwrap().objects, ["cat"]);
    let ModelOrigin::Erased(origin) = ready.origin else { panic!("it is erased") };
    assert_eq!((origin.base_model.as_str(), origin.concepts), ("sd", vec!["cat".to_owned()]));
    assert_eq!(origin.verdicts.len(), 1);

    // From the cache the next time.
    world.bucket.asked();
    catalogue.open(&name).await.unwrap();
    assert_eq!(world.bucket.asked(), (Vec::new(), 0));

    let opened = catalogue.open(&format!("checkpoints/{whole_only}")).await.unwrap();
    assert_eq!(std::fs::read(opened.edited.unwrap().path).unwrap(), WHOLE);
    let failure = catalogue.open(&format!("checkpoints/{none}")).await.unwrap_err();
    assert_eq!(failure.reason, Reason::ModelNotFound);
}

#[tokio::test]
async fn an_erased_model_keeps_its_files_while_it_is_in_use() {
    let (world, base) = world().await;
    let id = world.erase(erasure(&base, vec![published("delta.safetensors", DELTA)])).await;
    let larger = vec![published(&format!("pipeline/{UNET}"), WHOLE)];
    let larger = world.erase(erasure(&base, larger)).await;
    world.put_model("other").await;
    // For the base, and for the tensors of either.
    let room = super::world::MODEL_BYTES + WHOLE.len() as u64;
    let bases = ["sd", "other"].map(super::world::base).to_vec();
    let catalogue = world.catalogue(bases, room);
    let opened = catalogue.open(&format!("checkpoints/{id}")).await.unwrap();
    for name in ["other", &format!("checkpoints/{larger}")] {
        assert_eq!(catalogue.open(name).await.unwrap_err().reason, Reason::DiskFull, "{name}");
    }
    assert_whole(&opened, "sd");
    assert_eq!(std::fs::read(&opened.edited.as_ref().unwrap().path).unwrap(), DELTA);
    drop(opened);
    assert_whole(&catalogue.open("other").await.unwrap(), "other");
}

#[tokio::test]
async fn an_erased_model_whose_base_or_tensors_are_others_is_refused() {
    let (world, base) = world().await;
    let delta = published("delta.safetensors", DELTA);
    let other_base = world.erase(erasure(&"00".repeat(32), vec![delta.clone()])).await;
    let outside =
        PublishedFile { uri: "s3://models/sd/vocabulary.json".to_owned(), ..delta.clone() };
    let outside = world.erase(erasure(&base, vec![outside])).await;
    let foreign = PublishedFile { uri: "s3://other/out/files/x".to_owned(), ..delta.clone() };
    let foreign = world.erase(erasure(&base, vec![foreign])).await;
    let climbing = "s3://models/out/../sd/vocabulary.json".to_owned();
    let climbing = PublishedFile { uri: climbing, ..delta.clone() };
    let climbing = world.erase(erasure(&base, vec![climbing])).await;
    let changed = PublishedFile { sha256: "11".repeat(32), ..delta.clone() };
    let changed = world.erase(erasure(&base, vec![changed])).await;
    let longer = PublishedFile { size: delta.size + 1, ..delta.clone() };
    let longer = world.erase(erasure(&base, vec![longer])).await;
    let removed = PublishedFile { sha256: "22".repeat(32), ..published("unet/gone", DELTA) };
    let removed = PublishedFile { name: "files/delta.safetensors".to_owned(), ..removed };
    let removed = world.erase(erasure(&base, vec![removed])).await;
    let catalogue = world.roomy(&["sd"]);
    for (id, reason) in [
        (other_base, Reason::ModelChanged),
        (outside, Reason::DamagedModel),
        (foreign, Reason::DamagedModel),
        (climbing, Reason::DamagedModel),
        (changed, Reason::StorageCorrupted),
        (longer, Reason::StorageCorrupted),
        (removed, Reason::ModelNotFound),
    ] {
        let failure = catalogue.open(&format!("checkpoints/{id}")).await.unwrap_err();
        assert_eq!(failure.reason, reason, "{failure}");
    }
    assert!(world.cached("tensors").is_empty());
}

#[tokio::test]
async fn a_checkpoint_of_a_checkpoint_needs_the_whole_unet() {
    let (world, base) = world().await;
    let delta = published("delta.safetensors", DELTA);
    let whole = published(&format!("pipeline/{UNET}"), WHOLE);
    let first = world.erase(erasure(&base, vec![delta.clone()])).await;
    let catalogue = world.roomy(&["sd"]);
    let first = catalogue.open(&format!("checkpoints/{first}")).await.unwrap();
    let second = |digest, files| Erasure { base: &first.name, ..erasure(digest, files) };
    let good = world.erase(second(&first.digest, vec![delta.clone(), whole.clone()])).await;
    let partial = world.erase(second(&first.digest, vec![delta])).await;
    let other = world.erase(second(&base, vec![whole])).await;

    let opened = catalogue.open(&format!("checkpoints/{good}")).await.unwrap();
    let edited = opened.edited.unwrap();
    assert_eq!((edited.base, edited.base_digest), ("sd".to_owned(), base.clone()));
    assert_eq!(std::fs::read(edited.path).unwrap(), WHOLE);
    // Itself first, down to the base model, which nothing was erased from.
    let lineage: Vec<_> = (opened.ancestors.iter())
        .map(|ancestor| {
            (ancestor.model.as_str(), ancestor.digest.as_str(), ancestor.concepts.len())
        })
        .collect();
    let expected = [
        (opened.name.as_str(), opened.digest.as_str(), 1),
        (first.name.as_str(), first.digest.as_str(), 1),
        ("sd", base.as_str(), 0),
    ];
    assert_eq!(lineage, expected);
    assert!(catalogue.open("sd").await.unwrap().ancestors.is_empty());
    assert!(catalogue.ready(&opened.name, None).await.unwrap().vocabulary.is_some());
    for (id, reason) in [(partial, Reason::ModelNotFound), (other, Reason::ModelChanged)] {
        let failure = catalogue.open(&format!("checkpoints/{id}")).await.unwrap_err();
        assert_eq!(failure.reason, reason, "{failure}");
    }
}

#[tokio::test]
async fn a_checkpoint_is_seen_by_its_owner_and_once_it_is_published() {
    let (world, base) = world().await;
    let files = || vec![published("delta.safetensors", DELTA)];
    let done = world.erase(erasure(&base, files())).await;
    let undone = world.queue(&erasure(&base, files())).await.id;
    let catalogue = world.roomy(&["sd"]);
    let name = format!("checkpoints/{done}");
    for (viewer, is_seen) in [(None, true), (Some(ada()), true), (Some(bob()), false)] {
        let viewer = viewer.as_ref();
        assert_eq!(catalogue.get(&name, viewer).await.unwrap().is_some(), is_seen);
        let ready = catalogue.ready(&name, viewer).await;
        assert_eq!(ready.is_ok(), is_seen);
        assert!(ready.is_ok() || ready.unwrap_err().reason == Reason::ModelNotFound);
        assert!(catalogue.get("sd", viewer).await.unwrap().is_some(), "bases are everybody's");
    }
    let undone = format!("checkpoints/{undone}");
    assert_eq!(catalogue.get(&undone, None).await.unwrap(), None);
    assert_eq!(catalogue.open(&undone).await.unwrap_err().reason, Reason::ModelNotFound);
    // A UUID has several spellings, a model has one name.
    let simple = format!("checkpoints/{}", done.0.simple());
    assert_eq!(catalogue.get(&simple, None).await.unwrap(), None);
}

#[tokio::test]
async fn an_erased_model_comes_back_after_the_cache_was_emptied() {
    let (world, base) = world().await;
    let id = world.erase(erasure(&base, vec![published("delta.safetensors", DELTA)])).await;
    let catalogue = world.roomy(&["sd"]);
    let name = format!("checkpoints/{id}");
    catalogue.open(&name).await.unwrap();
    for kind in ["", "tensors", "models"] {
        std::fs::remove_dir_all(world.cache().join(kind)).unwrap();
        let opened = catalogue.open(&name).await.unwrap();
        assert_whole(&opened, "sd");
        assert_eq!(std::fs::read(opened.edited.unwrap().path).unwrap(), DELTA, "{kind}");
    }
}
