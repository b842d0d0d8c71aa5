//! Calls that failed without a caller, counted by the peer's address.
//!
//! An address that failed too often is refused before anybody looks at what it presents, so that
//! guessing is slow. Who has already called from there with valid credentials goes on: one client
//! with an old token must not lock out all others behind the same proxy.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    bucket::{Bucket, Rate},
    network::network,
};
use crate::jobs::Principal;

/// Failures that an address may have: this many at once, and one a second.
const RATE: Rate = Rate { per_second: 1.0, burst: 20.0 };

/// Addresses that are remembered.
const MOST_ADDRESSES: usize = 8192;

/// Who failed from where.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<HashMap<IpAddr, Record>>);

#[derive(Debug)]
struct Record {
    failures: Bucket,
    /// Whoever was let in from here before.
    known: BTreeSet<Principal>,
}

impl Failures {
    /// Whether valid credentials from the address count, or how long until they do.
    pub(super) fn let_in(&self, from: IpAddr, principal: &Principal) -> Result<(), Duration> {
        self.with(from, |record, now| {
            if record.known.contains(principal) {
                return Ok(());
            }
            if let Some(wait) = record.failures.wait(RATE, now) {
                return Err(wait);
            }
            record.known.insert(principal.clone());
            Ok(())
        })
    }

    /// Counts a failure, or says how long until the next attempt is looked at.
    pub(super) fn count(&self, from: IpAddr) -> Result<(), Duration> {
        self.with(from, |record, now| record.failures.take(RATE, now))
    }

    fn with<T>(&self, from: IpAddr, look: impl FnOnce(&mut Record, Instant) -> T) -> T {
        let now = Instant::now();
        let from = network(from);
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !records.contains_key(&from) && records.len() >= MOST_ADDRESSES {
            drop_oldest_half(&mut records);
        }
        let record = records.entry(from).or_insert_with(|| Record {
            failures: Bucket::full(RATE, now),
            known: BTreeSet::new(),
        });
        look(record, now)
    }
}

/// Half at a time, so that a flood of addresses does not sort the map on every call.
fn drop_oldest_half(records: &mut HashMap<IpAddr, Record>) {
    let mut times: Vec<Instant> = records.values().map(|record| record.failures.at()).collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    records.retain(|_, record| record.failures.at() > median);
}
