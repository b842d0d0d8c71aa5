//! The list in pages.

use super::world::{Erasure, World, ada, bob, published};
use crate::{catalogue::Catalogue, jobs::Principal};

async fn walk(catalogue: &Catalogue, viewer: Option<&Principal>, most: usize) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = catalogue.list(viewer, after, most).await.unwrap();
        names.extend(page.models.iter().map(|model| model.name.clone()));
        match page.next {
            Some(_) => assert_eq!(page.models.len(), most, "a page before the last one is full"),
            None => return names,
        }
        assert!(names.len() < 100, "the list ends");
        after = page.next;
    }
}

#[tokio::test]
async fn pages_of_any_size_give_every_model_once() {
    let world = World::new();
    let catalogue = world.roomy(&["zebra", "apple"]);
    let bases = ["apple", "emoji-canvas", "zebra"].map(str::to_owned);
    for most in 1..=4 {
        assert_eq!(walk(&catalogue, None, most).await, bases);
    }
    let mut all = bases.to_vec();
    let mut of_bob = bases.to_vec();
    for number in 0..5 {
        let principal = if number % 2 == 0 { ada() } else { bob() };
        let is_bobs = principal == bob();
        let files = vec![published("delta.safetensors", b"x")];
        let erasure = Erasure { principal, base: "apple", base_digest: "00", files };
        let id = world.erase(erasure).await;
        all.insert(3, format!("checkpoints/{id}"));
        if is_bobs {
            of_bob.insert(3, format!("checkpoints/{id}"));
        }
    }
    let files = Vec::new();
    world.queue(&Erasure { principal: bob(), base: "apple", base_digest: "00", files }).await;
    for most in 1..=9 {
        assert_eq!(walk(&catalogue, None, most).await, all, "{most} a page");
        assert_eq!(walk(&catalogue, Some(&bob()), most).await, of_bob, "{most} a page");
    }
    let page = catalogue.list(None, None, 0).await.unwrap();
    assert_eq!(page.models.len(), 1, "a page is never empty while there is something");
}
