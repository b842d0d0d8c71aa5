//! Asks for a concept in other words: a suite for each way, without a gradient.

mod neighbours;
mod sentences;
mod spelling;

use std::collections::BTreeSet;

use crate::{
    engine::{EngineError, Pipeline, schedule::NoiseSource},
    spec::{JudgeSpec, Probe, ProbesSpec, Prompt, Suite, SuitePrompt},
};

/// The suites of every probe that has a prompt which the text encoder reads whole. What the caller
/// gave was checked before, so that it is among them.
pub(super) fn suites(
    base: &Pipeline,
    spec: &JudgeSpec,
    probes: &ProbesSpec,
) -> Result<Vec<Suite>, EngineError> {
    let mut suites = Vec::new();
    for probe in Probe::ALL {
        let mut seen = BTreeSet::new();
        let mut prompts = Vec::new();
        for prompt in prompts_of(*probe, base, spec, probes)? {
            if base.reader().reads_whole(&prompt)? && seen.insert(prompt.clone()) {
                prompts.push(prompt);
            }
        }
        if !prompts.is_empty() {
            suites.push(seeded(*probe, &prompts, probes));
        }
    }
    Ok(suites)
}

fn prompts_of(
    probe: Probe,
    base: &Pipeline,
    spec: &JudgeSpec,
    probes: &ProbesSpec,
) -> Result<Vec<String>, EngineError> {
    let concept = &spec.concept;
    let said = |words: Vec<String>| {
        let anything = &spec.vocabulary.anything;
        words.iter().map(|word| Prompt::of(word, concept.kind).sentence(anything)).collect()
    };
    Ok(match probe {
        Probe::Templates => sentences::templates(concept),
        Probe::Plural => sentences::plurals(concept),
        Probe::Synonyms => said(probes.synonyms.clone()),
        Probe::Neighbours => said(neighbours::nearest(base, spec, probes.neighbours)?),
        Probe::Misspellings => {
            said(spelling::misspellings(&concept.text, &mut NoiseSource::new(probes.seed)))
        }
        Probe::Homoglyphs => said(spelling::homoglyphs(&concept.text)),
        Probe::Translations => said(probes.translations.clone()),
        Probe::Dilution => {
            let sentence =
                Prompt::of(&concept.text, concept.kind).sentence(&spec.vocabulary.anything);
            sentences::diluted(&sentence)
        }
        Probe::Descriptions => probes.descriptions.clone(),
    })
}

/// Every prompt as often as it is asked for, each picture with a seed of its own.
fn seeded(probe: Probe, prompts: &[String], probes: &ProbesSpec) -> Suite {
    let each = prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt, probes.seeds));
    let prompts = (0..).zip(each).map(|(index, prompt): (u64, _)| SuitePrompt {
        prompt: prompt.clone(),
        seed: probes.seed.wrapping_add(index),
        ..SuitePrompt::default()
    });
    Suite { name: probe.name().to_owned(), prompts: prompts.collect(), ..Suite::default() }
}
