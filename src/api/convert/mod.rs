//! Converts between wire messages and the types of `spec` and `jobs`, one file for each message or
//! direction. Incoming messages are destructured whole, so that the compiler reports a new field
//! that is not read.

mod attack;
mod evaluate;
mod evaluation;
mod event;
mod fields;
mod generate;
mod model;
mod operation;
mod outcome;
mod score;
mod suite;
mod unlearn;

use prost::Name;

pub(super) use evaluate::EvaluateDraft;
pub(super) use event::{event, progress_of_call};
pub(super) use fields::RequestTerms;
pub(super) use generate::{DrawingDraft, finished, previewed};
pub(super) use model::model;
pub(super) use operation::{operation, plan, validated};
pub(super) use score::{ScoreDraft, step_score, summary};
pub(super) use unlearn::UnlearnDraft;

use super::ApiSettings;
use crate::{jobs::Timestamp, worker::Publisher};

/// What requests are held against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits<'a> {
    pub(super) settings: &'a ApiSettings,
    pub(super) publisher: &'a dyn Publisher,
    /// The highest priority that the caller may ask for; `None` allows every one.
    pub(super) highest_priority: Option<i32>,
    pub(super) now: Timestamp,
    /// Taken where a request leaves its seed open.
    pub(super) drawn_seed: u64,
}

/// A message of `keystep.v1` as `Any`.
fn packed<M: Name>(message: &M) -> prost_types::Any {
    prost_types::Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn time(time: Timestamp) -> prost_types::Timestamp {
    const MICROS: i64 = 1_000_000;
    prost_types::Timestamp {
        seconds: time.0.div_euclid(MICROS),
        nanos: i32::try_from(time.0.rem_euclid(MICROS) * 1_000).unwrap_or_default(),
    }
}

/// A number that is far below the limit of the wire's type.
fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
