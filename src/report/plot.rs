//! What the plots share: panels with axes, curves with bands, a legend. The plotting library draws
//! lines and areas on a canvas of double size; letters are added once that is halved.

use plotters::{
    prelude::{Circle, PathElement, Polygon, Rectangle},
    style::{Color, RGBColor, ShapeStyle},
};

use super::{
    ReportError,
    canvas::{Canvas, Colour, HAIRLINE, INK, SOFT, WHITE},
    lettering::{Anchor, Lettering},
};

/// Lines are drawn this much larger and then shrunk.
const OVERSAMPLING: f64 = 2.0;

/// One curve of a panel.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) colour: Colour,
    /// Line width in pixels.
    pub(super) width: u32,
    /// Whether each point gets a dot.
    pub(super) dots: bool,
    /// `x`, `y` and the half width of the band around it.
    pub(super) points: Vec<(f64, f64, f64)>,
    /// Whether the legend names it.
    pub(super) in_legend: bool,
}

/// A rectangle of the plot with its own axes.
#[derive(Debug, Clone)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) x: (f64, f64),
    pub(super) y: (f64, f64),
    /// Whether the panel shows the logarithm of its values.
    pub(super) logarithmic: bool,
    /// `x` bounds of a shaded band and its colour.
    pub(super) shaded: Option<(f64, f64, Colour)>,
    pub(super) curves: Vec<Curve>,
}

impl Panel {
    /// A place in the panel, in pixels of the finished plot.
    pub(super) fn place(&self, x: f64, y: f64) -> (f64, f64) {
        let share = |value: f64, (low, high): (f64, f64)| (value - low) / (high - low);
        let along = self.left + share(x, self.x) * self.width;
        let up = if self.logarithmic {
            share(y.max(self.y.0).log10(), (self.y.0.log10(), self.y.1.log10()))
        } else {
            share(y, self.y)
        };
        (along, self.top + (1.0 - up.clamp(0.0, 1.0)) * self.height)
    }

    /// Sets the range of `y` to round numbers around the curves and their bands.
    pub(super) fn fit_y(&mut self) {
        let ends: Vec<f64> = self
            .curves
            .iter()
            .flat_map(|curve| &curve.points)
            .flat_map(|(_, y, half)| [y - half, y + half])
            .filter(|value| value.is_finite())
            .collect();
        let low = ends.iter().copied().fold(f64::INFINITY, f64::min);
        let high = ends.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if low > high {
            self.y = (0.0, 1.0);
            self.logarithmic = false;
            return;
        }
        if self.logarithmic && low > 0.0 {
            self.y = (low / 1.15, high * 1.15);
            return;
        }
        self.logarithmic = false;
        // Zero belongs to the picture: these are all ratios and losses. A band that reaches below
        // it says nothing, where no value does.
        let means = self.curves.iter().flat_map(|curve| &curve.points).map(|point| point.1);
        let low = if means.fold(0.0, f64::min) < 0.0 { low } else { 0.0 };
        let high = high.max(0.0);
        let step = tick_step(high - low);
        let high = (high / step).ceil() * step;
        self.y = ((low / step).floor() * step, if high > low { high } else { low + 1.0 });
    }

    fn y_ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            return logarithmic_ticks(self.y);
        }
        let step = tick_step(self.y.1 - self.y.0);
        let first = (self.y.0 / step).ceil() as i64;
        let last = (self.y.1 / step + 1e-9).floor() as i64;
        (first..=last).map(|count| count as f64 * step).collect()
    }

    /// Draws areas, lines and dots, on the doubled canvas.
    fn draw_shapes(&self, canvas: &mut Canvas) -> Result<(), ReportError> {
        let area = canvas.area();
        let failed = |error: &dyn std::fmt::Display| ReportError::Plot(error.to_string());
        let at = |x: f64, y: f64| {
            let (x, y) = self.place(x, y);
            ((x * OVERSAMPLING).round() as i32, (y * OVERSAMPLING).round() as i32)
        };
        if let Some((from, to, colour)) = self.shaded {
            let (from, to) = (from.max(self.x.0), to.min(self.x.1));
            let corners = [at(from, self.y.1), at(to, self.y.0)];
            let style = rgb(colour).mix(0.13).filled();
            area.draw(&Rectangle::new(corners, style)).map_err(|error| failed(&error))?;
        }
        for tick in self.y_ticks() {
            let line = vec![at(self.x.0, tick), at(self.x.1, tick)];
            let style = stroke(if tick == 0.0 { SOFT } else { HAIRLINE }, 2);
            area.draw(&PathElement::new(line, style)).map_err(|error| failed(&error))?;
        }
        let axis = vec![at(self.x.0, self.y.0), at(self.x.1, self.y.0)];
        area.draw(&PathElement::new(axis, stroke(SOFT, 2))).map_err(|error| failed(&error))?;
        for curve in &self.curves {
            let finite: Vec<_> = curve.points.iter().filter(|point| point.1.is_finite()).collect();
            if finite.iter().any(|point| point.2 > 0.0) {
                let upper = finite.iter().map(|(x, y, half)| at(*x, y + half));
                let lower = finite.iter().rev().map(|(x, y, half)| at(*x, y - half));
                let outline: Vec<_> = upper.chain(lower).collect();
                let style = rgb(curve.colour).mix(0.18).filled();
                area.draw(&Polygon::new(outline, style)).map_err(|error| failed(&error))?;
            }
            let line: Vec<_> = finite.iter().map(|(x, y, _)| at(*x, *y)).collect();
            let style = stroke(curve.colour, curve.width * 2);
            if curve.dots {
                for centre in &line {
                    let dot = Circle::new(*centre, 7, rgb(curve.colour).filled());
                    area.draw(&dot).map_err(|error| failed(&error))?;
                }
            }
            if line.len() > 1 {
                area.draw(&PathElement::new(line, style)).map_err(|error| failed(&error))?;
            }
        }
        area.present().map_err(|error| failed(&error))
    }

    /// Adds title, legend and numbers, on the finished canvas.
    fn draw_texts(&self, canvas: &mut Canvas) -> Result<(), ReportError> {
        let heading = Lettering::new(20.0)?;
        let number = Lettering::new(16.0)?;
        let base = self.top as f32 - 22.0;
        let left = self.left as f32;
        heading.draw(canvas, &self.title, (left, base), Anchor::Start, INK);
        let mut x = (self.left + self.width) as f32;
        for curve in self.curves.iter().rev().filter(|curve| curve.in_legend) {
            number.draw(canvas, &curve.name, (x, base), Anchor::End, INK);
            x -= number.width(&curve.name) + 8.0;
            let swatch = (x.max(30.0) - 26.0) as usize;
            canvas.fill(swatch, (base as usize).saturating_sub(2), (26, 4), curve.colour);
            x -= 26.0 + 26.0;
        }
        for tick in self.y_ticks() {
            let (_, y) = self.place(self.x.0, tick);
            let text = short_number(tick);
            number.draw(canvas, &text, (left - 12.0, y as f32), Anchor::End, SOFT);
        }
        Ok(())
    }
}

/// Draws the panels on white and lets `finish` add what belongs to the plot as a whole.
pub(super) fn draw(
    width: usize,
    height: usize,
    panels: &[Panel],
    finish: impl FnOnce(&mut Canvas) -> Result<(), ReportError>,
) -> Result<Canvas, ReportError> {
    let factor = OVERSAMPLING as usize;
    let mut large = Canvas::new(width * factor, height * factor, WHITE);
    for panel in panels {
        panel.draw_shapes(&mut large)?;
    }
    let mut canvas = large.halved();
    for panel in panels {
        panel.draw_texts(&mut canvas)?;
    }
    finish(&mut canvas)?;
    Ok(canvas)
}

fn rgb([red, green, blue]: Colour) -> RGBColor {
    RGBColor(red, green, blue)
}

fn stroke(colour: Colour, width: u32) -> ShapeStyle {
    rgb(colour).stroke_width(width)
}

/// A step of 1, 2 or 5 times a power of ten that cuts a span into 3 to 7 parts.
pub(super) fn tick_step(span: f64) -> f64 {
    if !(span.is_finite() && span > 0.0) {
        return 1.0;
    }
    let rough = span / 4.0;
    let power = 10_f64.powf(rough.log10().floor());
    let digit = rough / power;
    let round = if digit < 1.5 {
        1.0
    } else if digit < 3.5 {
        2.0
    } else if digit < 7.5 {
        5.0
    } else {
        10.0
    };
    round * power
}

/// Ticks at 1, 2 and 5 times powers of ten, or at the powers alone where those are many.
fn logarithmic_ticks((low, high): (f64, f64)) -> Vec<f64> {
    let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let many = powers.clone().count() > 4;
    let digits: &[f64] = if many { &[1.0] } else { &[1.0, 2.0, 5.0] };
    powers
        .flat_map(|power| digits.iter().map(move |digit| digit * 10_f64.powi(power)))
        .filter(|tick| (low..=high).contains(tick))
        .collect()
}

/// A number as short as an axis wants it.
pub(super) fn short_number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if (1e-3..1e5).contains(&size) {
        let decimals = (2 - size.log10().floor() as i32).clamp(0, 5) as usize;
        let text = format!("{value:.decimals$}");
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').replace('-', "\u{2212}")
        } else {
            text.replace('-', "\u{2212}")
        }
    } else {
        format!("{value:.1e}").replace(".0e", "e").replace('-', "\u{2212}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for span in [0.003, 0.7, 1.0, 3.3, 42.0, 9e4] {
            let step = tick_step(span);
            assert!((2.5..=8.0).contains(&(span / step)), "{span} in steps of {step}");
        }
        assert!((tick_step(f64::NAN) - 1.0).abs() < 1e-12);
        assert!(!logarithmic_ticks((0.02, 3.0)).is_empty());
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.25, -1.0, 1_200.0, 0.000_02, 0.1].map(short_number);
        assert_eq!(shown, ["0", "0.25", "\u{2212}1", "1200", "2e\u{2212}5", "0.1"]);
    }
}
