//! Stores the base model's judged pictures in a cache, under names made of all that they depend on.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    artifacts::digest::digest_bytes,
    device::PictureCache,
    engine::evaluate::{KeptPictures, PictureStore},
    outcome::Picture,
};

/// Of the bytes' form.
const VERSION: u32 = 1;

/// Pictures of one model in a cache.
#[derive(Debug, Clone)]
pub(super) struct PictureFiles {
    /// None where nothing is kept.
    pub(super) cache: Option<Arc<dyn PictureCache>>,
    /// Digest of the model's files.
    pub(super) model: String,
}

/// What precedes the pixels, on a line of its own: everything that names them, so that no file passes
/// for another one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    model: String,
    drawing: String,
    unet_evaluations: u64,
    /// Width and height of each picture, in pixels.
    sizes: Vec<(usize, usize)>,
}

impl PictureFiles {
    fn key(&self, drawing: &str) -> String {
        digest_bytes(format!("{VERSION}\n{}\n{drawing}", self.model).as_bytes())
    }

    fn encode(&self, drawing: &str, kept: &KeptPictures) -> serde_json::Result<Vec<u8>> {
        let header = Header {
            version: VERSION,
            model: self.model.clone(),
            drawing: drawing.to_owned(),
            unet_evaluations: kept.unet_evaluations,
            sizes: kept.pictures.iter().map(|it| (it.width, it.height)).collect(),
        };
        let mut bytes = serde_json::to_vec(&header)?;
        bytes.push(b'\n');
        kept.pictures.iter().for_each(|picture| bytes.extend_from_slice(&picture.rgb));
        Ok(bytes)
    }

    /// None where the bytes are of something else.
    fn decode(&self, drawing: &str, bytes: &[u8]) -> Option<KeptPictures> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (header, mut rest) = bytes.split_at_checked(end)?;
        let header: Header = serde_json::from_slice(header).ok()?;
        let own = (header.version, header.model.as_str(), header.drawing.as_str());
        if own != (VERSION, self.model.as_str(), drawing) {
            return None;
        }
        rest = rest.get(1..)?;
        let mut pictures = Vec::new();
        for (width, height) in header.sizes {
            let length = width.checked_mul(height)?.checked_mul(3)?;
            let (rgb, after) = rest.split_at_checked(length)?;
            pictures.push(Picture { width, height, rgb: rgb.to_vec() });
            rest = after;
        }
        let unet_evaluations = header.unet_evaluations;
        rest.is_empty().then_some(KeptPictures { pictures, unet_evaluations })
    }
}

impl PictureStore for PictureFiles {
    fn load(&mut self, drawing: &str) -> Option<KeptPictures> {
        let bytes = self.cache.as_ref()?.read(&self.key(drawing))?;
        let kept = self.decode(drawing, &bytes);
        if kept.is_none() {
            tracing::warn!(
                "kept pictures are not those that they are named by; they are drawn anew"
            );
        }
        kept
    }

    fn save(&mut self, drawing: &str, kept: &KeptPictures) {
        let Some(cache) = &self.cache else { return };
        match self.encode(drawing, kept) {
            Ok(bytes) => cache.keep(&self.key(drawing), &bytes),
            Err(error) => tracing::warn!(%error, "pictures are not kept"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(model: &str) -> PictureFiles {
        PictureFiles { cache: None, model: model.to_owned() }
    }

    #[test]
    fn pictures_come_back_to_the_last_bit_and_under_their_own_name_alone() {
        let picture = |shade| Picture { width: 2, height: 1, rgb: vec![shade, 10, 13, 0, 255, 34] };
        let kept = KeptPictures { pictures: vec![picture(1), picture(2)], unet_evaluations: 48 };
        let bytes = files("m").encode("\"a\"\n", &kept).unwrap();
        assert_eq!(files("m").decode("\"a\"\n", &bytes), Some(kept));
        assert_eq!(files("m").decode("\"b\"\n", &bytes), None);
        assert_eq!(files("n").decode("\"a\"\n", &bytes), None);
        for length in 0..bytes.len() {
            assert_eq!(files("m").decode("\"a\"\n", &bytes[..length]), None, "{length}");
        }
        assert_eq!(files("m").decode("\"a\"\n", &[&bytes[..], &[0]].concat()), None);
        let keys = [("m", "a"), ("m", "b"), ("n", "a")].map(|(m, drawing)| files(m).key(drawing));
        assert!(keys[0] != keys[1] && keys[0] != keys[2] && keys[1] != keys[2]);
    }

    #[test]
    fn sizes_that_are_a_lie_are_no_pictures() {
        let header = Header {
            version: VERSION,
            model: "m".to_owned(),
            drawing: "a".to_owned(),
            unet_evaluations: 0,
            sizes: vec![(usize::MAX, 2)],
        };
        let bytes = [&serde_json::to_vec(&header).unwrap()[..], b"\n123456"].concat();
        assert_eq!(files("m").decode("a", &bytes), None);
    }
}
