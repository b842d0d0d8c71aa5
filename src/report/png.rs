//! Pictures as PNG files.

use ::png::{BitDepth, ColorType, Encoder};

use super::ReportError;
use crate::outcome::Picture;

/// What a PNG says about itself, in its text chunks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PictureNotes {
    /// Keyword and text, such as "prompt" and "a cat"; keywords are Latin-1 and at most 79 bytes.
    pub entries: Vec<(&'static str, String)>,
}

impl PictureNotes {
    /// The notes of a drawn picture, under the names that people look for.
    pub fn drawn(prompt: &str, seed: u64) -> Self {
        Self {
            entries: vec![
                ("prompt", prompt.to_owned()),
                ("seed", seed.to_string()),
                ("Software", concat!("Keystep ", env!("CARGO_PKG_VERSION")).to_owned()),
            ],
        }
    }
}

/// A picture as PNG bytes. The same picture and notes give the same bytes: no time is written.
pub fn encode_png(picture: &Picture, notes: &PictureNotes) -> Result<Vec<u8>, ReportError> {
    check(picture)?;
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, picture.width as u32, picture.height as u32);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    for (keyword, text) in &notes.entries {
        // The international chunk, because prompts are not always Latin-1.
        encoder.add_itxt_chunk((*keyword).to_owned(), text.clone())?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&picture.rgb)?;
    writer.finish()?;
    Ok(bytes)
}

/// Several pictures of one size, side by side in rows, with a thin gap: what `generate` writes when
/// it is asked for more than one.
pub fn picture_grid(pictures: &[Picture]) -> Result<Picture, ReportError> {
    let first = pictures.first().ok_or(ReportError::Empty("no picture"))?;
    if pictures.len() == 1 {
        return Ok(first.clone());
    }
    let gap = (first.width / 32).max(2);
    let columns = (1..=pictures.len()).find(|side| side * side >= pictures.len()).unwrap_or(1);
    let rows = pictures.len().div_ceil(columns);
    let mut canvas = super::canvas::Canvas::new(
        columns * (first.width + gap) - gap,
        rows * (first.height + gap) - gap,
        super::canvas::WHITE,
    );
    for (index, picture) in pictures.iter().enumerate() {
        check(picture)?;
        let (column, row) = (index % columns, index / columns);
        canvas.place(picture, column * (first.width + gap), row * (first.height + gap));
    }
    Ok(canvas.into_picture())
}

pub(super) fn check(picture: &Picture) -> Result<(), ReportError> {
    let fits = picture
        .width
        .checked_mul(picture.height)
        .and_then(|pixels| pixels.checked_mul(3))
        .is_some_and(|bytes| bytes == picture.rgb.len() && bytes > 0);
    let addressable = u32::try_from(picture.width).is_ok() && u32::try_from(picture.height).is_ok();
    if fits && addressable {
        Ok(())
    } else {
        Err(ReportError::MisshapenPicture {
            width: picture.width,
            height: picture.height,
            bytes: picture.rgb.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_png_holds_the_pixels_and_the_notes() {
        let picture = Picture { width: 2, height: 1, rgb: vec![255, 0, 0, 0, 128, 255] };
        let bytes = encode_png(&picture, &PictureNotes::drawn("a café cat", 7)).unwrap();
        let mut reader = ::png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
        let mut pixels = vec![0; 6];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, picture.rgb);
        let texts: Vec<String> = reader
            .info()
            .utf8_text
            .iter()
            .map(|chunk| format!("{}={}", chunk.keyword, chunk.get_text().unwrap()))
            .collect();
        assert!(texts.contains(&"prompt=a café cat".to_owned()), "{texts:?}");
        assert!(texts.contains(&"seed=7".to_owned()), "{texts:?}");
    }

    #[test]
    fn a_misshapen_picture_is_refused() {
        for (width, height, bytes) in [(2, 2, 3), (0, 0, 0), (usize::MAX, 2, 3)] {
            let picture = Picture { width, height, rgb: vec![0; bytes] };
            assert!(matches!(
                encode_png(&picture, &PictureNotes::default()),
                Err(ReportError::MisshapenPicture { .. })
            ));
        }
    }

    #[test]
    fn a_grid_has_room_for_every_picture() {
        let picture = Picture { width: 8, height: 8, rgb: vec![9; 192] };
        let grid = picture_grid(&vec![picture.clone(); 3]).unwrap();
        assert_eq!((grid.width, grid.height), (18, 18));
        assert_eq!(picture_grid(std::slice::from_ref(&picture)).unwrap(), picture);
        assert!(picture_grid(&[]).is_err());
    }
}
