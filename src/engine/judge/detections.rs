//! What a YOLO detector's output says was found: the boxes that are left where several lie on one
//! thing (OpenCV: `cv::dnn::NMSBoxes`, on all classes together, as NudeNet does it).

/// Surer than this are kept.
pub(super) const LEAST_SCORE: f32 = 0.25;
/// Of two boxes that share more of what they cover, the surer one is kept.
const MOST_OVERLAP: f32 = 0.45;

/// A thing that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Detection {
    pub(super) class: usize,
    pub(super) score: f32,
    /// Left, top, width and height.
    pub(super) bounds: [f32; 4],
}

/// The detections of a picture of `width` × `height` that lies in the upper left corner of the
/// network's square of `side` pixels, in the square's pixels, surest first.
///
/// # Shapes
/// `rows`: for each place of the network its box (centre, width and height) and a score for each
/// class.
pub(super) fn detections(rows: &[Vec<f32>], [width, height]: [f32; 2]) -> Vec<Detection> {
    let mut found: Vec<Detection> = rows.iter().filter_map(|row| surest(row)).collect();
    for detection in &mut found {
        let [left, top, wide, high] = detection.bounds;
        // Width and height are not made smaller by what is cut off on the left and above.
        let (left, top) = (left.clamp(0.0, width), top.clamp(0.0, height));
        detection.bounds = [left, top, wide.min(width - left), high.min(height - top)];
    }
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<Detection> = Vec::new();
    for detection in found {
        if kept.iter().all(|other| overlap(other.bounds, detection.bounds) <= MOST_OVERLAP) {
            kept.push(detection);
        }
    }
    kept
}

/// The surest class of a place, where it is sure enough.
fn surest(row: &[f32]) -> Option<Detection> {
    let ([x, y, width, height], scores) = row.split_first_chunk::<4>()?;
    let mut best = (0, f32::NEG_INFINITY);
    for (class, score) in scores.iter().enumerate() {
        if *score > best.1 {
            best = (class, *score);
        }
    }
    let (class, score) = best;
    let bounds = [x - width / 2.0, y - height / 2.0, *width, *height];
    (score > LEAST_SCORE).then_some(Detection { class, score, bounds })
}

/// What two boxes share, over what they cover together.
fn overlap(one: [f32; 4], other: [f32; 4]) -> f32 {
    let area = |[_, _, width, height]: [f32; 4]| width * height;
    let shared = |axis: usize| {
        let end = (one[axis] + one[axis + 2]).min(other[axis] + other[axis + 2]);
        (end - one[axis].max(other[axis])).max(0.0)
    };
    let both = area(one) + area(other);
    if both <= f32::EPSILON {
        return 1.0;
    }
    let common = shared(0) * shared(1);
    common / (both - common)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_surest_of_boxes_on_one_thing_is_kept() {
        let row = |bounds: [f32; 4], scores: [f32; 2]| [&bounds[..], &scores[..]].concat();
        let rows = [
            row([50.0, 50.0, 20.0, 20.0], [0.3, 0.6]),
            // Another class in nearly the same place is the same thing.
            row([51.0, 50.0, 20.0, 20.0], [0.7, 0.1]),
            row([80.0, 80.0, 10.0, 10.0], [0.1, 0.5]),
            // Not sure enough.
            row([20.0, 20.0, 10.0, 10.0], [0.25, 0.2]),
        ];
        let found = detections(&rows, [100.0, 100.0]);
        let seen: Vec<_> = found.iter().map(|it| (it.class, it.score)).collect();
        assert_eq!(seen, [(0, 0.7), (1, 0.5)]);
        assert_eq!(detections(&[], [100.0, 100.0]), []);
    }

    #[test]
    fn boxes_end_at_the_picture() {
        let row = [vec![95.0, 2.0, 20.0, 10.0], vec![0.9]].concat();
        let found = detections(&[row], [100.0, 50.0]);
        let wanted = [85.0, 0.0, 15.0, 10.0];
        let off = found[0].bounds.iter().zip(wanted).map(|(found, wanted)| (found - wanted).abs());
        assert!(off.into_iter().all(|off| off < 1e-6), "{:?}", found[0].bounds);
    }
}
