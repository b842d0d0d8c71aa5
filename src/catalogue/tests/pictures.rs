//! Pictures that judgements leave in the cache.

use std::{fs, sync::Arc};

use super::world::{MODEL_BYTES, World, base};
use crate::{
    artifacts::digest::digest_bytes,
    catalogue::Catalogue,
    device::{ModelProvider, PictureCache},
};

fn pictures(catalogue: &Catalogue) -> Arc<dyn PictureCache> {
    catalogue.pictures().unwrap()
}

fn key(name: &str) -> String {
    digest_bytes(name.as_bytes())
}

#[test]
fn pictures_come_back_as_they_were_kept_also_after_a_restart() {
    let world = World::new();
    let cache = pictures(&world.roomy(&[]));
    assert_eq!(cache.read(&key("a")), None);
    cache.keep(&key("a"), b"pixels");
    assert_eq!(cache.read(&key("a")).unwrap(), b"pixels");
    assert_eq!(cache.read(&key("b")), None);
    // What is no digest names no folder.
    cache.keep("../outside", b"pixels");
    assert_eq!(cache.read("../outside"), None);

    let cache = pictures(&world.roomy(&[]));
    assert_eq!(cache.read(&key("a")).unwrap(), b"pixels");
    cache.keep(&key("a"), b"others");
    assert_eq!(cache.read(&key("a")).unwrap(), b"others");
    assert_eq!(world.cached("pictures"), [key("a")]);
    assert_eq!(fs::read_dir(world.cache().join("partial")).unwrap().count(), 0);
}

#[test]
fn damaged_pictures_are_none_and_can_be_kept_anew() {
    let world = World::new();
    let cache = pictures(&world.roomy(&[]));
    let entry = world.cache().join("pictures").join(key("a"));
    let file = entry.join("files/pictures");
    let damages: [&dyn Fn(); 5] = [
        // Also where every byte was compared before in this process.
        &|| fs::write(&file, b"pixelz").unwrap(),
        &|| fs::write(&file, b"pix").unwrap(),
        &|| fs::remove_file(&file).unwrap(),
        &|| fs::remove_file(entry.join("complete.json")).unwrap(),
        &|| fs::write(entry.join("complete.json"), "{").unwrap(),
    ];
    for (index, damage) in damages.iter().enumerate() {
        cache.keep(&key("a"), b"pixels");
        assert_eq!(cache.read(&key("a")).unwrap(), b"pixels");
        damage();
        assert_eq!(cache.read(&key("a")), None, "{index}");
        assert!(!entry.exists(), "{index}");
    }
}

#[tokio::test]
async fn pictures_make_room_among_themselves_and_never_by_a_model() {
    let world = World::new();
    world.put_model("sd").await;
    // Room for the model and a little more; an eighth of it is for pictures.
    let room = MODEL_BYTES + 64;
    let most = usize::try_from(room / 8).unwrap();
    let catalogue = world.catalogue(vec![base("sd")], room);
    let digest = catalogue.open("sd").await.unwrap().digest;
    let cache = pictures(&catalogue);
    cache.keep(&key("large"), &vec![0; most + 1]);
    assert_eq!(cache.read(&key("large")), None);
    for name in ["a", "b", "c"] {
        cache.keep(&key(name), &[7; 32]);
    }
    // 64 bytes are left beside the model.
    assert_eq!(cache.read(&key("a")), None);
    assert!(cache.read(&key("b")).is_some() && cache.read(&key("c")).is_some());
    cache.keep(&key("d"), &[7; 65]);
    assert_eq!(cache.read(&key("d")), None);
    assert_eq!(world.cached("models"), [digest]);

    // A model, whose bytes come from far away, is worth more than they are.
    let tight = world.catalogue(vec![base("sd")], MODEL_BYTES);
    tight.open("sd").await.unwrap();
    pictures(&tight).keep(&key("e"), &[7; 32]);
    assert!(world.cached("pictures").is_empty());
    tight.open("sd").await.unwrap();
}

#[test]
fn pictures_stay_within_their_share() {
    let world = World::new();
    let cache = pictures(&world.catalogue(Vec::new(), 800));
    for name in ["a", "b", "c", "d"] {
        cache.keep(&key(name), &[1; 30]);
    }
    assert_eq!(world.cached("pictures").len(), 3);
    assert_eq!(cache.read(&key("a")), None);
}
