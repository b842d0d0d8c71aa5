//! `Canvas`: a sheet of pixels to draw on.

use image::{RgbImage, imageops};
use plotters::{
    backend::BitMapBackend,
    coord::Shift,
    drawing::{DrawingArea, IntoDrawingArea},
};

use crate::outcome::Picture;

/// 8-bit red, green and blue.
pub(super) type Colour = [u8; 3];

pub(super) const WHITE: Colour = [255, 255, 255];
/// Body text.
pub(super) const INK: Colour = [31, 35, 40];
/// Secondary text and axes.
pub(super) const SOFT: Colour = [101, 109, 118];
/// Grid lines.
pub(super) const HAIRLINE: Colour = [222, 226, 230];
/// The erased concept, wherever it is marked.
pub(super) const ACCENT: Colour = [200, 62, 45];

/// Rows from the top; everything that falls outside is cut off.
#[derive(Debug)]
pub(super) struct Canvas {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Canvas {
    pub(super) fn new(width: usize, height: usize, background: Colour) -> Self {
        Self { width, height, rgb: background.repeat(width * height) }
    }

    pub(super) fn into_picture(self) -> Picture {
        Picture { width: self.width, height: self.height, rgb: self.rgb }
    }

    /// Lets the plotting library draw lines and areas. Its letters are spaced badly; see
    /// [`super::lettering`].
    pub(super) fn area(&mut self) -> DrawingArea<BitMapBackend<'_>, Shift> {
        BitMapBackend::with_buffer(&mut self.rgb, (self.width as u32, self.height as u32))
            .into_drawing_area()
    }

    /// The canvas at half the size: what was drawn on a double canvas comes out smooth.
    pub(super) fn halved(self) -> Self {
        let (width, height) = (self.width / 2, self.height / 2);
        let mut rgb = Vec::with_capacity(width * height * 3);
        for row in 0..height {
            for column in 0..width {
                for channel in 0..3 {
                    let at = |x: usize, y: usize| {
                        u16::from(self.rgb[(y * self.width + x) * 3 + channel])
                    };
                    let (x, y) = (column * 2, row * 2);
                    let sum = at(x, y) + at(x + 1, y) + at(x, y + 1) + at(x + 1, y + 1);
                    rgb.push(((sum + 2) / 4) as u8);
                }
            }
        }
        Self { width, height, rgb }
    }

    /// Mixes a colour into one pixel; `share` 1 covers it.
    pub(super) fn blend(&mut self, x: i64, y: i64, colour: Colour, share: f32) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return };
        if x >= self.width || y >= self.height {
            return;
        }
        let start = (y * self.width + x) * 3;
        for (below, above) in self.rgb[start..start + 3].iter_mut().zip(colour) {
            let mixed = f32::from(*below) * (1.0 - share) + f32::from(above) * share;
            *below = mixed.round().clamp(0.0, 255.0) as u8;
        }
    }

    /// Fills a rectangle.
    pub(super) fn fill(&mut self, left: usize, top: usize, size: (usize, usize), colour: Colour) {
        let right = (left + size.0).min(self.width);
        for y in top..(top + size.1).min(self.height) {
            for x in left..right {
                let start = (y * self.width + x) * 3;
                self.rgb[start..start + 3].copy_from_slice(&colour);
            }
        }
    }

    /// Draws a frame of some thickness around a rectangle, outside of it.
    pub(super) fn frame(
        &mut self,
        left: usize,
        top: usize,
        (width, height): (usize, usize),
        thickness: usize,
        colour: Colour,
    ) {
        let (outer_left, outer_top) =
            (left.saturating_sub(thickness), top.saturating_sub(thickness));
        let wide = width + 2 * thickness;
        self.fill(outer_left, outer_top, (wide, thickness), colour);
        self.fill(outer_left, top + height, (wide, thickness), colour);
        self.fill(outer_left, top, (thickness, height), colour);
        self.fill(left + width, top, (thickness, height), colour);
    }

    /// Copies a picture; its shape has been checked.
    pub(super) fn place(&mut self, picture: &Picture, left: usize, top: usize) {
        let shown = picture.width.min(self.width.saturating_sub(left));
        for row in 0..picture.height.min(self.height.saturating_sub(top)) {
            let from = row * picture.width * 3;
            let to = ((top + row) * self.width + left) * 3;
            self.rgb[to..to + shown * 3].copy_from_slice(&picture.rgb[from..from + shown * 3]);
        }
    }
}

/// A picture fitted into a square cell, its sides in proportion: small ones grow by a whole factor
/// with hard pixels, so that nothing is made up; large ones shrink smoothly.
pub(super) fn fitted(picture: &Picture, cell: usize) -> Picture {
    let longest = picture.width.max(picture.height).max(1);
    let cell = cell.max(1);
    let Some(source) =
        RgbImage::from_raw(picture.width as u32, picture.height as u32, picture.rgb.clone())
    else {
        return picture.clone();
    };
    let (width, height, filter) = if longest <= cell {
        let factor = cell / longest;
        (picture.width * factor, picture.height * factor, imageops::FilterType::Nearest)
    } else {
        let scaled = |side: usize| (side * cell / longest).max(1);
        (scaled(picture.width), scaled(picture.height), imageops::FilterType::CatmullRom)
    };
    if (width, height) == (picture.width, picture.height) {
        return picture.clone();
    }
    let rgb = imageops::resize(&source, width as u32, height as u32, filter).into_raw();
    Picture { width, height, rgb }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pictures_grow_by_whole_factors_and_large_ones_shrink() {
        let grown = fitted(&Picture { width: 2, height: 1, rgb: vec![1, 2, 3, 4, 5, 6] }, 5);
        assert_eq!((grown.width, grown.height), (4, 2));
        assert_eq!(&grown.rgb[..12], &[1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6]);
        let shrunk = fitted(&Picture { width: 64, height: 32, rgb: vec![7; 64 * 32 * 3] }, 16);
        assert_eq!((shrunk.width, shrunk.height), (16, 8));
        assert!(shrunk.rgb.iter().all(|value| *value == 7));
    }

    #[test]
    fn drawing_outside_is_cut_off() {
        let mut canvas = Canvas::new(4, 4, WHITE);
        canvas.frame(0, 0, (9, 9), 2, INK);
        canvas.fill(3, 3, (10, 10), ACCENT);
        canvas.blend(-1, 2, INK, 1.0);
        canvas.blend(4, 0, INK, 1.0);
        canvas.place(&Picture { width: 3, height: 3, rgb: vec![0; 27] }, 2, 3);
        assert_eq!(canvas.into_picture().rgb.len(), 48);
    }
}
