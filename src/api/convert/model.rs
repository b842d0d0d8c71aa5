//! Converts entries of the catalogue into wire messages.

use super::{outcome::verdict, time};
use crate::{
    catalogue::{ErasedOrigin, ModelEntry, ModelOrigin},
    proto::keystep::v1::{Model, ModelKind, Verdict as WireVerdict, Vocabulary as WireVocabulary},
    spec::Vocabulary,
};

/// A model of the catalogue.
pub(in crate::api) fn model(entry: ModelEntry) -> Model {
    let ModelEntry { name, digest, vocabulary, origin } = entry;
    let words = vocabulary.map(|words| {
        let Vocabulary { anything, objects, styles } = words;
        WireVocabulary { anything, objects, styles }
    });
    let base = Model {
        name,
        digest: digest.unwrap_or_default(),
        vocabulary: words,
        kind: ModelKind::Base.into(),
        ..Model::default()
    };
    match origin {
        ModelOrigin::Base => base,
        ModelOrigin::Erased(origin) => {
            let ErasedOrigin { base_model, concepts, manifest_uri, published_at, verdicts } =
                *origin;
            Model {
                kind: ModelKind::Erased.into(),
                base_model,
                concepts,
                manifest_uri,
                create_time: Some(time(published_at)),
                // Without what was counted: a page of models would not fit into a message with it.
                verdicts: (verdicts.iter())
                    .map(|judged| WireVerdict { measures: None, ..verdict(judged) })
                    .collect(),
                ..base
            }
        }
    }
}
