//! Converts what flags say into the API's types.

use crate::{
    outcome::{Compared, Measures, Named, PairedDrop, Share, WordRow},
    proto::keystep::v1::{
        Compared as WireCompared, ConceptKind as WireKind, Domain, LogSnrWindow as WireWindow,
        Measures as WireMeasures, Named as WireNamed, Sampler, Share as WireShare, TrainableScope,
        UnlearningMethod, Vocabulary as WireVocabulary, WordRow as WireRow,
    },
    spec::{ConceptKind, LogSnrWindow, MethodName, SamplerKind, Scope, Vocabulary},
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

/// A sampler's name on the command line; the API's name where a newer server sends one that is unknown.
pub(super) fn sampler_name(number: i32) -> String {
    let known = SamplerKind::ALL.iter().copied().find(|kind| sampler(Some(*kind)) as i32 == number);
    known.map_or_else(|| number.to_string(), |kind| kind.name().to_owned())
}
/// What a judge counted; intervals and rates follow from it.
pub(super) fn measures(measures: &WireMeasures) -> Measures {
    let WireMeasures { ua, ira, cra, ira_held, ira_unheld, words } = measures;
    Measures {
        ua: compared(ua.as_ref()),
        ira: compared(ira.as_ref()),
        cra: compared(cra.as_ref()),
        ira_held: compared(ira_held.as_ref()),
        ira_unheld: compared(ira_unheld.as_ref()),
        words: words.iter().map(word).collect(),
    }
}

fn word(row: &WireRow) -> WordRow {
    let named = |named: &WireNamed| Named { name: named.name.clone(), count: named.count };
    WordRow {
        word: row.word.clone(),
        kind: match row.domain() {
            Domain::Styles => ConceptKind::Style,
            Domain::Objects | Domain::Unspecified => ConceptKind::Object,
        },
        held: row.held,
        named: compared(row.named.as_ref()),
        became: row.became.iter().map(named).collect(),
        picture_distance: row.picture_distance,
    }
}

/// Counts that are not of the same pictures, which no server sends, are nothing.
fn compared(compared: Option<&WireCompared>) -> Compared {
    let share = |share: Option<WireShare>| {
        share.map_or_else(Share::default, |WireShare { count, of, .. }| Share { count, of })
    };
    let read = |compared: &WireCompared| Compared {
        base: share(compared.base),
        edited: share(compared.edited),
        drop: compared.drop.map_or_else(PairedDrop::default, |drop| PairedDrop {
            lost: drop.lost,
            gained: drop.gained,
            of: drop.of,
        }),
    };
    compared.map(read).filter(|compared| compared.is_consistent()).unwrap_or_default()
}
