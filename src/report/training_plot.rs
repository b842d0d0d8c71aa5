//! The plot of a training: loss and gradient norm of every update.

use super::{
    PictureNotes, ReportError,
    canvas::{Canvas, Colour, INK, SOFT},
    encode_png,
    lettering::{Anchor, Lettering},
    plot::{Curve, Panel, draw, short_number, tick_step},
};
use crate::outcome::{TrainingLog, UpdateRecord};

const WIDTH: usize = 1_500;
const HEIGHT: usize = 670;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 40.0;
const LOSS: Colour = [0, 104, 170];
const GRADIENT: Colour = [214, 120, 0];
/// Values that span more than this are shown on a logarithmic axis.
const WIDE_SPAN: f64 = 30.0;

/// Draws both curves with their moving mean; single updates are noisy, as each sees other steps.
pub fn training_plot(log: &TrainingLog) -> Result<Vec<u8>, ReportError> {
    if log.updates.is_empty() {
        return Err(ReportError::Empty("no update was made"));
    }
    let panels = [
        panel("Loss", LOSS, 110.0, log, |update| update.loss),
        panel("Gradient norm", GRADIENT, 390.0, log, |update| update.gradient_norm),
    ];
    let canvas = draw(WIDTH, HEIGHT, &panels, |canvas| draw_updates(canvas, &panels[1], log))?;
    let notes = PictureNotes { entries: vec![("Title", "Loss and gradient norm".to_owned())] };
    encode_png(&canvas.into_picture(), &notes)
}

fn panel(
    title: &str,
    colour: Colour,
    top: f64,
    log: &TrainingLog,
    pick: fn(&UpdateRecord) -> f64,
) -> Panel {
    let values: Vec<f64> = log.updates.iter().map(pick).collect();
    let radius = values.len() / 40;
    let mean = |at: usize| {
        let around = &values[at.saturating_sub(radius)..(at + radius + 1).min(values.len())];
        around.iter().sum::<f64>() / around.len() as f64
    };
    let faint = colour.map(|channel| channel / 3 + 170);
    let curve = |name: &str, colour, width, in_legend, value: &dyn Fn(usize) -> f64| Curve {
        name: name.to_owned(),
        colour,
        width,
        dots: false,
        points: (0..values.len())
            .map(|at| (log.updates[at].update as f64, value(at), 0.0))
            .collect(),
        in_legend,
    };
    let mut curves = vec![curve("each update", faint, 2, radius > 0, &|at| values[at])];
    if radius > 0 {
        let name = format!("mean over {} updates", 2 * radius + 1);
        curves.push(curve(&name, colour, 3, true, &mean));
    } else {
        curves[0].colour = colour;
    }
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let low = finite().fold(f64::INFINITY, f64::min);
    let high = finite().fold(f64::NEG_INFINITY, f64::max);
    let last = log.updates.iter().map(|update| update.update).max().unwrap_or(0);
    let mut panel = Panel {
        title: title.to_owned(),
        left: LEFT,
        top,
        width: WIDTH as f64 - LEFT - RIGHT,
        height: 190.0,
        x: (0.0, last.max(1) as f64),
        y: (0.0, 1.0),
        logarithmic: low > 0.0 && high / low > WIDE_SPAN,
        shaded: None,
        curves,
    };
    panel.fit_y();
    panel
}

fn draw_updates(canvas: &mut Canvas, panel: &Panel, log: &TrainingLog) -> Result<(), ReportError> {
    let title = Lettering::new(28.0)?;
    let number = Lettering::new(16.0)?;
    let label = Lettering::new(18.0)?;
    let early = if log.stopped_early { ", stopped early: the concept is gone" } else { "" };
    let heading = format!(
        "Training: {} updates at a learning rate of {}{early}",
        log.updates.len(),
        short_number(log.learning_rate)
    );
    let shown = title.shortened(&heading, WIDTH as f32 - 90.0);
    title.draw(canvas, &shown, (45.0, 42.0), Anchor::Start, INK);
    let bottom = (panel.top + panel.height) as f32;
    let step = tick_step(panel.x.1 / 2.0).max(1.0);
    let mut tick = 0.0;
    while tick <= panel.x.1 {
        let (x, _) = panel.place(tick, panel.y.0);
        canvas.fill(x as usize, bottom as usize, (1, 7), SOFT);
        let place = (x as f32, bottom + 24.0);
        number.draw(canvas, &short_number(tick), place, Anchor::Middle, SOFT);
        tick += step;
    }
    let middle = (panel.left + panel.width / 2.0) as f32;
    label.draw(canvas, "update", (middle, bottom + 56.0), Anchor::Middle, INK);
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::spec::{StepIndex, Timestep};

    /// A made-up training that falls and rattles as a real one does.
    pub(crate) fn sample_log(updates: usize) -> TrainingLog {
        let updates: Vec<UpdateRecord> = (0..updates)
            .map(|update| {
                let rattle = 1.0 + 0.4 * ((update * 7919 % 101) as f64 / 101.0 - 0.5);
                let fall = (-(update as f64) / 60.0).exp();
                UpdateRecord {
                    update,
                    step: StepIndex(2 + update % 8),
                    timestep: Timestep(851 - 50 * (update % 8)),
                    loss: (0.02 + 0.3 * fall) * rattle,
                    gradient_norm: (0.01 + 1.4 * fall) * rattle,
                    unet_evaluations: 640 + 12 * update as u64,
                }
            })
            .collect();
        TrainingLog {
            held: None,
            unet_evaluations: updates.last().map_or(0, |update| update.unet_evaluations),
            updates,
            key_steps: (2..=9).map(StepIndex).collect(),
            stopped_early: true,
            erase_measure: -0.52,
            damage_measure: 0.031,
            weight_change: 0.043,
            learning_rate: 2.4e-4,
            ..TrainingLog::default()
        }
    }

    #[test]
    fn short_and_long_trainings_are_drawn() {
        for updates in [1, 2, 300] {
            assert!(training_plot(&sample_log(updates)).unwrap().starts_with(b"\x89PNG"));
        }
        assert!(training_plot(&sample_log(0)).is_err());
    }

    #[test]
    fn a_diverged_training_does_not_panic() {
        let mut log = sample_log(50);
        log.updates[20].loss = f64::INFINITY;
        log.updates[21].gradient_norm = f64::NAN;
        assert!(training_plot(&log).is_ok());
    }
}
