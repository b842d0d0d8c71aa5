//! `Canvas`: a sheet of pixels to draw on.

use image::{ImageBuffer, Rgb, RgbImage, imageops};
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
pub(super) struct Canvas(RgbImage);

impl Canvas {
    pub(super) fn new(width: usize, height: usize, background: Colour) -> Self {
        Self(RgbImage::from_pixel(width as u32, height as u32, Rgb(background)))
    }

    pub(super) fn into_picture(self) -> Picture {
        let (width, height) = self.0.dimensions();
        Picture { width: width as usize, height: height as usize, rgb: self.0.into_raw() }
    }

    /// Lets the plotting library draw lines and areas. Its letters are spaced badly; see
    /// [`super::lettering`].
    pub(super) fn area(&mut self) -> DrawingArea<BitMapBackend<'_>, Shift> {
        let size = self.0.dimensions();
        BitMapBackend::with_buffer(&mut self.0, size).into_drawing_area()
    }

    /// The canvas at half the size: what was drawn on a double canvas comes out smooth.
    pub(super) fn halved(self) -> Self {
        let (width, height) = self.0.dimensions();
        Self(RgbImage::from_fn(width / 2, height / 2, |x, y| {
            let four = [(0, 0), (1, 0), (0, 1), (1, 1)]
                .map(|(right, down)| self.0.get_pixel(2 * x + right, 2 * y + down).0);
            Rgb([0, 1, 2].map(|channel| {
                let sum: u16 = four.iter().map(|colour| u16::from(colour[channel])).sum();
                ((sum + 2) / 4) as u8
            }))
        }))
    }

    /// Mixes a colour into one pixel; `share` 1 covers it.
    pub(super) fn blend(&mut self, x: i64, y: i64, colour: Colour, share: f32) {
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
        let Some(pixel) = self.0.get_pixel_mut_checked(x, y) else { return };
        for (below, above) in pixel.0.iter_mut().zip(colour) {
            let mixed = f32::from(*below) * (1.0 - share) + f32::from(above) * share;
            *below = mixed.round().clamp(0.0, 255.0) as u8;
        }
    }

    /// Fills a rectangle.
    pub(super) fn fill(&mut self, left: usize, top: usize, size: (usize, usize), colour: Colour) {
        let (width, height) = self.0.dimensions();
        let (right, bottom) = (left + size.0, top + size.1);
        for y in top as u32..height.min(bottom as u32) {
            for x in left as u32..width.min(right as u32) {
                self.0.put_pixel(x, y, Rgb(colour));
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
        let (width, height) = (picture.width as u32, picture.height as u32);
        if let Some(image) = ImageBuffer::<Rgb<u8>, _>::from_raw(width, height, &picture.rgb[..]) {
            imageops::replace(&mut self.0, &image, (left as u32).into(), (top as u32).into());
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
