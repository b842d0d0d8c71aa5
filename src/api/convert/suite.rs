//! Reads suites of prompts and probes.

use super::Limits;
use crate::{
    api::violations::Violations,
    proto::keystep::v1::{
        Probes as WireProbes, Suite as WireSuite, SuiteExpectation, SuitePrompt as WirePrompt,
    },
    spec::{Expectation, Field, ProbesSpec, Suite, SuitePrompt},
};

/// The suites that are given. What is longer than a spec may be is refused and cut, so that the checks
/// of the spec stay quick.
pub(super) fn read_suites(
    mut suites: Vec<WireSuite>,
    limits: Limits<'_>,
    found: &mut Violations,
) -> Vec<Suite> {
    found.at_most(Field::Suites, &mut suites, Suite::MAX_SUITES);
    let read = suites.into_iter().enumerate().map(|(index, suite)| {
        let WireSuite { name, expects, mut prompts, columns } = suite;
        let path = Field::Suites.at(index);
        let expects = match found.choice(path.clone(), expects) {
            Some(SuiteExpectation::Kept) => Expectation::Kept,
            Some(SuiteExpectation::Gone | SuiteExpectation::Unspecified) | None => {
                Expectation::Gone
            }
        };
        if prompts.len() > Suite::MAX_PROMPTS {
            let message = format!(
                "has {} prompts, the limit is {}; split it",
                prompts.len(),
                Suite::MAX_PROMPTS
            );
            found.add(path.clone(), message);
            prompts.truncate(Suite::MAX_PROMPTS);
        }
        let prompts = prompts.into_iter().map(|prompt| {
            let WirePrompt { prompt, seed, guidance_scale, object, style } = prompt;
            found.prompt(path.clone(), &prompt, limits.settings.prompt_characters);
            let given = |word: String| Some(word).filter(|word| !word.is_empty());
            SuitePrompt { prompt, seed, guidance_scale, object: given(object), style: given(style) }
        });
        Suite { name, expects, prompts: prompts.collect(), columns }
    });
    read.collect()
}

/// The probes that are asked for, if any.
pub(super) fn read_probes(
    probes: Option<WireProbes>,
    limits: Limits<'_>,
    found: &mut Violations,
) -> Option<ProbesSpec> {
    let WireProbes { mut synonyms, mut translations, mut descriptions, seeds, neighbours, seed } =
        probes?;
    for (field, words) in [
        (Field::ProbesSynonyms, &mut synonyms),
        (Field::ProbesTranslations, &mut translations),
        (Field::ProbesDescriptions, &mut descriptions),
    ] {
        found.at_most(field, words, ProbesSpec::MAX_WORDS);
        for (index, word) in words.iter().enumerate() {
            found.prompt(field.at(index), word, limits.settings.prompt_characters);
        }
    }
    let unset = ProbesSpec::default();
    Some(ProbesSpec {
        synonyms,
        translations,
        descriptions,
        seeds: seeds.map_or(unset.seeds, |given| given as usize),
        neighbours: neighbours.map_or(unset.neighbours, |given| given as usize),
        seed: seed.unwrap_or(unset.seed),
    })
}
