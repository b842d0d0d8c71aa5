//! The interval of a fall in accuracy where few pictures changed, or many rows are read at once.

use super::{Compared, Interval, Share};

impl Compared {
    /// The interval of the drop, the only one that is shown, gated and signed, at a normal quantile `z`, given what the base model drew; everything
    /// where there are no pictures.
    ///
    /// A picture that the base model got right can only be lost, any other only gained, so that the
    /// drop is `p · lost − (1 − p) · gained` with a share of its own each. Their Wilson intervals are
    /// put together by the method of variance estimates recovery (Zou and Donner, Statistics in
    /// Medicine 2008, 27:1693). Where the base model got everything right this is Wilson's interval
    /// of what was lost. Agresti and Min's interval
    /// (Statistics in Medicine 2005, 24:729) is far too narrow there: it calls
    /// a drop of 0.1 refuted by 27 unchanged pictures at `z` = 2.9, which happens by chance in 6 % of
    /// all cases instead of 0.2 %.
    pub fn drop_interval(self, z: f64) -> Interval {
        let right = self.base.count.min(self.base.of);
        let wrong = self.base.of - right;
        if self.base.of == 0 {
            return Interval { low: -1.0, high: 1.0 };
        }
        let weight = right as f64 / self.base.of as f64;
        let part = |share: Share, weight: f64| {
            if share.of == 0 {
                return (0.0, 0.0, 0.0);
            }
            let (rate, interval) = (share.rate(), share.wilson(z));
            (weight * rate, weight * (rate - interval.low), weight * (interval.high - rate))
        };
        let (lost, less_lost, more_lost) =
            part(Share { count: self.drop.lost.min(right), of: right }, weight);
        let (gained, less_gained, more_gained) =
            part(Share { count: self.drop.gained.min(wrong), of: wrong }, 1.0 - weight);
        let drop = lost - gained;
        Interval {
            low: (drop - less_lost.hypot(more_gained)).max(-1.0),
            high: (drop + more_lost.hypot(less_gained)).min(1.0),
        }
    }

    /// Whether the counts can be of the same pictures, drawn by both models.
    pub fn is_consistent(self) -> bool {
        let Self { base, edited, drop } = self;
        base.count <= base.of
            && edited.count <= edited.of
            && base.of == edited.of
            && base.of == drop.of
            && drop.lost <= base.count
            && drop.gained <= base.of - base.count
            && base.count - drop.lost + drop.gained == edited.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Confidence, PairedDrop};

    fn compared(of: u64, right: u64, lost: u64, gained: u64) -> Compared {
        Compared {
            base: Share { count: right, of },
            edited: Share { count: right - lost + gained, of },
            drop: PairedDrop { lost, gained, of },
        }
    }

    /// 27 rows at once, and a limit of 0.1: 8 pictures a row need 4 losses, 40 need 10; to show less
    /// takes 76 pictures.
    #[test]
    fn it_is_wilsons_where_the_base_model_got_all_right() {
        let z = Confidence::DEFAULT.split(27).one_sided();
        for (of, least) in [(8, 4), (40, 10)] {
            assert!(compared(of, of, least, 0).drop_interval(z).low > 0.1);
            assert!(compared(of, of, least - 1, 0).drop_interval(z).low <= 0.1);
        }
        assert!(compared(76, 76, 0, 0).drop_interval(z).high <= 0.1);
        assert!(compared(75, 75, 0, 0).drop_interval(z).high > 0.1);
    }

    #[test]
    fn what_is_gained_counts_against_what_is_lost() {
        let z = Confidence::DEFAULT.one_sided();
        let even = compared(40, 30, 5, 5).drop_interval(z);
        assert!(even.low < 0.0 && even.high > 0.0, "{even:?}");
        assert!(compared(40, 20, 0, 15).drop_interval(z).high < 0.0);
        let none = Compared::default().drop_interval(z);
        assert_eq!(none, Interval { low: -1.0, high: 1.0 });
    }

    #[test]
    fn counts_of_other_pictures_are_found() {
        assert!(compared(40, 30, 5, 3).is_consistent());
        assert!(Compared::default().is_consistent());
        let right = compared(40, 30, 5, 3);
        for wrong in [
            Compared { base: Share { count: 41, of: 40 }, ..right },
            Compared { edited: Share { count: 27, of: 40 }, ..right },
            Compared { drop: PairedDrop { lost: 31, gained: 29, of: 40 }, ..right },
            Compared { drop: PairedDrop { lost: u64::MAX, gained: 0, of: 40 }, ..right },
            Compared { drop: PairedDrop { of: 41, ..right.drop }, ..right },
        ] {
            assert!(!wrong.is_consistent(), "{wrong:?}");
            wrong.drop_interval(z());
        }
    }

    fn z() -> f64 {
        Confidence::DEFAULT.one_sided()
    }
}
