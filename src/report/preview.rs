//! Draws everything once from made-up data. With `KEYSTEP_PREVIEWS=DIR` the files are written
//! there, to look at after a change of their design.

use super::{
    ReportPage, contact_sheet, run_report::tests::sample_report, score_plot,
    score_plot::tests::sample_scores, training_plot, training_plot::tests::sample_log,
};
use crate::{
    outcome::{JudgedPicture, Picture},
    spec::{Concept, ConceptKind, Prompt, Vocabulary},
};

/// A disc whose hue tells the object and whose ground tells the style.
fn disc(object: usize, style: usize, side: usize, gone: bool) -> Picture {
    let hue = |shift: usize| (((object * 47 + shift * 85) % 200) + 30) as u8;
    let ground = [250 - (style * 25) as u8, 250, 240 - (style * 18) as u8];
    let mut rgb = Vec::with_capacity(side * side * 3);
    for y in 0..side {
        for x in 0..side {
            let (dx, dy) = (x as f64 - side as f64 / 2.0, y as f64 - side as f64 / 2.0);
            let inside = dx.hypot(dy) < side as f64 * 0.36;
            rgb.extend(if inside && !gone { [hue(0), hue(1), hue(2)] } else { ground });
        }
    }
    Picture { width: side, height: side, rgb }
}

fn grid(vocabulary: &Vocabulary, side: usize) -> Vec<JudgedPicture> {
    let mut pictures = Vec::new();
    for (style, style_name) in vocabulary.styles.iter().enumerate() {
        for (object, object_name) in vocabulary.objects.iter().enumerate() {
            let is_target = object == 0;
            pictures.push(JudgedPicture {
                prompt: Prompt {
                    object: Some(object_name.clone()),
                    style: Some(style_name.clone()),
                    ..Prompt::default()
                },
                seed: 500_000,
                is_target,
                before: disc(object, style, side, false),
                after: disc(object, style, side, is_target),
            });
        }
    }
    pictures
}

#[test]
fn everything_can_be_drawn() {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let canvas = Vocabulary {
        anything: "emoji".to_owned(),
        objects: words(
            "cat dog rabbit fish turtle penguin car airplane bicycle sailboat rocket house tree \
             flower cactus apple banana mushroom heart star",
        ),
        styles: words("flat comic glossy stencil blueprint neon pixel sketch"),
    };
    let photographs = Vocabulary {
        anything: "picture".to_owned(),
        objects: words("cat dog horse"),
        styles: words("impressionist cubist"),
    };
    let concept = Concept::new("cat", ConceptKind::Object);
    let sheet = contact_sheet(&grid(&canvas, 64), &canvas, &concept).unwrap();
    let large = contact_sheet(&grid(&photographs, 512), &photographs, &concept).unwrap();
    let (scores, log, report) = (sample_scores(true), sample_log(240), sample_report());
    let short_scores = score_plot(&sample_scores(false)).unwrap();
    let (score_png, training_png) = (score_plot(&scores).unwrap(), training_plot(&log).unwrap());
    let page = ReportPage {
        report: &report,
        log: &log,
        scores: Some(&scores),
        pictures: &[],
        sheet_png: Some(&sheet),
        score_plot_png: Some(&score_png),
        training_plot_png: Some(&training_png),
    }
    .render()
    .unwrap();
    if let Some(folder) = std::env::var_os("KEYSTEP_PREVIEWS") {
        let folder = std::path::PathBuf::from(folder);
        for (name, bytes) in [
            ("sheet.png", sheet.as_slice()),
            ("large.png", &large),
            ("scores.png", &score_png),
            ("scores-short.png", &short_scores),
            ("training.png", &training_png),
            ("report.html", page.as_bytes()),
        ] {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    }
}
