//! Decodes pictures that do not fit into memory in overlapping tiles, as diffusers'
//! `AutoencoderKL.tiled_decode`. Each tile has norms and attention of its own, so the picture
//! differs slightly from one that is decoded whole.

use candle_core::Tensor;

use crate::engine::EngineError;

/// Sides of a tile, in pixels.
pub(in crate::engine) const TILE_PIXELS: usize = 512;
/// Share of a tile that overlaps the next.
const OVERLAP: f64 = 0.25;

/// Decodes a batch of latents tile by tile; `decode` is given a tile of latents at a time, and
/// `factor` is how many pixels a latent cell becomes a side.
pub(super) fn decode_tiled(
    latents: &Tensor,
    factor: usize,
    mut decode: impl FnMut(&Tensor) -> Result<Tensor, EngineError>,
) -> Result<Tensor, EngineError> {
    let tile = (TILE_PIXELS / factor).max(1);
    let stride = ((tile as f64 * (1.0 - OVERLAP)) as usize).max(1);
    let blended = (TILE_PIXELS as f64 * OVERLAP) as usize;
    let kept = TILE_PIXELS - blended;
    let (_, _, height, width) = latents.dims4()?;
    let mut above: Vec<Tensor> = Vec::new();
    let mut rows = Vec::new();
    for top in (0..height).step_by(stride) {
        let mut row: Vec<Tensor> = Vec::new();
        let mut cropped = Vec::new();
        for (column, left) in (0..width).step_by(stride).enumerate() {
            let cells = latents
                .narrow(2, top, tile.min(height - top))?
                .narrow(3, left, tile.min(width - left))?
                .contiguous()?;
            let mut pixels = decode(&cells)?;
            if let Some(above) = above.get(column) {
                pixels = blend(above, &pixels, 2, blended)?;
            }
            if let Some(beside) = row.last() {
                pixels = blend(beside, &pixels, 3, blended)?;
            }
            let (_, _, rows, columns) = pixels.dims4()?;
            cropped.push(pixels.narrow(2, 0, rows.min(kept))?.narrow(3, 0, columns.min(kept))?);
            row.push(pixels);
        }
        rows.push(Tensor::cat(&cropped, 3)?);
        above = row;
    }
    Ok(Tensor::cat(&rows, 2)?)
}

/// Fades from the end of one tile into the beginning of the next, along an axis.
fn blend(
    before: &Tensor,
    after: &Tensor,
    axis: usize,
    extent: usize,
) -> candle_core::Result<Tensor> {
    let (ends, length) = (before.dim(axis)?, after.dim(axis)?);
    let extent = extent.min(ends).min(length);
    let shares: Vec<f32> = (0..extent).map(|step| step as f32 / extent as f32).collect();
    let mut shape = [1; 4];
    shape[axis] = extent;
    let shares = Tensor::from_vec(shares, &shape, after.device())?;
    let old = before.narrow(axis, ends - extent, extent)?;
    let new = after.narrow(axis, 0, extent)?;
    let faded = (old.broadcast_mul(&(1.0 - &shares)?)? + new.broadcast_mul(&shares)?)?;
    if extent == length {
        return Ok(faded);
    }
    Tensor::cat(&[&faded, &after.narrow(axis, extent, length - extent)?], axis)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// A decoder of eight pixels a cell that gives each pixel its cell's value.
    fn enlarge(cells: &Tensor) -> Result<Tensor, EngineError> {
        let (_, _, height, width) = cells.dims4()?;
        Ok(cells.upsample_nearest2d(8 * height, 8 * width)?)
    }

    #[test]
    fn tiles_of_a_decoder_that_sees_no_edges_are_the_picture() {
        for (height, width) in [(64, 64), (128, 128), (72, 200), (130, 65)] {
            let count = height * width;
            let cells: Vec<f32> = (0..count).map(|cell| cell as f32).collect();
            let latents = Tensor::from_vec(cells, (1, 1, height, width), &Device::Cpu).unwrap();
            let mut tiles = 0;
            let tiled = decode_tiled(&latents, 8, |cells| {
                tiles += 1;
                let (_, _, height, width) = cells.dims4()?;
                assert!(height <= 64 && width <= 64);
                enlarge(cells)
            });
            let (tiled, whole) = (tiled.unwrap(), enlarge(&latents).unwrap());
            assert_eq!(tiled.dims(), whole.dims());
            let off = (tiled - whole).unwrap().abs().unwrap().max_all().unwrap();
            // Shares of a value add up to it but for rounding.
            assert!(off.to_scalar::<f32>().unwrap() <= 4e-3 * 1.0_f32.max(count as f32 / 1e4));
            assert_eq!(tiles, height.div_ceil(48) * width.div_ceil(48));
        }
    }

    #[test]
    fn tiles_fade_into_each_other() {
        // Each tile has the value of its order: 0 and 1 side by side.
        let latents = Tensor::zeros((1, 1, 48, 96), candle_core::DType::F32, &Device::Cpu).unwrap();
        let mut tile = -1.0;
        let pixels = decode_tiled(&latents, 8, |cells| {
            tile += 1.0;
            Ok((enlarge(cells)? + tile)?)
        });
        let row = pixels.unwrap().narrow(2, 0, 1).unwrap().flatten_all().unwrap();
        let row = row.to_vec1::<f32>().unwrap();
        assert_eq!(row.len(), 768);
        // The second tile begins at pixel 384 and is wholly itself 128 pixels later.
        assert_eq!((row[383], row[384], row[448], row[512]), (0.0, 0.0, 0.5, 1.0));
    }
}
