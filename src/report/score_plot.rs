//! The plot of timestep scores: where on the denoising path a concept is decided.

use super::{
    PictureNotes, ReportError,
    canvas::{Canvas, Colour, INK, SOFT},
    encode_png,
    lettering::{Anchor, Lettering},
    plot::{Curve, Panel, draw, short_number},
};
use crate::outcome::{Estimate, StepScore, TimestepScores};

const WIDTH: usize = 1_500;
const PROBABILITY: &str = "Probability of the concept in the picture";
const LEFT: f64 = 110.0;
const RIGHT: f64 = 40.0;
const FIRST_PANEL: f64 = 190.0;
const PANEL_HEIGHT: f64 = 215.0;
const PANEL_GAP: f64 = 78.0;
const AXIS_HEIGHT: f64 = 150.0;

// Told apart with any colour vision (Okabe and Ito).
const BLUE: Colour = [0, 104, 170];
const ORANGE: Colour = [214, 120, 0];
const GREEN: Colour = [0, 138, 100];
const PURPLE: Colour = [166, 84, 140];
const WINDOW: Colour = [90, 110, 200];

/// Draws the scores of each step with their standard errors; the recommended window is shaded.
pub fn score_plot(scores: &TimestepScores) -> Result<Vec<u8>, ReportError> {
    if scores.steps.is_empty() {
        return Err(ReportError::Empty("no step was scored"));
    }
    let panels = panels(scores);
    let height = panels.last().map_or(0.0, |panel| panel.top + panel.height) + AXIS_HEIGHT;
    let canvas = draw(WIDTH, height as usize, &panels, |canvas| {
        draw_heading(canvas, scores)?;
        panels.last().map_or(Ok(()), |panel| draw_steps(canvas, panel, &scores.steps))
    })?;
    let title = format!("Timestep scores of \"{}\"", scores.spec.concept.text);
    encode_png(&canvas.into_picture(), &PictureNotes { entries: vec![("Title", title)] })
}

fn panels(scores: &TimestepScores) -> Vec<Panel> {
    let steps = &scores.steps;
    let relative = |name: &str, colour, pick: fn(&StepScore) -> Estimate| {
        let peak = steps
            .iter()
            .map(|step| pick(step).mean)
            .filter(|mean| mean.is_finite())
            .fold(0.0_f64, f64::max);
        let scale = if peak > 0.0 { peak } else { 1.0 };
        let name = format!("{name} (peak {})", short_number(peak));
        curve(name, colour, steps, move |step| {
            let estimate = pick(step);
            Some(Estimate {
                mean: estimate.mean / scale,
                standard_error: estimate.standard_error / scale,
            })
        })
    };
    let mut groups = vec![(
        "Guidance, as a share of its peak",
        vec![
            relative("energy", BLUE, |step| step.guidance_energy),
            relative("effect on the picture", ORANGE, |step| step.guidance_effect),
        ],
    )];
    let until = curve("prompt until this step".to_owned(), GREEN, steps, |step| step.concept_until);
    let from =
        curve("prompt from this step on".to_owned(), PURPLE, steps, |step| step.concept_from);
    let switch: Vec<Curve> =
        [until, from].into_iter().filter(|curve| !curve.points.is_empty()).collect();
    if !switch.is_empty() {
        groups.push((PROBABILITY, switch));
    }
    let share = curve("gradient share".to_owned(), BLUE, steps, |step| step.gradient_share);
    if !share.points.is_empty() {
        groups.push(("Gradient of erasing over gradient of preserving", vec![share]));
    }
    let (first, last) = scores.window_steps;
    groups
        .into_iter()
        .enumerate()
        .map(|(index, (title, curves))| {
            let mut panel = Panel {
                title: title.to_owned(),
                left: LEFT,
                top: FIRST_PANEL + index as f64 * (PANEL_HEIGHT + PANEL_GAP),
                width: WIDTH as f64 - LEFT - RIGHT,
                height: PANEL_HEIGHT,
                x: (-0.5, step_range(steps)),
                y: (0.0, 1.0),
                logarithmic: false,
                shaded: Some((first.0 as f64 - 0.5, last.0 as f64 + 0.5, WINDOW)),
                curves,
            };
            panel.fit_y();
            if title == PROBABILITY {
                panel.y = (0.0, 1.0);
            }
            panel
        })
        .collect()
}

fn step_range(steps: &[StepScore]) -> f64 {
    steps.iter().map(|step| step.step.0).max().unwrap_or(0) as f64 + 0.5
}

fn curve(
    name: String,
    colour: Colour,
    steps: &[StepScore],
    pick: impl Fn(&StepScore) -> Option<Estimate>,
) -> Curve {
    let points = steps
        .iter()
        .filter_map(|step| {
            pick(step).map(|estimate| {
                let error = estimate.standard_error;
                let half = if error.is_finite() { error } else { 0.0 };
                (step.step.0 as f64, estimate.mean, half)
            })
        })
        .collect();
    Curve { name, colour, width: 3, dots: true, points, in_legend: true }
}

fn draw_heading(canvas: &mut Canvas, scores: &TimestepScores) -> Result<(), ReportError> {
    let title = Lettering::new(32.0)?;
    let text = Lettering::new(19.0)?;
    let room = WIDTH as f32 - 90.0;
    let heading = format!("Where \u{201c}{}\u{201d} is decided", scores.spec.concept.text);
    let x = 45.0;
    title.draw(canvas, &title.shortened(&heading, room), (x, 46.0), Anchor::Start, INK);
    let (first, last) = scores.window_steps;
    canvas.fill(x as usize, 80, (22, 16), [233, 236, 248]);
    let window = format!(
        "Recommended window: steps {} to {} of {}, log-SNR {:.2} to {:.2}.  Bands: \u{00b1} one \
         standard error over {} seeds.",
        first.0,
        last.0,
        scores.steps.len(),
        scores.window.low,
        scores.window.high,
        scores.spec.trajectories,
    )
    .replace('-', "\u{2212}")
    .replace("log\u{2212}SNR", "log-SNR");
    let shown = text.shortened(&window, room - 34.0);
    text.draw(canvas, &shown, (x + 34.0, 88.0), Anchor::Start, INK);
    let rule = text.shortened(&format!("Rule: {}", scores.rule), room);
    text.draw(canvas, &rule, (x, 120.0), Anchor::Start, SOFT);
    Ok(())
}

/// The axis below the last panel: step, timestep and noise level of as many steps as have room.
fn draw_steps(canvas: &mut Canvas, panel: &Panel, steps: &[StepScore]) -> Result<(), ReportError> {
    let number = Lettering::new(16.0)?;
    let label = Lettering::new(18.0)?;
    let every = steps.len().div_ceil(20).max(1);
    let bottom = (panel.top + panel.height) as f32;
    for step in steps.iter().step_by(every) {
        let (x, _) = panel.place(step.step.0 as f64, panel.y.0);
        let x = x as f32;
        canvas.fill(x as usize, bottom as usize, (1, 7), SOFT);
        let log_snr = format!("{:.1}", step.log_snr).replace('-', "\u{2212}");
        let rows = [step.step.0.to_string(), step.timestep.0.to_string(), log_snr];
        for (row, text) in rows.iter().enumerate() {
            let y = bottom + 24.0 + 26.0 * row as f32;
            number.draw(canvas, text, (x, y), Anchor::Middle, if row == 0 { INK } else { SOFT });
        }
    }
    for (row, text) in ["step", "t", "log-SNR"].iter().enumerate() {
        let y = bottom + 24.0 + 26.0 * row as f32;
        number.draw(canvas, text, (24.0, y), Anchor::Start, SOFT);
    }
    let middle = (panel.left + panel.width / 2.0) as f32;
    let text = "noise \u{2190} denoising steps \u{2192} picture";
    label.draw(canvas, text, (middle, bottom + 118.0), Anchor::Middle, INK);
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::spec::{
        Concept, ConceptKind, LogSnrWindow, ScoreSpec, StepIndex, Timestep, Vocabulary,
    };

    /// Made-up scores whose shape is like a real concept's.
    pub(crate) fn sample_scores(switch_curve: bool) -> TimestepScores {
        let estimate = |mean: f64| Estimate { mean, standard_error: 0.02 + mean.abs() * 0.06 };
        let steps = (0..20)
            .map(|index| {
                let place = f64::from(index);
                let until = 1.0 / (1.0 + (-(place - 6.0)).exp());
                StepScore {
                    step: StepIndex(index as usize),
                    timestep: Timestep(951 - 50 * index as usize),
                    log_snr: -5.2 + 0.52 * place,
                    guidance_energy: estimate(0.05 + 0.3 * (-(place - 7.0).powi(2) / 20.0).exp()),
                    guidance_effect: estimate(1.4 * (-place / 5.0).exp()),
                    concept_until: switch_curve.then(|| estimate(until)),
                    concept_from: switch_curve.then(|| estimate(1.0 - until)),
                    gradient_share: Some(estimate(2.4 * (-(place - 5.0).powi(2) / 30.0).exp())),
                }
            })
            .collect();
        TimestepScores {
            spec: ScoreSpec::new(Concept::new("cat", ConceptKind::Object), Vocabulary::default()),
            model_digest: "0f".repeat(32),
            steps,
            window: LogSnrWindow { low: -4.16, high: -0.52 },
            window_steps: (StepIndex(2), StepIndex(9)),
            rule: "the steps between 5 % and 95 % of the switch curve".to_owned(),
            unet_evaluations: 1_440,
        }
    }

    #[test]
    fn scores_are_drawn_with_and_without_switch_curve() {
        for switch_curve in [false, true] {
            let bytes = score_plot(&sample_scores(switch_curve)).unwrap();
            assert!(bytes.starts_with(b"\x89PNG"));
        }
    }

    #[test]
    fn numbers_out_of_this_world_do_not_panic() {
        let mut scores = sample_scores(true);
        scores.steps[3].guidance_energy.mean = f64::NAN;
        if let Some(share) = &mut scores.steps[4].gradient_share {
            share.standard_error = f64::INFINITY;
        }
        if let Some(share) = &mut scores.steps[5].gradient_share {
            share.mean = 1e300;
        }
        scores.spec.concept.text = "long ".repeat(100);
        assert!(score_plot(&scores).is_ok());
        scores.steps.clear();
        assert!(score_plot(&scores).is_err());
    }
}
