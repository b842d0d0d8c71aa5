//! Draws suites of prompts with both models and counts what the judges see.

use std::collections::BTreeMap;

use super::{
    Evaluation, PictureStore,
    kept::{self, Drawings, DrawnPictures},
    probes,
};
use crate::{
    engine::{
        EngineError, Pipeline, RunContext,
        judge::{Domain, Judge, Sight},
    },
    outcome::{Compared, Picture, Progress, SuiteResult},
    spec::{
        ConceptKind, Expectation, Field, GenerateSpec, JudgeSpec, SpecError, Suite, SuitePrompt,
        Vocabulary, canonical, find_word,
    },
};

/// Pictures of each model that are held at once: they are counted and given up.
const AT_ONCE: usize = 128;

/// A suite proves something where the base model draws what it asks for in half of the pictures.
const APPLICABLE_FROM: f64 = 0.5;

/// What the suites of a judgement come to.
#[derive(Debug, Default)]
pub(super) struct JudgedSuites {
    /// For each suite, one a judge.
    pub(super) results: Vec<SuiteResult>,
    /// As in [`JudgeReport`](crate::outcome::JudgeReport).
    pub(super) unet_evaluations: u64,
    pub(super) kept_evaluations: u64,
}

/// What a picture shows where the judge is right: a place among the words of a domain.
type Shown = (Domain, usize);

/// Places of the vocabulary's words, by their canonical form.
struct Places {
    objects: BTreeMap<String, usize>,
    styles: BTreeMap<String, usize>,
}

impl Places {
    fn of(vocabulary: &Vocabulary) -> Self {
        // Of equal words the first counts.
        let places = |words: &[String]| {
            let words = words.iter().enumerate().rev();
            words.map(|(place, word)| (canonical(word), place)).collect()
        };
        Self { objects: places(&vocabulary.objects), styles: places(&vocabulary.styles) }
    }

    fn find(&self, domain: Domain, word: &str) -> Option<Shown> {
        let places = match domain {
            Domain::Objects => &self.objects,
            Domain::Styles => &self.styles,
        };
        Some((domain, *places.get(&canonical(word))?))
    }
}

/// The suites that were given, and those of the probes.
pub(super) fn asked(evaluation: Evaluation<'_>) -> Result<Vec<Suite>, EngineError> {
    let Evaluation { base, spec, .. } = evaluation;
    let mut suites = spec.suites.clone();
    if let Some(wanted) = &spec.probes {
        spec.validate()?;
        base.judges.all()?;
        base.reader().check_judge(spec)?;
        suites.extend(probes::suites(base, spec, wanted)?);
    }
    Ok(suites)
}

/// Draws and counts one suite after the other.
pub(super) fn judge(
    evaluation: Evaluation<'_>,
    suites: &[Suite],
    store: &mut dyn PictureStore,
    context: &mut RunContext<'_>,
) -> Result<JudgedSuites, EngineError> {
    let total = 2 * suites.iter().map(|suite| suite.prompts.len()).sum::<usize>();
    let mut done = 0;
    let mut judged = JudgedSuites::default();
    let judges = evaluation.base.judges.all()?;
    let places = Places::of(&evaluation.spec.vocabulary);
    for suite in suites {
        let mut named = vec![Compared::default(); judges.len()];
        for drawn_together in drawings(evaluation.spec, suite) {
            context.check()?;
            let DrawnTogether { prompts, guidance_scale } = &drawn_together;
            let drawing = drawing(evaluation.base, evaluation.spec, prompts, *guidance_scale);
            let count = 2 * prompts.len();
            let report = &mut *context.report;
            let mut counted = |progress: Progress| {
                let done = done + progress.done * count / progress.total.max(1);
                report(Progress { done, total, ..progress });
            };
            let mut inner =
                RunContext { report: &mut counted, cancel: context.cancel.clone(), saving: None };
            let drawings = Drawings { both: drawing, base_alone: None };
            let drawn = kept::draw(evaluation, &drawings, store, &mut inner)?;
            done += count;
            judged.unet_evaluations += drawn.unet_evaluations;
            judged.kept_evaluations += drawn.kept_evaluations;
            let shown =
                prompts.iter().map(|prompt| shown(&places, evaluation.spec, suite.expects, prompt));
            let shown = shown.collect::<Result<Vec<_>, _>>()?;
            let DrawnPictures { before, after, .. } = drawn;
            for (judge, named) in judges.iter().zip(&mut named) {
                let base = names(judge.as_ref(), evaluation.spec, &shown, &before)?;
                let edited = names(judge.as_ref(), evaluation.spec, &shown, &after)?;
                for (base, edited) in base.into_iter().zip(edited) {
                    if let Some((base, edited)) = base.zip(edited) {
                        named.add(base, edited);
                    }
                }
            }
        }
        let sha256 = suite.sha256().map_err(|error| {
            SpecError::one(Field::Suites, format!("has no form in JSON: {error}"))
        })?;
        // A judge that cannot say anything of a suite is left out of it.
        let said = judges.iter().zip(named).filter(|(_, named)| !named.is_empty());
        judged.results.extend(said.map(|(judge, named)| SuiteResult {
            suite: suite.name.clone(),
            concept: evaluation.spec.concept.text.clone(),
            judge: judge.name().to_owned(),
            sha256: sha256.clone(),
            columns: suite.columns.clone(),
            expects: suite.expects,
            named,
            applicable: named.base.rate() >= APPLICABLE_FROM,
        }));
    }
    Ok(judged)
}

/// Pictures of one guidance, few enough to be held at once.
struct DrawnTogether<'a> {
    prompts: Vec<&'a SuitePrompt>,
    guidance_scale: f64,
}

/// A suite in parts, each in the order of the suite.
fn drawings<'a>(spec: &JudgeSpec, suite: &'a Suite) -> Vec<DrawnTogether<'a>> {
    let mut by_guidance: Vec<DrawnTogether<'a>> = Vec::new();
    for prompt in &suite.prompts {
        let guidance_scale = prompt.guidance_scale.unwrap_or(spec.guidance_scale);
        let is_alike =
            |it: &&mut DrawnTogether<'_>| it.guidance_scale.to_bits() == guidance_scale.to_bits();
        match by_guidance.iter_mut().find(is_alike) {
            Some(alike) => alike.prompts.push(prompt),
            None => by_guidance.push(DrawnTogether { prompts: vec![prompt], guidance_scale }),
        }
    }
    let parts = by_guidance.into_iter().flat_map(|alike| {
        let part = |prompts: &[&'a SuitePrompt]| DrawnTogether {
            prompts: prompts.to_vec(),
            guidance_scale: alike.guidance_scale,
        };
        alike.prompts.chunks(AT_ONCE).map(part).collect::<Vec<_>>()
    });
    parts.collect()
}

/// As the grid is drawn.
fn drawing(
    base: &Pipeline,
    spec: &JudgeSpec,
    prompts: &[&SuitePrompt],
    guidance_scale: f64,
) -> GenerateSpec {
    GenerateSpec {
        pictures: prompts.iter().map(|it| (it.prompt.clone(), it.seed)).collect(),
        negative_prompt: String::new(),
        steps: spec.steps,
        guidance_scale,
        size: None,
        sampler: Some(base.sampling.kind(spec.sampler)),
        init_image: None,
    }
}

/// A drawing that takes as much memory as that of the grid and of any part of a suite beside the
/// grid's pictures, which are held until the end.
pub(in crate::engine) fn with_suites(grid: GenerateSpec, spec: &JudgeSpec) -> GenerateSpec {
    let largest = spec.suites.iter().map(|suite| suite.prompts.len().min(AT_ONCE)).max();
    let of_probes = spec.probes.as_ref().map(|_| AT_ONCE);
    let Some(beside) = largest.max(of_probes) else { return grid };
    let prompts = spec.suites.iter().flat_map(|suite| &suite.prompts);
    let guidance_scale =
        prompts.filter_map(|prompt| prompt.guidance_scale).fold(grid.guidance_scale, f64::max);
    let mut pictures = grid.pictures;
    pictures.resize(pictures.len() + beside, (String::new(), 0));
    GenerateSpec { pictures, guidance_scale, ..grid }
}

/// What a judge that is right names: the concept, or the word of its domain that should be kept, or
/// that of the other domain.
fn shown(
    places: &Places,
    spec: &JudgeSpec,
    expects: Expectation,
    prompt: &SuitePrompt,
) -> Result<Shown, EngineError> {
    let (objects, styles) =
        ((Domain::Objects, prompt.object.as_deref()), (Domain::Styles, prompt.style.as_deref()));
    let is_style = spec.concept.kind == ConceptKind::Style;
    let asked = match expects {
        Expectation::Gone => {
            let domain = if is_style { Domain::Styles } else { Domain::Objects };
            [(domain, Some(spec.concept.text.as_str())), (domain, None)]
        }
        Expectation::Kept if is_style => [styles, objects],
        Expectation::Kept => [objects, styles],
    };
    let mut named = asked.into_iter().filter_map(|(domain, word)| places.find(domain, word?));
    // Not reachable: the spec was checked.
    named.next().ok_or_else(|| {
        let message = format!("\"{}\" shows no word that the judge knows", prompt.prompt);
        SpecError::one(Field::Suites, message).into()
    })
}

/// Whether a judge names each picture as wanted; none where it cannot say.
fn names(
    judge: &dyn Judge,
    spec: &JudgeSpec,
    shown: &[Shown],
    pictures: &[Picture],
) -> Result<Vec<Option<bool>>, EngineError> {
    let words = spec.vocabulary.domain(spec.concept.kind);
    let own = (Domain::of(spec.concept.kind), find_word(words, &spec.concept.text));
    let seen = |domain| -> Result<Sight, EngineError> {
        if shown.iter().all(|(other, _)| *other != domain) {
            return Ok(Sight::Nothing);
        }
        Sight::of(judge, pictures, domain, &spec.vocabulary)
    };
    let (objects, styles) = (seen(Domain::Objects)?, seen(Domain::Styles)?);
    let named = shown.iter().enumerate().map(|(index, &(domain, wanted))| {
        let seen = match domain {
            Domain::Objects => &objects,
            Domain::Styles => &styles,
        };
        match seen {
            Sight::Words(words) => words.get(index).map(|word| *word == wanted),
            Sight::Concept(shown) if (domain, Some(wanted)) == own => shown.get(index).copied(),
            Sight::Concept(_) | Sight::Nothing => None,
        }
    });
    Ok(named.collect())
}
