//! A drawn picture.

/// 8-bit RGB, rows from the top, three bytes a pixel, no padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels a row.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `width * height * 3` bytes.
    pub rgb: Vec<u8>,
}

/// What a drawing hands over while it goes on.
#[derive(Debug, Clone, PartialEq)]
pub enum Drawn {
    /// An unfinished picture, small: what the latents so far point to.
    Preview {
        /// Which picture of the spec, from 0.
        index: usize,
        /// The picture.
        picture: Picture,
    },
    /// A finished picture.
    Picture {
        /// Which picture of the spec, from 0.
        index: usize,
        /// The picture.
        picture: Picture,
    },
}
