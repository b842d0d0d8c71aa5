//! `Reading`: a measured figure with what it can be, and what more pictures would say.

use crate::outcome::{Compared, Confidence, CurvePoint, Interval, PairedDrop, Share};

use super::{Bound, Side};

/// A measured figure.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Reading {
    /// A counted share.
    Share(Share),
    /// A fall in accuracy, picture by picture.
    Drop(Compared),
    /// A mean of differences, picture by picture.
    Mean {
        /// The mean.
        mean: f64,
        /// How far single differences lie from it.
        deviation: f64,
        /// How many there are.
        pictures: u64,
    },
    /// When training brings half of the concept back, over when the control learns as much.
    HeadStart(Vec<CurvePoint>),
    /// A figure whose interval is not known: it shows nothing.
    Point {
        /// The measured value, in the measure's own unit.
        value: f64,
        /// Pictures that it was computed from, if any.
        pictures: Option<u64>,
    },
}

/// On which side of a limit an interval lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placed {
    Right,
    Wrong,
    Across,
}

/// Most pictures that a forecast tries.
const MOST_PICTURES: u64 = 10_000_000;

impl Reading {
    /// The figure itself, where there is one.
    pub(super) fn value(&self) -> Option<f64> {
        let value = match self {
            Self::Share(share) => share.rate(),
            Self::Drop(compared) => compared.drop.drop(),
            Self::Mean { mean, .. } => *mean,
            Self::HeadStart(curve) => {
                let half = |rate: fn(&CurvePoint) -> Option<Share>| {
                    let first = curve.iter().find(|point| is_half(rate(point)));
                    first.map_or(f64::NAN, |point| point.step as f64)
                };
                half(|point| Some(point.attacked)) / half(|point| point.control)
            }
            Self::Point { value, .. } => *value,
        };
        Some(value).filter(|value| value.is_finite())
    }

    /// Pictures that it was counted over.
    pub(super) fn pictures(&self) -> Option<u64> {
        match self {
            Self::Share(share) => Some(share.of),
            Self::Drop(compared) => Some(compared.drop.of),
            Self::Mean { pictures, .. } => Some(*pictures),
            Self::HeadStart(curve) => curve.iter().map(|point| point.attacked.of).min(),
            Self::Point { pictures, .. } => *pictures,
        }
    }

    /// What it can be: each end is wrong with the error that the confidence leaves, so that both
    /// together are two bounds to one side.
    pub(super) fn interval(&self, confidence: Confidence) -> Interval {
        let z = quantile(confidence);
        match self {
            Self::Share(share) => share.wilson(z),
            Self::Drop(compared) => compared.drop_interval(z),
            Self::Mean { mean, deviation, pictures } => {
                // The deviation of fewer than two says nothing.
                let half = if *pictures < 2 {
                    f64::INFINITY
                } else {
                    z * deviation / (*pictures as f64).sqrt()
                };
                Interval { low: mean - half, high: mean + half }
            }
            Self::HeadStart(curve) => head_start(curve, confidence),
            Self::Point { .. } => Interval { low: f64::NEG_INFINITY, high: f64::INFINITY },
        }
    }

    /// Where it lies for certain.
    pub(super) fn placed(&self, bound: Bound, confidence: Confidence) -> Placed {
        let Interval { low, high } = self.interval(confidence);
        let (right, wrong) = match bound.side {
            Side::AtLeast => (low >= bound.limit, high < bound.limit),
            Side::AtMost => (high <= bound.limit, low > bound.limit),
        };
        match (right, wrong) {
            (true, false) => Placed::Right,
            (false, true) => Placed::Wrong,
            _ => Placed::Across,
        }
    }

    /// How many more pictures would place it, were they like those that there are.
    pub(super) fn more_pictures(&self, bound: Bound, confidence: Confidence) -> Option<u64> {
        let now = self.pictures().filter(|pictures| *pictures > 0)?;
        let decides = |pictures: u64| {
            self.scaled(now, pictures)
                .is_some_and(|more| more.placed(bound, confidence) != Placed::Across)
        };
        let (mut short, mut enough) = (now, now.checked_mul(2)?);
        while !decides(enough) {
            short = enough;
            enough = enough.checked_mul(2).filter(|pictures| *pictures <= MOST_PICTURES)?;
        }
        while enough - short > 1 {
            let middle = u64::midpoint(short, enough);
            if decides(middle) {
                enough = middle;
            } else {
                short = middle;
            }
        }
        Some(enough - now)
    }

    /// The same rates over another number of pictures.
    fn scaled(&self, now: u64, pictures: u64) -> Option<Self> {
        let scale = |count: u64| (count as f64 / now as f64 * pictures as f64).round() as u64;
        match self {
            Self::Share(share) => {
                Some(Self::Share(Share { count: scale(share.count).min(pictures), of: pictures }))
            }
            Self::Drop(compared) => {
                let right = scale(compared.base.count).min(pictures);
                let lost = scale(compared.drop.lost).min(right);
                let gained = scale(compared.drop.gained).min(pictures - right);
                Some(Self::Drop(Compared {
                    base: Share { count: right, of: pictures },
                    edited: Share { count: right - lost + gained, of: pictures },
                    drop: PairedDrop { lost, gained, of: pictures },
                }))
            }
            Self::Mean { mean, deviation, .. } => {
                Some(Self::Mean { mean: *mean, deviation: *deviation, pictures })
            }
            Self::HeadStart(_) | Self::Point { .. } => None,
        }
    }

    /// The value nearest to the limit that would lie wholly beyond it, with as many pictures; none
    /// where no value would.
    pub(super) fn smallest_visible(&self, bound: Bound, confidence: Confidence) -> Option<f64> {
        let trips = |reading: &Self| reading.placed(bound, confidence) == Placed::Wrong;
        match self {
            Self::Share(Share { of, .. }) => {
                let with = |bad: u64| {
                    let good = of - bad;
                    let count = if bound.side == Side::AtLeast { good } else { bad };
                    Self::Share(Share { count, of: *of })
                };
                least(*of, |bad| trips(&with(bad))).and_then(|bad| with(bad).value())
            }
            Self::Drop(compared) => {
                // Were nothing gained.
                let base = compared.base;
                let with = |lost: u64| {
                    Self::Drop(Compared {
                        base,
                        edited: Share { count: base.count - lost, of: base.of },
                        drop: PairedDrop { lost, gained: 0, of: base.of },
                    })
                };
                least(base.count, |lost| trips(&with(lost))).and_then(|lost| with(lost).value())
            }
            Self::Mean { deviation, pictures, .. } => {
                let half = quantile(confidence) * deviation / (*pictures as f64).sqrt();
                let away = if bound.side == Side::AtLeast { -half } else { half };
                Some(bound.limit + away).filter(|value| *pictures > 1 && value.is_finite())
            }
            Self::HeadStart(_) | Self::Point { .. } => None,
        }
    }
}

/// The normal quantile of a bound to one side. Whoever wants to be less sure than by the toss of a coin
/// gets the figure itself, and no interval that is turned inside out.
fn quantile(confidence: Confidence) -> f64 {
    confidence.one_sided().max(0.0)
}

/// The least number up to `most` for which it holds, where it holds for all above.
fn least(most: u64, holds: impl Fn(u64) -> bool) -> Option<u64> {
    if !holds(most) {
        return None;
    }
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = u64::midpoint(low, high);
        if holds(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Some(high)
}

fn is_half(share: Option<Share>) -> bool {
    share.is_some_and(|share| share.rate() >= 0.5)
}

/// From which step to which half of the pictures show it, over the same of the control. Steps between
/// those of the curve are not known: it is the curve's own steps that are compared.
fn head_start(curve: &[CurvePoint], confidence: Confidence) -> Interval {
    // Two curves, each read at every point.
    let z = quantile(confidence.split(curve.len().saturating_mul(2)));
    let half = |rate: fn(&CurvePoint) -> Option<Share>| {
        let points = || curve.iter().filter_map(|point| Some((point.step as f64, rate(point)?)));
        let last = points().next_back().map_or(0.0, |(step, _)| step);
        let first = |is_half: &dyn Fn(Interval) -> bool| {
            points().find(|(_, share)| is_half(share.wilson(z))).map(|(step, _)| step)
        };
        Interval {
            low: first(&|interval| interval.high >= 0.5).unwrap_or(last),
            high: first(&|interval| interval.low >= 0.5).unwrap_or(f64::INFINITY),
        }
    };
    let (attacked, control) = (half(|point| Some(point.attacked)), half(|point| point.control));
    let ratio = |over: f64, under: f64, unknown: f64| {
        let ratio = over / under;
        if ratio.is_nan() { unknown } else { ratio }
    };
    Interval {
        low: ratio(attacked.low, control.high, 0.0),
        high: ratio(attacked.high, control.low, f64::INFINITY),
    }
}
