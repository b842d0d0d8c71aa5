//! Reads and writes the fields that several messages share, such as concepts, scopes and samplers.

use std::{collections::BTreeMap, ops::RangeInclusive};

use super::Limits;
use crate::{
    api::{names, violations::Violations},
    jobs::{JobOptions, PRIORITIES, RequestId, Timestamp},
    proto::keystep::v1::{
        ConceptKind as WireKind, Sampler, TrainableScope as WireScope, Vocabulary as WireVocabulary,
    },
    spec::{ConceptKind, Field, SamplerKind, Scope, Vocabulary},
    worker::destination,
};

const MOST_WORDS: usize = 1_024;
/// Of all objects or styles.
const MOST_BYTES_OF_WORDS: usize = 128 << 10;
const MOST_LABELS: usize = 64;

/// How a request is treated: what both kinds of job carry beside their work.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::api) struct RequestTerms {
    /// Unset: the server makes one.
    pub(in crate::api) request_id: Option<RequestId>,
    pub(in crate::api) options: JobOptions,
    pub(in crate::api) force: bool,
    pub(in crate::api) validate_only: bool,
}

/// The same on the wire.
#[derive(Debug)]
pub(super) struct WireTerms {
    pub(super) request_id: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) deadline: Option<prost_types::Timestamp>,
    pub(super) priority: i32,
    pub(super) force: bool,
    pub(super) validate_only: bool,
}

impl WireTerms {
    pub(super) fn read(self, limits: Limits<'_>, found: &mut Violations) -> RequestTerms {
        let Self { request_id, labels, deadline, priority, force, validate_only } = self;
        let request_id = names::request_id(&request_id).unwrap_or_else(|_| {
            found.add(Field::RequestId, "is no UUID; make one for each request, or leave it out");
            None
        });
        check_labels(&labels, found);
        found.within(Field::Priority, priority, PRIORITIES);
        if let Some(highest) = limits.highest_priority.filter(|highest| priority > *highest) {
            let message = format!(
                "{priority} is above {highest}, the highest that the token file gives this caller"
            );
            found.add(Field::Priority, message);
        }
        let deadline = deadline.and_then(|time| read_deadline(time, limits.now, found));
        let options = JobOptions { labels, priority, deadline, trace_parent: None };
        RequestTerms { request_id, options, force, validate_only }
    }
}

fn check_labels(labels: &BTreeMap<String, String>, found: &mut Violations) {
    if labels.len() > MOST_LABELS {
        let message = format!("has {} entries, the limit is {MOST_LABELS}", labels.len());
        found.add(Field::Labels, message);
    }
    for (key, value) in labels.iter().take(MOST_LABELS) {
        let (of_key, of_value) = (key.chars().count(), value.chars().count());
        if !(1..=63).contains(&of_key) {
            let message = format!("the key has {of_key} characters, 1 to 63 are allowed");
            found.add(Field::Labels.key(key), message);
        }
        if of_value > 256 {
            let message = format!("the value has {of_value} characters, the limit is 256");
            found.add(Field::Labels.key(key), message);
        }
    }
}

fn read_deadline(
    time: prost_types::Timestamp,
    now: Timestamp,
    found: &mut Violations,
) -> Option<Timestamp> {
    let Some(deadline) = moment(time) else {
        found.add(
            Field::Deadline,
            "is no google.protobuf.Timestamp; give a time between 0001-01-01T00:00:00Z and \
             9999-12-31T23:59:59.999999999Z, with 0 to 999999999 nanoseconds",
        );
        return None;
    };
    if deadline <= now {
        found.add(Field::Deadline, "has passed; give a later one or none");
        return None;
    }
    Some(deadline)
}

/// Only what may stand in a `google.protobuf.Timestamp`: what lies outside of its range has no form
/// in JSON, so that nobody could read it again.
fn moment(time: prost_types::Timestamp) -> Option<Timestamp> {
    /// 0001-01-01T00:00:00Z to 9999-12-31T23:59:59Z.
    const SECONDS: RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    let prost_types::Timestamp { seconds, nanos } = time;
    let is_sound = SECONDS.contains(&seconds) && (0..1_000_000_000).contains(&nanos);
    is_sound.then(|| Timestamp(seconds * 1_000_000 + i64::from(nanos) / 1_000))
}

/// Where to publish, as it is stored: within the operator's prefixes, and such that every file of a
/// result finds its place there.
pub(super) fn read_destination(asked: &str, limits: Limits<'_>, found: &mut Violations) -> String {
    let chosen = destination(asked, &limits.settings.outputs).and_then(|chosen| {
        let checked = limits.publisher.check(&chosen);
        checked.map(|()| chosen).map_err(|failure| failure.message)
    });
    chosen.unwrap_or_else(|message| {
        found.add(Field::Destination, message);
        String::new()
    })
}

/// A model's name; whether there is such a model is the catalogue's to say.
pub(super) fn check_name(field: Field, name: &str, found: &mut Violations) {
    if name.is_empty() {
        found.add(field, "is empty; ListModels names the models there are");
    } else if name.chars().count() > 256 {
        found.add(field, "has more than 256 characters; ListModels names the models there are");
    }
}

/// A kind that cannot be read is refused, and taken for any one so that the other fields are checked.
pub(super) fn read_kind(number: i32, found: &mut Violations) -> ConceptKind {
    match found.choice(Field::ConceptKind, number) {
        Some(WireKind::Unspecified) => {
            found.add(Field::ConceptKind, "is unset; say what the concept is");
            ConceptKind::Object
        }
        Some(WireKind::Nudity) => ConceptKind::Nudity,
        Some(WireKind::ObjectClass) | None => ConceptKind::Object,
        Some(WireKind::Style) => ConceptKind::Style,
        Some(WireKind::Instance) => ConceptKind::Instance,
    }
}

/// The scope that is asked for, if any.
pub(super) fn read_scope(
    number: i32,
    name_contains: String,
    found: &mut Violations,
) -> Option<Scope> {
    let scope = match found.choice(Field::Scope, number)? {
        WireScope::Unspecified => None,
        WireScope::CrossAttention => Some(Scope::CrossAttention),
        WireScope::CrossAttentionKeyValue => Some(Scope::CrossAttentionKeyValue),
        WireScope::NonCrossAttention => Some(Scope::NonCrossAttention),
        WireScope::All => Some(Scope::All),
    };
    if name_contains.is_empty() {
        return scope;
    }
    if scope.is_some() {
        found.add(Field::ScopeNameContains, "is given beside scope; give one of them");
    }
    Some(Scope::NameContains(name_contains))
}

/// The words that are given, if any.
pub(super) fn read_vocabulary(
    words: Option<WireVocabulary>,
    limits: Limits<'_>,
    found: &mut Violations,
) -> Option<Vocabulary> {
    let WireVocabulary { anything, mut objects, mut styles } = words?;
    let most = limits.settings.prompt_characters;
    let anything = if anything.is_empty() { Vocabulary::default().anything } else { anything };
    found.prompt(Field::VocabularyAnything, &anything, most);
    for (field, words) in
        [(Field::VocabularyObjects, &mut objects), (Field::VocabularyStyles, &mut styles)]
    {
        found.at_most(field, words, MOST_WORDS);
        found.bytes(field, words, MOST_BYTES_OF_WORDS);
        for (index, word) in words.iter().enumerate() {
            found.prompt(field.at(index), word, most);
        }
    }
    Some(Vocabulary { anything, objects, styles })
}

/// None where the model's folder decides.
pub(super) fn read_sampler(
    field: Field,
    number: i32,
    found: &mut Violations,
) -> Option<SamplerKind> {
    let asked: Sampler = found.choice(field, number)?;
    SamplerKind::ALL.iter().copied().find(|kind| sampler(*kind) == asked)
}

/// The same on the way out.
pub(super) fn sampler(kind: SamplerKind) -> Sampler {
    match kind {
        SamplerKind::Ddim => Sampler::Ddim,
        SamplerKind::Pndm => Sampler::Pndm,
        SamplerKind::Euler => Sampler::Euler,
        SamplerKind::EulerAncestral => Sampler::EulerAncestral,
        SamplerKind::Dpmpp2m => Sampler::Dpmpp2m,
        SamplerKind::Dpmpp2mKarras => Sampler::Dpmpp2mKarras,
        SamplerKind::Unipc => Sampler::Unipc,
        SamplerKind::Lcm => Sampler::Lcm,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_a_time_that_json_can_write() {
        let read = |seconds, nanos| {
            let mut found = Violations::default();
            let time = prost_types::Timestamp { seconds, nanos };
            let read = read_deadline(time, Timestamp(1_000_000), &mut found);
            assert_eq!(read.is_some(), found.finish().is_ok());
            read
        };
        assert_eq!(read(253_402_300_799, 999_999_999), Some(Timestamp(253_402_300_799_999_999)));
        assert_eq!(read(1, 1_000), Some(Timestamp(1_000_001)));
        for (seconds, nanos) in [
            (253_402_300_800, 0),
            (9_223_372_036_854, 0),
            (i64::MAX, 0),
            (i64::MIN, 0),
            (-62_135_596_801, 0),
            (-62_135_596_800, 0),
            (2, -1),
            (2, 1_000_000_000),
            (1, 0),
        ] {
            assert_eq!(read(seconds, nanos), None, "{seconds} {nanos}");
        }
    }
}
