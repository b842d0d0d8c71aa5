//! What the scripted engine's judge says that it counted.

use crate::outcome::{Compared, Measures, PairedDrop, Share};

/// What a judge counts that finds the concept in each of the base model's pictures and in none of the
/// edited one's, and every other word in all.
pub(super) fn counted(pictures: u64) -> Measures {
    let (none, all) = (Share { count: 0, of: pictures }, Share { count: pictures, of: pictures });
    let gained = PairedDrop { lost: 0, gained: pictures, of: pictures };
    let kept = PairedDrop { gained: 0, ..gained };
    let kept = Compared { base: all, edited: all, drop: kept };
    Measures {
        ua: Compared { base: none, edited: all, drop: gained },
        ira: kept,
        cra: kept,
        ..Measures::default()
    }
}
