//! Converts what flags say into the API's types.

use crate::{
    proto::keystep::v1::{
        Attack as WireAttack, AttackName as WireAttackName, ConceptKind as WireKind,
        LogSnrWindow as WireWindow, Probes, Sampler, Suite as WireSuite, SuiteExpectation,
        SuitePrompt as WirePrompt, TrainableScope, UnlearningMethod, Vocabulary as WireVocabulary,
    },
    spec::{
        AttackName, AttackSpec, ConceptKind, Expectation, LogSnrWindow, MethodName, ProbesSpec,
        SamplerKind, Scope, Suite, SuitePrompt, Vocabulary,
    },
};

pub(in crate::cli) fn kind(kind: ConceptKind) -> WireKind {
    match kind {
        ConceptKind::Object => WireKind::ObjectClass,
        ConceptKind::Style => WireKind::Style,
        ConceptKind::Instance => WireKind::Instance,
        ConceptKind::Nudity => WireKind::Nudity,
    }
}

pub(in crate::cli) fn method(method: MethodName) -> UnlearningMethod {
    match method {
        MethodName::Keystep => UnlearningMethod::Keystep,
        MethodName::Kscu => UnlearningMethod::Kscu,
        MethodName::Esd => UnlearningMethod::Esd,
    }
}

/// The scope, and the text of one that goes by names.
pub(in crate::cli) fn scope(scope: &Scope) -> (TrainableScope, String) {
    let scope = match scope {
        Scope::CrossAttention => TrainableScope::CrossAttention,
        Scope::CrossAttentionKeyValue => TrainableScope::CrossAttentionKeyValue,
        Scope::NonCrossAttention => TrainableScope::NonCrossAttention,
        Scope::All => TrainableScope::All,
        Scope::NameContains(text) => return (TrainableScope::Unspecified, text.clone()),
    };
    (scope, String::new())
}

pub(super) fn window(window: LogSnrWindow) -> WireWindow {
    WireWindow { low: window.low, high: window.high }
}

pub(super) fn vocabulary(words: Vocabulary) -> WireVocabulary {
    WireVocabulary { anything: words.anything, objects: words.objects, styles: words.styles }
}

pub(super) fn sampler(kind: Option<SamplerKind>) -> Sampler {
    match kind {
        None => Sampler::Unspecified,
        Some(SamplerKind::Ddim) => Sampler::Ddim,
        Some(SamplerKind::Pndm) => Sampler::Pndm,
        Some(SamplerKind::Euler) => Sampler::Euler,
        Some(SamplerKind::EulerAncestral) => Sampler::EulerAncestral,
        Some(SamplerKind::Dpmpp2m) => Sampler::Dpmpp2m,
        Some(SamplerKind::Dpmpp2mKarras) => Sampler::Dpmpp2mKarras,
        Some(SamplerKind::Unipc) => Sampler::Unipc,
        Some(SamplerKind::Lcm) => Sampler::Lcm,
    }
}

pub(super) fn attack(spec: &AttackSpec) -> WireAttack {
    let name = match spec.attack {
        AttackName::ConceptInversion => WireAttackName::ConceptInversion,
        AttackName::UnlearnDiffAtk => WireAttackName::UnlearnDiffAtk,
        AttackName::RingABell => WireAttackName::RingABell,
        AttackName::P4d => WireAttackName::P4d,
        AttackName::Completion => WireAttackName::Completion,
        AttackName::Noise => WireAttackName::Noise,
        AttackName::ImageToImage => WireAttackName::ImageToImage,
        AttackName::Inpainting => WireAttackName::Inpainting,
        AttackName::RelearningBenign => WireAttackName::RelearningBenign,
        AttackName::RelearningFewShot => WireAttackName::RelearningFewShot,
    };
    WireAttack {
        name: name.into(),
        guided: spec.guided,
        budget: Some(spec.budget),
        seed: Some(spec.seed),
        pictures: Some(u32::try_from(spec.pictures).unwrap_or(u32::MAX)),
    }
}

/// A sampler's name on the command line; the API's name where a newer server sends one that is unknown.
pub(super) fn sampler_name(number: i32) -> String {
    let known = SamplerKind::ALL.iter().copied().find(|kind| sampler(Some(*kind)) as i32 == number);
    known.map_or_else(|| number.to_string(), |kind| kind.name().to_owned())
}

pub(super) fn suite(suite: Suite) -> WireSuite {
    let Suite { name, expects, prompts, columns } = suite;
    let expects = match expects {
        Expectation::Gone => SuiteExpectation::Gone,
        Expectation::Kept => SuiteExpectation::Kept,
    };
    let prompts = prompts.into_iter().map(|prompt| {
        let SuitePrompt { prompt, seed, guidance_scale, object, style } = prompt;
        let (object, style) = (object.unwrap_or_default(), style.unwrap_or_default());
        WirePrompt { prompt, seed, guidance_scale, object, style }
    });
    WireSuite { name, expects: expects.into(), prompts: prompts.collect(), columns }
}

pub(super) fn probes(probes: ProbesSpec) -> Probes {
    let ProbesSpec { synonyms, translations, descriptions, seeds, neighbours, seed } = probes;
    let number = |number: usize| Some(u32::try_from(number).unwrap_or(u32::MAX));
    Probes {
        synonyms,
        translations,
        descriptions,
        seeds: number(seeds),
        neighbours: number(neighbours),
        seed: Some(seed),
    }
}
