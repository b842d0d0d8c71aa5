//! Text on a canvas, with the embedded font, so that every machine draws the same letters.

use ab_glyph::{Font, FontRef, Glyph, PxScaleFont, ScaleFont, point};

use super::{
    ReportError,
    canvas::{Canvas, Colour},
};

/// `DejaVu Sans`; its licence lies beside it.
const FONT: &[u8] = include_bytes!("../../assets/fonts/DejaVuSans.ttf");

/// Which point of a text its position names, along the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// The font at one size.
#[derive(Debug)]
pub(super) struct Lettering {
    font: PxScaleFont<FontRef<'static>>,
}

impl Lettering {
    /// `size` is the height of a line in pixels.
    pub(super) fn new(size: f32) -> Result<Self, ReportError> {
        let font = FontRef::try_from_slice(FONT).map_err(|_| ReportError::Font)?;
        Ok(Self { font: font.into_scaled(size) })
    }

    /// Width of a line of text, in pixels.
    pub(super) fn width(&self, text: &str) -> f32 {
        self.layout(text).1
    }

    /// The text, shortened with an ellipsis to fit a width.
    pub(super) fn shortened(&self, text: &str, width: f32) -> String {
        if self.width(text) <= width {
            return text.to_owned();
        }
        let mut kept: Vec<char> = text.chars().collect();
        while kept.pop().is_some() {
            let short: String = kept.iter().collect::<String>().trim_end().to_owned() + "…";
            if self.width(&short) <= width {
                return short;
            }
        }
        String::new()
    }

    /// Draws a line of text whose middle height is at `y`.
    pub(super) fn draw(
        &self,
        canvas: &mut Canvas,
        text: &str,
        (x, y): (f32, f32),
        anchor: Anchor,
        colour: Colour,
    ) {
        let (glyphs, width) = self.layout(text);
        let left = x - offset(anchor, width);
        let baseline = y + self.rise();
        for mut glyph in glyphs {
            glyph.position.x += left;
            glyph.position.y = baseline;
            self.ink(glyph, |x, y, share| canvas.blend(x, y, colour, share));
        }
    }

    /// From the middle of small letters' height down to the baseline.
    fn rise(&self) -> f32 {
        self.font.ascent() * 0.38
    }

    fn layout(&self, text: &str) -> (Vec<Glyph>, f32) {
        let mut glyphs: Vec<Glyph> = Vec::new();
        let mut x = 0.0;
        for letter in text.chars() {
            let mut glyph = self.font.scaled_glyph(letter);
            if let Some(previous) = glyphs.last() {
                x += self.font.kern(previous.id, glyph.id);
            }
            glyph.position = point(x, 0.0);
            x += self.font.h_advance(glyph.id);
            glyphs.push(glyph);
        }
        (glyphs, x)
    }

    fn ink(&self, glyph: Glyph, mut pixel: impl FnMut(i64, i64, f32)) {
        if let Some(outline) = self.font.outline_glyph(glyph) {
            let bounds = outline.px_bounds();
            let (left, top) = (bounds.min.x as i64, bounds.min.y as i64);
            outline.draw(|x, y, share| pixel(left + i64::from(x), top + i64::from(y), share));
        }
    }
}

fn offset(anchor: Anchor, width: f32) -> f32 {
    match anchor {
        Anchor::Start => 0.0,
        Anchor::Middle => width / 2.0,
        Anchor::End => width,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_shortened_to_fit() {
        let lettering = Lettering::new(16.0).unwrap();
        assert_eq!(lettering.shortened("cat", 100.0), "cat");
        let short = lettering.shortened("a very long concept indeed", 80.0);
        assert!(short.ends_with('…') && lettering.width(&short) <= 80.0, "{short}");
        assert_eq!(lettering.shortened("cat", 1.0), "");
    }
}
