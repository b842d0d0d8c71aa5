//! What an erasure would take, to the wire.

use super::small;
use crate::{device::PlanEstimate, proto::keystep::v1::Plan};

/// A plan.
pub(in crate::api) fn plan(estimate: PlanEstimate) -> Plan {
    let PlanEstimate {
        updates,
        unet_evaluations,
        memory_bytes,
        estimated_duration,
        trainable_parameters,
        trainable_tensors,
        assumptions,
    } = estimate;
    Plan {
        updates: small(updates),
        unet_evaluations,
        memory_bytes,
        estimated_duration: estimated_duration.and_then(|time| time.try_into().ok()),
        trainable_parameters,
        trainable_tensors: small(trainable_tensors),
        assumptions,
    }
}
