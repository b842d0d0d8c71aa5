//! Pictures as a YOLO detector reads them: padded to a square, resized as OpenCV does it, blue first.

use candle_core::{Device, Tensor};

use crate::{engine::EngineError, outcome::Picture};

/// Bits behind the point of a weight (OpenCV: `INTER_RESIZE_COEF_BITS`).
const PRECISION: u32 = 11;
const CHANNELS: usize = 3;

/// The two pixels that one of the result lies between, with their weights in fixed point.
#[derive(Debug, Clone, Copy)]
struct Between {
    pixels: [usize; 2],
    weights: [i32; 2],
}

/// Pads with black on the right and below to a square, resizes that to `size` pixels a side, and
/// divides by 255, with the channels in the order blue, green, red: the detector was trained on
/// pictures that were read so.
///
/// # Shapes
/// `[pictures, 3, size, size]`.
pub(super) fn letterbox(
    pictures: &[Picture],
    size: usize,
    device: &Device,
) -> Result<Tensor, EngineError> {
    let plane = size * size;
    let mut values = vec![0.0_f32; pictures.len() * CHANNELS * plane];
    for (picture, values) in pictures.iter().zip(values.chunks_mut(CHANNELS * plane)) {
        for (pixel, rgb) in resized(&squared(picture), size).rgb.chunks(CHANNELS).enumerate() {
            for (channel, byte) in rgb.iter().rev().enumerate() {
                values[channel * plane + pixel] = f32::from(*byte) * (1.0 / 255.0);
            }
        }
    }
    Ok(Tensor::from_vec(values, (pictures.len(), CHANNELS, size, size), device)?)
}

fn squared(picture: &Picture) -> Picture {
    let side = picture.width.max(picture.height);
    let mut rgb = vec![0; CHANNELS * side * side];
    let rows = rgb.chunks_mut((CHANNELS * side).max(1));
    for (to, from) in rows.zip(picture.rgb.chunks((CHANNELS * picture.width).max(1))) {
        to[..from.len()].copy_from_slice(from);
    }
    Picture { width: side, height: side, rgb }
}

/// A square of another size (OpenCV: `cv::resize` with `INTER_LINEAR`, which does not blur what it
/// shrinks). Every byte is OpenCV's where a picture shrinks; where it grows, one in five hundred is
/// off by one.
fn resized(picture: &Picture, size: usize) -> Picture {
    let side = picture.width;
    if side == size {
        return picture.clone();
    }
    let mut rgb = Vec::with_capacity(CHANNELS * size * size);
    let at = |row: usize, column: usize, channel: usize| {
        i32::from(picture.rgb[(row * side + column) * CHANNELS + channel])
    };
    if side == 2 * size {
        // There OpenCV takes the mean.
        for (row, column, channel) in places(size) {
            let (top, left) = (2 * row, 2 * column);
            let sum = at(top, left, channel)
                + at(top, left + 1, channel)
                + at(top + 1, left, channel)
                + at(top + 1, left + 1, channel);
            rgb.push(((sum + 2) >> 2) as u8);
        }
        return Picture { width: size, height: size, rgb };
    }
    let between = between(side, size);
    for (row, column, channel) in places(size) {
        let (rows, columns) = (between[row], between[column]);
        let across = |row: usize| -> i32 {
            let pixels = columns.pixels.map(|column| at(row, column, channel));
            pixels.into_iter().zip(columns.weights).map(|(pixel, weight)| pixel * weight).sum()
        };
        // As its vector instructions round: four bits are dropped before the second product.
        let down = |(row, weight): (usize, i32)| (weight * (across(row) >> 4)) >> 16;
        let sum: i32 = rows.pixels.into_iter().zip(rows.weights).map(down).sum();
        rgb.push(((sum + 2) >> 2).clamp(0, 255) as u8);
    }
    Picture { width: size, height: size, rgb }
}

/// Rows, columns and channels of a square, in the order of its bytes.
fn places(size: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let columns = move |row| (0..size).map(move |column| (row, column));
    let channels = |(row, column)| (0..CHANNELS).map(move |channel| (row, column, channel));
    (0..size).flat_map(columns).flat_map(channels)
}

fn between(from: usize, to: usize) -> Vec<Between> {
    let scale = from as f64 / to as f64;
    let last = from.saturating_sub(1);
    let at = |index: usize| {
        let place = ((index as f64 + 0.5) * scale - 0.5) as f32;
        let first = place.floor().max(0.0);
        let share = if place < 0.0 || first as usize >= last { 0.0 } else { place - first };
        let fixed = |weight: f32| (weight * (1 << PRECISION) as f32).round_ties_even() as i32;
        let first = (first as usize).min(last);
        Between {
            pixels: [first, (first + 1).min(last)],
            weights: [fixed(1.0 - share), fixed(share)],
        }
    };
    (0..to).map(at).collect()
}
