//! Reads PNG files from clients, which may be of any size and damaged in any way.

use std::{io::Cursor, ops::RangeInclusive};

use ::png::{BitDepth, ColorType, Decoder, DecodingError, Limits, Transformations};

use crate::outcome::Picture;

/// Memory that a PNG may take besides its pixels: profiles, palettes, a line.
const MOST_BESIDES: usize = 4 << 20;

/// How large a picture may be to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PictureLimits {
    /// Pixels of its width and of its height.
    pub sides: RangeInclusive<usize>,
    /// Pixels in all.
    pub pixels: usize,
}

/// Why bytes are not read as a picture.
#[derive(Debug, thiserror::Error)]
pub enum PngError {
    /// They are of another format.
    #[error("is {found}, and PNG alone is read; save it as PNG")]
    AnotherFormat {
        /// What they look like.
        found: &'static str,
    },
    /// A side is too short or too long.
    #[error(
        "is {width} by {height} pixels, and each side may have {} to {}; resize it", .sides.start(), .sides.end()
    )]
    Sides {
        /// Pixels a row.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// What is allowed.
        sides: RangeInclusive<usize>,
    },
    /// There are too many pixels.
    #[error(
        "is {width} by {height} pixels, which is {} in all, and the limit is {limit}; shrink it", width * height
    )]
    Pixels {
        /// Pixels a row.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// Most that are allowed.
        limit: usize,
    },
    /// Its colours are finer than 8 bits.
    #[error("has 16 bits a channel, and 8 are read; save it with 8")]
    SixteenBits,
    /// It ends early, or is no PNG within.
    #[error("cannot be read as PNG: {0}; save it anew")]
    Damaged(String),
}

/// Reads a PNG as RGB: grey becomes red, green and blue, and what is transparent keeps its colour, as
/// with Pillow's `convert("RGB")`, which diffusers' `load_image` does.
///
/// Sizes are read from the header and held against the limits before any pixel is.
pub fn read_png(bytes: &[u8], limits: &PictureLimits) -> Result<Picture, PngError> {
    if let Some(found) = another_format(bytes) {
        return Err(PngError::AnotherFormat { found });
    }
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: MOST_BESIDES });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND);
    let header = decoder.read_header_info().map_err(|error| damaged(&error))?;
    let (width, height) = (header.width as usize, header.height as usize);
    if ![width, height].iter().all(|side| limits.sides.contains(side)) {
        return Err(PngError::Sides { width, height, sides: limits.sides.clone() });
    }
    if width * height > limits.pixels {
        return Err(PngError::Pixels { width, height, limit: limits.pixels });
    }
    if header.bit_depth == BitDepth::Sixteen {
        return Err(PngError::SixteenBits);
    }
    let mut reader = decoder.read_info().map_err(|error| damaged(&error))?;
    let mut pixels = vec![0; reader.output_buffer_size().unwrap_or_default()];
    let frame = reader.next_frame(&mut pixels).map_err(|error| damaged(&error))?;
    if (frame.width as usize, frame.height as usize) != (width, height) {
        return Err(PngError::Damaged("its first frame is of another size".to_owned()));
    }
    let rgb = match frame.color_type {
        ColorType::Rgb => pixels,
        ColorType::Rgba => pixels.chunks_exact(4).flat_map(|pixel| &pixel[..3]).copied().collect(),
        ColorType::Grayscale => pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
        ColorType::GrayscaleAlpha => {
            pixels.chunks_exact(2).flat_map(|pixel| [pixel[0]; 3]).collect()
        }
        ColorType::Indexed => {
            return Err(PngError::Damaged("its palette is missing".to_owned()));
        }
    };
    Ok(Picture { width, height, rgb })
}

/// What bytes that begin as no PNG does look like.
fn another_format(bytes: &[u8]) -> Option<&'static str> {
    const SIGNATURES: [(&[u8], &str); 6] = [
        (b"\xff\xd8\xff", "a JPEG"),
        (b"GIF8", "a GIF"),
        (b"RIFF", "a WebP"),
        (b"BM", "a BMP"),
        (b"II*\0", "a TIFF"),
        (b"MM\0*", "a TIFF"),
    ];
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return None;
    }
    let known = SIGNATURES.iter().find(|(signature, _)| bytes.starts_with(signature));
    Some(known.map_or("no picture of a known format", |(_, name)| name))
}

fn damaged(error: &DecodingError) -> PngError {
    // What it says may quote the file, which may hold anything.
    PngError::Damaged(error.to_string().chars().filter(|c| !c.is_control()).take(160).collect())
}

#[cfg(test)]
mod tests {
    use ::png::Encoder;

    use super::*;
    use crate::report::{PictureNotes, encode_png};

    fn limits() -> PictureLimits {
        PictureLimits { sides: 1..=64, pixels: 512 }
    }

    fn encoded(
        (width, height): (u32, u32),
        color: ColorType,
        depth: BitDepth,
        data: &[u8],
        more: impl Fn(&mut Encoder<'_, &mut Vec<u8>>),
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, width, height);
        encoder.set_color(color);
        encoder.set_depth(depth);
        more(&mut encoder);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(data).unwrap();
        writer.finish().unwrap();
        bytes
    }

    fn refused(bytes: &[u8]) -> String {
        read_png(bytes, &limits()).unwrap_err().to_string()
    }

    #[test]
    fn every_kind_of_colour_is_read_as_rgb() {
        let none = |_: &mut Encoder<'_, &mut Vec<u8>>| ();
        let eight = BitDepth::Eight;
        let palette = |encoder: &mut Encoder<'_, &mut Vec<u8>>| {
            encoder.set_palette(vec![1, 2, 3, 4, 5, 6]);
            encoder.set_trns(vec![0, 255]);
        };
        for (bytes, rgb) in [
            (encoded((2, 1), ColorType::Rgb, eight, &[1, 2, 3, 4, 5, 6], none), [1, 2, 3, 4, 5, 6]),
            (
                encoded((2, 1), ColorType::Rgba, eight, &[1, 2, 3, 0, 4, 5, 6, 9], none),
                [1, 2, 3, 4, 5, 6],
            ),
            (encoded((2, 1), ColorType::Grayscale, eight, &[7, 9], none), [7, 7, 7, 9, 9, 9]),
            (
                encoded((2, 1), ColorType::GrayscaleAlpha, eight, &[7, 0, 9, 255], none),
                [7, 7, 7, 9, 9, 9],
            ),
            (
                encoded((2, 1), ColorType::Grayscale, BitDepth::One, &[0b0100_0000], none),
                [0, 0, 0, 255, 255, 255],
            ),
            (
                encoded((2, 1), ColorType::Indexed, BitDepth::Two, &[0b0100_0000], palette),
                [4, 5, 6, 1, 2, 3],
            ),
        ] {
            let read = read_png(&bytes, &limits()).unwrap();
            assert_eq!(read, Picture { width: 2, height: 1, rgb: rgb.to_vec() });
        }
    }

    #[test]
    fn what_we_write_we_read() {
        let rgb = (0..16 * 12 * 3).map(|index| (index * 7 % 256) as u8).collect();
        let picture = Picture { width: 16, height: 12, rgb };
        let bytes = encode_png(&picture, &PictureNotes::drawn(&"a cat ".repeat(9_000), 7)).unwrap();
        assert_eq!(read_png(&bytes, &limits()).unwrap(), picture);
    }

    /// The header of a PNG, with a right checksum and nothing behind it.
    fn header(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, width, height);
        encoder.set_color(ColorType::Rgb);
        drop(encoder.write_header().unwrap());
        bytes.truncate(33);
        bytes
    }

    #[test]
    fn a_picture_that_is_too_large_is_refused_by_its_header_alone() {
        for (width, height) in [(65, 2), (2, 65), (1 << 30, 1 << 30), (u32::MAX >> 1, 1)] {
            let text = refused(&header(width, height));
            assert!(text.contains(&format!("{width} by {height}")), "{text}");
            assert!(text.contains("1 to 64") && text.contains("resize"), "{text}");
        }
        let text = refused(&header(64, 9));
        assert!(text.contains("576 in all") && text.contains("the limit is 512"), "{text}");
        assert!(text.contains("shrink it"), "{text}");
        // It is the size and no fault of the file: one that fits is missed its pixels.
        assert!(refused(&header(64, 8)).contains("save it anew"));
    }

    #[test]
    fn other_formats_and_depths_are_refused_by_name() {
        for (bytes, named) in [
            (&b"\xff\xd8\xff\xe0\0\x10JFIF"[..], "a JPEG"),
            (b"GIF89a", "a GIF"),
            (b"RIFF\0\0\0\0WEBP", "a WebP"),
            (b"", "no picture of a known format"),
            (b"\x89PNG", "no picture of a known format"),
        ] {
            let text = refused(bytes);
            assert!(text.contains(named) && text.contains("save it as PNG"), "{text}");
        }
        let deep = encoded((1, 1), ColorType::Rgb, BitDepth::Sixteen, &[0; 6], |_| ());
        assert!(refused(&deep).contains("16 bits"));
    }

    #[test]
    fn damage_is_told_and_never_panics() {
        let rgb = (0..8 * 8 * 3).map(|index| (index * 31 % 256) as u8).collect();
        let whole = encode_png(&Picture { width: 8, height: 8, rgb }, &PictureNotes::default());
        let whole = whole.unwrap();
        for length in 8..whole.len() - 12 {
            assert!(refused(&whole[..length]).contains("save it anew"), "{length}");
        }
        for index in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[index] ^= 1 << bit;
                if let Ok(read) = read_png(&bytes, &limits()) {
                    assert_eq!(read.rgb.len(), read.width * read.height * 3);
                }
            }
        }
    }
}
