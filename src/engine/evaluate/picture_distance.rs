//! How unlike two pictures look, without learned weights: multi-scale SSIM over luma and chroma. It is
//! not LPIPS, and its numbers are not comparable with LPIPS's.

use crate::outcome::Picture;

/// Times that a picture is looked at, each at half the size of the one before (Wang, Simoncelli and
/// Bovik 2003); fewer where it gets smaller than the window.
const SCALES: usize = 5;
/// Of the Gaussian window.
const TAPS: usize = 11;
const SIGMA: f64 = 1.5;
/// SSIM's constants for values up to 255 (Wang et al. 2004).
const C1: f64 = (0.01 * 255.0) * (0.01 * 255.0);
const C2: f64 = (0.03 * 255.0) * (0.03 * 255.0);

/// A plane of values, rows from the top.
#[derive(Debug, Clone)]
struct Plane {
    width: usize,
    height: usize,
    values: Vec<f64>,
}

/// Mean of 1 − SSIM over scales and over the planes Y, Cb and Cr (BT.601, full range): 0 of equal
/// pictures, about 1 of unrelated ones, at most 2. None where they are not of one size, or empty.
pub(super) fn looks(one: &Picture, other: &Picture) -> Option<f64> {
    let size = (one.width, one.height);
    if size != (other.width, other.height) || size.0 * size.1 == 0 {
        return None;
    }
    let (mut ones, mut others) = (planes(one)?, planes(other)?);
    let (mut sum, mut count) = (0.0, 0.0);
    for scale in 0..SCALES {
        if scale > 0 {
            ones = ones.map(|plane| plane.half());
            others = others.map(|plane| plane.half());
            let [first, ..] = &ones;
            if first.width.min(first.height) < TAPS {
                break;
            }
        }
        for (one, other) in ones.iter().zip(&others) {
            sum += 1.0 - ssim(one, other);
            count += 1.0;
        }
    }
    Some(sum / count)
}

fn planes(picture: &Picture) -> Option<[Plane; 3]> {
    const WEIGHTS: [[f64; 3]; 3] = [
        [0.299, 0.587, 0.114],
        [-0.168_735_891_6, -0.331_264_108_4, 0.5],
        [0.5, -0.418_687_589_2, -0.081_312_410_8],
    ];
    let (width, height) = (picture.width, picture.height);
    if picture.rgb.len() != width * height * 3 {
        return None;
    }
    Some(WEIGHTS.map(|[red, green, blue]| {
        let value = |rgb: &[u8; 3]| {
            let [r, g, b] = rgb.map(f64::from);
            red * r + green * g + blue * b
        };
        let (pixels, _) = picture.rgb.as_chunks::<3>();
        Plane { width, height, values: pixels.iter().map(value).collect() }
    }))
}

impl Plane {
    /// Means of two by two; a last odd row or column is left out.
    fn half(&self) -> Self {
        let (width, height) = (self.width / 2, self.height / 2);
        let at = |row: usize, column: usize| self.values[row * self.width + column];
        let mut values = Vec::with_capacity(width * height);
        for row in 0..height {
            for column in 0..width {
                let (top, left) = (2 * row, 2 * column);
                let sum =
                    at(top, left) + at(top, left + 1) + at(top + 1, left) + at(top + 1, left + 1);
                values.push(sum / 4.0);
            }
        }
        Self { width, height, values }
    }

    fn times(&self, other: &Self) -> Self {
        let values = self.values.iter().zip(&other.values).map(|(one, other)| one * other);
        Self { values: values.collect(), ..*self }
    }

    /// The Gaussian's mean around each place, over what of the window lies inside.
    fn blurred(&self) -> Self {
        let rows = filtered(&self.values, (self.height, self.width), |place, row, index| {
            place[row * self.width + index]
        });
        // `rows` is transposed, so that the second pass goes over columns and turns it back.
        let values = filtered(&rows, (self.width, self.height), |place, row, index| {
            place[row * self.height + index]
        });
        Self { values, ..*self }
    }
}

/// Filters along lines of so many values, and gives them transposed.
fn filtered(
    values: &[f64],
    (lines, length): (usize, usize),
    at: impl Fn(&[f64], usize, usize) -> f64,
) -> Vec<f64> {
    let reach = TAPS / 2;
    let taps: Vec<f64> = (0..TAPS)
        .map(|tap| {
            let away = tap as f64 - reach as f64;
            (-away * away / (2.0 * SIGMA * SIGMA)).exp()
        })
        .collect();
    let mut found = vec![0.0; lines * length];
    for index in 0..length {
        let (first, last) = (index.saturating_sub(reach), (index + reach).min(length - 1));
        let inside = &taps[first + reach - index..=last + reach - index];
        let all: f64 = inside.iter().sum();
        for line in 0..lines {
            let sum: f64 =
                (first..=last).zip(inside).map(|(place, tap)| tap * at(values, line, place)).sum();
            found[index * lines + line] = sum / all;
        }
    }
    found
}

/// Mean structural similarity of two planes of one size (Wang et al. 2004).
fn ssim(one: &Plane, other: &Plane) -> f64 {
    let (mean_one, mean_other) = (one.blurred(), other.blurred());
    let squares = [one.times(one), other.times(other), one.times(other)].map(|it| it.blurred());
    let [square_one, square_other, product] = &squares;
    let places = mean_one.values.len();
    let sum: f64 = (0..places)
        .map(|place| {
            let (x, y) = (mean_one.values[place], mean_other.values[place]);
            let variance_x = square_one.values[place] - x * x;
            let variance_y = square_other.values[place] - y * y;
            let covariance = product.values[place] - x * y;
            (2.0 * x * y + C1) * (2.0 * covariance + C2)
                / ((x * x + y * y + C1) * (variance_x + variance_y + C2))
        })
        .sum();
    sum / places as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(
        width: usize,
        height: usize,
        value: impl Fn(usize, usize, usize) -> usize,
    ) -> Picture {
        let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let rgb =
            places.flat_map(|(x, y)| [0, 1, 2].map(|channel| (value(x, y, channel) % 256) as u8));
        Picture { width, height, rgb: rgb.collect() }
    }

    fn pattern(width: usize, height: usize) -> Picture {
        picture(width, height, |x, y, channel| x * x * 7 + y * 13 + x * y * (channel + 1))
    }

    #[test]
    fn equal_pictures_look_alike_and_others_do_not() {
        let one = pattern(64, 48);
        assert!(looks(&one, &one).unwrap().abs() < 1e-12);
        let grey = picture(64, 48, |_, _, _| 128);
        let (there, back) = (looks(&one, &grey).unwrap(), looks(&grey, &one).unwrap());
        assert!(there > 0.3 && (there - back).abs() < 1e-12, "{there} {back}");
        let nearly = picture(64, 48, |x, y, channel| {
            let place = (y * 64 + x) * 3 + channel;
            usize::from(one.rgb[place].saturating_add(2))
        });
        assert!(looks(&one, &nearly).unwrap() < 0.1 * there);
    }

    #[test]
    fn pictures_that_cannot_be_compared_have_no_distance() {
        let one = pattern(16, 16);
        assert_eq!(looks(&one, &pattern(16, 12)), None);
        assert_eq!(looks(&one, &Picture { rgb: Vec::new(), ..one.clone() }), None);
        let empty = Picture { width: 0, height: 0, rgb: Vec::new() };
        assert_eq!(looks(&empty, &empty), None);
        // Smaller than the window: one scale.
        assert!(looks(&pattern(3, 5), &picture(3, 5, |_, _, _| 9)).unwrap() > 0.1);
    }

    /// Computed by another program (plain loops over the formula of Wang et al. 2004, in Python):
    /// `x²·7 + y·13 + x·y·(channel + 1)` against `x·5 + y·y·3 + 40·channel`, both modulo 256.
    #[test]
    fn it_is_what_another_program_computes() {
        let other = |width, height| picture(width, height, |x, y, c| x * 5 + y * y * 3 + 40 * c);
        for ((width, height), wanted) in EXPECTED {
            let found = looks(&pattern(width, height), &other(width, height)).unwrap();
            assert!((found - wanted).abs() < 1e-9, "{found} instead of {wanted}");
        }
    }

    const EXPECTED: [((usize, usize), f64); 2] =
        [((12, 14), 0.969_038_195_301_554_2), ((25, 23), 0.963_928_126_095_978_1)];
}
