//! How far pictures moved: CMMD and KID over a judge's features, CLIP score, and the distance of two
//! pictures.
//!
//! Both models draw the same prompts from the same seeds, so that their pictures come in pairs. The
//! usual unbiased estimate of MMD² takes two samples for independent; over pairs it is biased
//! downwards (by 0.28 of CMMD's units at 32 pictures). The paired form leaves each picture's own
//! counterpart out of the cross term too:
//!
//! Σ_{i≠j} [k(xᵢ, xⱼ) + k(yᵢ, yⱼ) − k(xᵢ, yⱼ) − k(xⱼ, yᵢ)] / n(n − 1)

use std::sync::Arc;

use super::{cells::Cell, picture_distance::looks};
use crate::{
    engine::{EngineError, judge::Judge, schedule::NoiseSource},
    outcome::{Distances, Measures, Picture, PictureDistance, ScorePair, Spread, WordRow},
    spec::{ConceptKind, JudgeSpec},
};

/// Subsets that KID is the mean of, and pictures of each at most (arXiv 1801.01401).
const SUBSETS: usize = 100;
const SUBSET: usize = 1_000;
/// CMMD's kernel and scale (arXiv 2401.09603).
const CMMD_SIGMA: f64 = 10.0;
const CMMD_SCALE: f64 = 1_000.0;
/// CLIP score's scale (arXiv 2104.08718).
const CLIP_SCORE_SCALE: f64 = 100.0;

/// 32-bit numbers that comparing so many pictures of each kind holds at most: a statistic in double
/// precision for each two of them, and three sets of features, twice.
pub(in crate::engine) fn numbers(pictures: u64) -> u64 {
    /// Wider than the projection of any CLIP.
    const FEATURES: u64 = 2_048;
    pictures.saturating_mul(pictures).saturating_add(pictures.saturating_mul(9 * FEATURES))
}

/// A grid that was drawn.
#[derive(Debug, Clone)]
pub(super) struct DrawnGrid<'a> {
    pub(super) cells: &'a [Cell],
    /// Each cell's prompt.
    pub(super) sentences: Vec<String>,
    /// Each cell by the base model.
    pub(super) before: &'a [Picture],
    /// Each cell by the edited model.
    pub(super) after: &'a [Picture],
    /// Each cell without the concept by the base model, from other seeds.
    pub(super) other: &'a [Picture],
}

/// What was measured.
#[derive(Debug)]
pub(super) struct Measured {
    /// By each judge that has features.
    pub(super) distances: Vec<Distances>,
    /// How far each cell's picture moved by meaning, by the first of them.
    meaning: Vec<f64>,
}

/// Measures by every judge that has features. `seed` draws the subsets of KID.
pub(super) fn measure(
    judges: &[Arc<dyn Judge>],
    seed: u64,
    drawn: &DrawnGrid<'_>,
) -> Result<Measured, EngineError> {
    let looks = mean_looks(drawn);
    let mut measured = Measured { distances: Vec::new(), meaning: Vec::new() };
    for judge in judges {
        let Some(before) = judge.image_features(drawn.before) else { continue };
        let before = Vectors::new(before?);
        let features = |pictures| judge.image_features(pictures).unwrap_or_else(|| Ok(Vec::new()));
        let after = Vectors::new(features(drawn.after)?);
        let other = Vectors::new(features(drawn.other)?);
        let texts = judge.text_features(&drawn.sentences).transpose()?.map(Vectors::new);
        let meaning: Vec<f64> = before.paired(&after).map(|cosine| 1.0 - cosine).collect();

        let kept = |cell: &Cell| !cell.is_target;
        let [kept_before, kept_after] = [&before, &after].map(|it| it.of(drawn.cells, kept));
        let changed = Statistic::new(&kept_before, &kept_after, cmmd_kernel);
        let yardstick = Statistic::new(&kept_before, &other, cmmd_kernel);
        let kid = Statistic::new(&kept_before, &kept_after, kid_kernel);
        let scored = |of: &dyn Fn(&Cell) -> bool| {
            let texts = texts.as_ref()?.of(drawn.cells, of);
            clip_score(&before.of(drawn.cells, of), &after.of(drawn.cells, of), &texts)
        };
        let mean_meaning = mean(
            drawn.cells.iter().zip(&meaning).filter(|(cell, _)| kept(cell)).map(|(_, far)| *far),
        );
        measured.distances.push(Distances {
            features: judge.name().to_owned(),
            pictures: kept_before.rows.len() as u64,
            cmmd: changed.whole(),
            cmmd_of_base: yardstick.whole(),
            kid: kid.over_subsets(&mut NoiseSource::new(seed)),
            clip_score: scored(&kept),
            clip_score_of_concept: scored(&|cell: &Cell| cell.is_target),
            picture_distance: mean_meaning
                .zip(looks)
                .map(|(meaning, looks)| PictureDistance { meaning, looks }),
        });
        if measured.meaning.is_empty() {
            measured.meaning = meaning;
        }
    }
    Ok(measured)
}

impl Measured {
    /// Says of each word how far its pictures moved.
    pub(super) fn of_words(&self, spec: &JudgeSpec, cells: &[Cell], measures: &mut Measures) {
        for row in &mut measures.words {
            let shows = |cell: &Cell| !cell.is_target && is_of(cell, row, spec);
            let moved = cells.iter().zip(&self.meaning).filter(|(cell, _)| shows(cell));
            row.picture_distance = mean(moved.map(|(_, far)| *far));
        }
    }
}

fn is_of(cell: &Cell, row: &WordRow, spec: &JudgeSpec) -> bool {
    let words = match row.kind {
        ConceptKind::Style => spec.vocabulary.styles.get(cell.style),
        _ => spec.vocabulary.objects.get(cell.object),
    };
    words == Some(&row.word)
}

/// None of none.
fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_usize), |(sum, count), it| (sum + it, count + 1));
    (count > 0).then(|| sum / count as f64)
}

fn mean_looks(drawn: &DrawnGrid<'_>) -> Option<f64> {
    let pairs = drawn.cells.iter().zip(drawn.before.iter().zip(drawn.after));
    let kept = pairs.filter(|(cell, _)| !cell.is_target);
    mean(kept.filter_map(|(_, (before, after))| looks(before, after)))
}

/// Unit vectors, a row a picture.
#[derive(Debug, Clone)]
struct Vectors {
    rows: Vec<Vec<f64>>,
}

impl Vectors {
    /// Brought to length 1; a vector of length 0 stays.
    fn new(rows: Vec<Vec<f32>>) -> Self {
        let unit = |row: Vec<f32>| {
            let row: Vec<f64> = row.into_iter().map(f64::from).collect();
            let length = dot(&row, &row).sqrt();
            if length > 0.0 { row.into_iter().map(|value| value / length).collect() } else { row }
        };
        Self { rows: rows.into_iter().map(unit).collect() }
    }

    fn of(&self, cells: &[Cell], wanted: impl Fn(&Cell) -> bool) -> Self {
        let rows = cells.iter().zip(&self.rows).filter(|(cell, _)| wanted(cell));
        Self { rows: rows.map(|(_, row)| row.clone()).collect() }
    }

    /// The cosine of each row and its counterpart.
    fn paired<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = f64> + 'a {
        self.rows.iter().zip(&other.rows).map(|(one, other)| dot(one, other))
    }
}

fn dot(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

/// exp(−‖x − y‖²/2σ²) of unit vectors, by their cosine.
fn cmmd_kernel(cosine: f64) -> f64 {
    CMMD_SCALE * (-(2.0 - 2.0 * cosine) / (2.0 * CMMD_SIGMA * CMMD_SIGMA)).exp()
}

/// (x·y/d + 1)³ of unit vectors that were scaled by √d, by their cosine.
fn kid_kernel(cosine: f64) -> f64 {
    (cosine + 1.0).powi(3)
}

/// The paired estimate's summand for each two pairs of pictures.
struct Statistic {
    pairs: usize,
    /// A row for each pair, of those after it.
    upper: Vec<f64>,
}

impl Statistic {
    fn new(x: &Vectors, y: &Vectors, kernel: fn(f64) -> f64) -> Self {
        let pairs = x.rows.len().min(y.rows.len());
        let mut upper = Vec::with_capacity(pairs * pairs.saturating_sub(1) / 2);
        let (x, y) = (&x.rows, &y.rows);
        for first in 0..pairs {
            for second in first + 1..pairs {
                let k = |one: &[f64], other: &[f64]| kernel(dot(one, other));
                // In this order equal pictures cancel to the last bit.
                let within = k(&x[first], &x[second]) + k(&y[first], &y[second]);
                upper.push(within - k(&x[first], &y[second]) - k(&x[second], &y[first]));
            }
        }
        Self { pairs, upper }
    }

    /// Over all pairs; none of fewer than two.
    fn whole(&self) -> Option<f64> {
        let count = self.upper.len();
        (count > 0).then(|| self.upper.iter().sum::<f64>() / count as f64)
    }

    /// Mean and standard deviation over subsets. There is one alone where it holds every picture, and
    /// then no deviation.
    fn over_subsets(&self, noise: &mut NoiseSource) -> Option<Spread> {
        if self.pairs <= SUBSET {
            return self.whole().map(|mean| Spread { mean, deviation: 0.0 });
        }
        let mut places: Vec<usize> = (0..self.pairs).collect();
        let found = (0..SUBSETS).map(|_| {
            noise.shuffle(&mut places);
            let mut subset = places[..SUBSET].to_vec();
            subset.sort_unstable();
            let mut sum = 0.0;
            for (index, first) in subset.iter().enumerate() {
                // Where the row of `first` begins, less its first place.
                let row = first * (2 * self.pairs - first - 1) / 2;
                sum += subset[index + 1..]
                    .iter()
                    .map(|second| self.upper[row + second - first - 1])
                    .sum::<f64>();
            }
            sum / (SUBSET * (SUBSET - 1) / 2) as f64
        });
        spread(&found.collect::<Vec<_>>())
    }
}

/// Mean and standard deviation (over n).
fn spread(values: &[f64]) -> Option<Spread> {
    let average = mean(values.iter().copied())?;
    let square = mean(values.iter().map(|value| (value - average).powi(2)))?;
    Some(Spread { mean: average, deviation: square.sqrt() })
}

/// 100 × cosine of picture and prompt where it is positive.
fn clip_score(before: &Vectors, after: &Vectors, texts: &Vectors) -> Option<ScorePair> {
    let scores = |pictures: &Vectors| -> Vec<f64> {
        pictures.paired(texts).map(|cosine| CLIP_SCORE_SCALE * cosine.max(0.0)).collect()
    };
    let (base, edited) = (scores(before), scores(after));
    let drops: Vec<f64> = base.iter().zip(&edited).map(|(base, edited)| base - edited).collect();
    Some(ScorePair {
        base: mean(base.into_iter())?,
        edited: mean(edited.into_iter())?,
        drop: spread(&drops)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-9 * wanted.abs().max(1.0), "{found} not {wanted}");
    }

    /// Rows of sin(a · row + b · column + row · column / 3).
    fn waves(rows: usize, (a, b): (f64, f64)) -> Vectors {
        let value = |row: usize, column: usize| {
            let (row, column) = (row as f64, column as f64);
            (a * row + b * column + row * column / 3.0).sin() as f32
        };
        Vectors::new(
            (0..rows).map(|row| (0..5).map(|column| value(row, column)).collect()).collect(),
        )
    }

    /// Vectors of a shared direction and noise, as those of pictures are: a mean squared distance of
    /// about 0.9 between two of them.
    fn normal(rows: usize, seed: u64) -> Vectors {
        let mut noise = NoiseSource::new(seed);
        let size = 512;
        let scale = (0.45 / 0.55 / size as f64).sqrt() as f32;
        let row = |_| {
            let mut row: Vec<f32> = noise.randn(size).into_iter().map(|it| it * scale).collect();
            row[0] += 1.0;
            row
        };
        Vectors::new((0..rows).map(row).collect())
    }

    /// By another program: plain double loops in Python over the formula above, of the same rows in
    /// single precision.
    #[test]
    fn they_are_what_another_program_computes() {
        let (x, y) = (waves(7, (0.7, 1.1)), waves(7, (0.9, 0.4)));
        near(Statistic::new(&x, &y, cmmd_kernel).whole().unwrap(), CMMD);
        near(Statistic::new(&x, &y, kid_kernel).whole().unwrap(), KID);
        let score = clip_score(&x, &y, &waves(7, (0.2, 0.5))).unwrap();
        near(score.base, SCORES[0]);
        near(score.edited, SCORES[1]);
        near(score.drop.mean, SCORES[0] - SCORES[1]);
        near(score.drop.deviation, SCORES[2]);
    }

    const CMMD: f64 = -1.461_783_726_831_943_8;
    const KID: f64 = -0.888_306_538_433_143_1;
    const SCORES: [f64; 3] = [0.961_257_653_393_619, 33.350_144_637_890_04, 40.764_269_979_078_975];

    #[test]
    fn equal_pictures_are_at_no_distance_at_all() {
        let x = normal(24, 1);
        for kernel in [cmmd_kernel, kid_kernel] {
            let found = Statistic::new(&x, &x, kernel).whole().unwrap();
            assert!(found.to_bits() == 0, "{found}");
        }
        for few in [0, 1] {
            assert_eq!(Statistic::new(&normal(few, 1), &normal(few, 2), kid_kernel).whole(), None);
        }
    }

    /// The paired form is unbiased whether the pictures are pairs or strangers, where the two usual
    /// forms are not: the biased one is off upwards, the unbiased one downwards once there are pairs.
    #[test]
    fn one_distribution_is_at_no_distance_from_itself() {
        let repeats = 40;
        let over_seeds = |find: &dyn Fn(&Vectors, &Vectors) -> f64, paired: bool| {
            let of = |repeat| {
                let x = normal(32, repeat);
                let mut y = normal(32, 1_000 + repeat);
                if paired {
                    // The same seeds before and after: most of each picture stays.
                    for (y, x) in y.rows.iter_mut().zip(&x.rows) {
                        y.iter_mut().zip(x).for_each(|(y, x)| *y = 0.2_f64.mul_add(*y, *x));
                    }
                    y = Vectors::new(
                        y.rows
                            .iter()
                            .map(|row| row.iter().map(|it| *it as f32).collect())
                            .collect(),
                    );
                }
                find(&x, &y)
            };
            (0..repeats).map(of).sum::<f64>() / repeats as f64
        };
        let form = |x: &Vectors, y: &Vectors| Statistic::new(x, y, cmmd_kernel).whole().unwrap();
        let with_diagonal = |x: &Vectors, y: &Vectors| {
            let n = x.rows.len();
            let mut sum = 0.0;
            for first in 0..n {
                for second in 0..n {
                    let k = |one: &[f64], other: &[f64]| cmmd_kernel(dot(one, other));
                    sum += k(&x.rows[first], &x.rows[second]) + k(&y.rows[first], &y.rows[second])
                        - 2.0 * k(&x.rows[first], &y.rows[second]);
                }
            }
            sum / (n * n) as f64
        };
        let strangers = over_seeds(&form, false);
        assert!(strangers.abs() < 0.02, "{strangers}");
        // As much as was measured for 512 numbers: 0.283.
        let biased = over_seeds(&with_diagonal, false);
        assert!((biased - 0.283).abs() < 0.03, "{biased}");
        // Pairs move a little, by far less than the usual unbiased form would have them closer than
        // equal, -0.28.
        let pairs = over_seeds(&form, true);
        assert!(pairs.abs() < 0.1, "{pairs}");
    }

    #[test]
    fn subsets_are_drawn_of_many_pictures_alone() {
        let (x, y) = (waves(1_100, (0.7, 1.1)), waves(1_100, (0.9, 0.4)));
        let statistic = Statistic::new(&x, &y, kid_kernel);
        let found = statistic.over_subsets(&mut NoiseSource::new(1)).unwrap();
        assert_eq!(statistic.over_subsets(&mut NoiseSource::new(1)), Some(found));
        let whole = statistic.whole().unwrap();
        assert!(found.deviation > 0.0 && (found.mean - whole).abs() < 3.0 * found.deviation);
        let few = Statistic::new(&waves(9, (0.7, 1.1)), &waves(9, (0.9, 0.4)), kid_kernel);
        let found = few.over_subsets(&mut NoiseSource::new(1)).unwrap();
        assert_eq!(found, Spread { mean: few.whole().unwrap(), deviation: 0.0 });
    }
}
