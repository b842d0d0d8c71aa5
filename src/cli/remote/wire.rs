//! Converts what flags say into the API's types.

use crate::{
    outcome::{Compared, Measures, PairedDrop, Share, WordRow},
    proto::keystep::v1::{
        Compared as WireCompared, ConceptKind as WireKind, LogSnrWindow as WireWindow,
        Measures as WireMeasures, Sampler, TrainableScope, UnlearningMethod,
        Vocabulary as WireVocabulary, WordRow as WireWordRow,
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

/// What a judge counted, as a server says it.
pub(super) fn measures(measures: WireMeasures) -> Measures {
    Measures {
        ua: compared(measures.ua),
        ira: compared(measures.ira),
        cra: compared(measures.cra),
        words: measures.words.into_iter().map(word).collect(),
    }
}

fn word(row: WireWordRow) -> WordRow {
    WordRow {
        kind: if row.kind() == WireKind::Style { ConceptKind::Style } else { ConceptKind::Object },
        word: row.word,
        held: None,
        named: compared(row.named),
        became: Vec::new(),
        picture_distance: None,
    }
}

fn compared(compared: Option<WireCompared>) -> Compared {
    let compared = compared.unwrap_or_default();
    let WireCompared { base, edited, lost, gained } = compared;
    let share = |share: Option<_>| {
        let share: crate::proto::keystep::v1::Share = share.unwrap_or_default();
        Share { count: share.count, of: share.of }
    };
    let edited = share(edited);
    Compared { base: share(base), edited, drop: PairedDrop { lost, gained, of: edited.of } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::keystep::v1::Share as WireShare;

    #[test]
    fn what_was_counted_is_read() {
        let share = |count| Some(WireShare { count, of: 40 });
        let said = WireCompared { base: share(30), edited: share(28), lost: 5, gained: 3 };
        let word = WireWordRow {
            word: "neon".to_owned(),
            kind: WireKind::Style.into(),
            named: Some(said.clone()),
        };
        let read =
            measures(WireMeasures { ira: Some(said), words: vec![word], ..Default::default() });
        assert!(read.ira.is_consistent() && read.ira == read.words[0].named);
        assert_eq!((read.ira.edited.count, read.ira.drop.of), (28, 40));
        assert_eq!(read.words[0].kind, ConceptKind::Style);
        // What is not said was not counted.
        assert_eq!(read.ua, Compared::default());
    }
}
