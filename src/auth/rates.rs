//! How often each principal calls.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::bucket::{Bucket, Rate};
use crate::jobs::Principal;

/// One bucket a principal: two tokens of one principal share it, so that renewing a token gives no
/// second allowance.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<HashMap<Principal, Bucket>>);

impl Rates {
    /// Counts one call, or says how long until the next may be made.
    pub(super) fn take(&self, principal: &Principal, rate: Rate) -> Result<(), Duration> {
        let now = Instant::now();
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(principal) {
            return bucket.take(rate, now);
        }
        let mut bucket = Bucket::full(rate, now);
        let taken = bucket.take(rate, now);
        buckets.insert(principal.clone(), bucket);
        taken
    }

    /// Forgets those who are gone from the token file.
    pub(super) fn keep(&self, stays: impl Fn(&Principal) -> bool) {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.retain(|principal, _| stays(principal));
    }
}
