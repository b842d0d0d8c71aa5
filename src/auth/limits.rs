//! How often a principal may call, and an address may fail.
//!
//! Calls that fail without a caller are counted by the peer's address. An address that failed too
//! often is refused whatever it presents, so that guessing is slow. A principal that
//! has already called from there with valid credentials is still let in: one client with an old token
//! must not lock out all others behind the same proxy.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::jobs::Principal;

/// Failures that an address may have: this many at once, and one per second.
const FAILURES: Rate = Rate { per_second: 1.0, burst: 20.0 };

/// Addresses that are remembered.
const MOST_ADDRESSES: usize = 8192;

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate {
    /// In the long run.
    pub(super) per_second: f64,
    /// At once, after a pause.
    pub(super) burst: f64,
}

/// A token bucket: what is left of a rate.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// Nothing was used yet.
    pub(super) fn full(rate: Rate, now: Instant) -> Self {
        Self { left: rate.burst, at: now }
    }

    /// Uses one, or says how long until there is one.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        self.wait(rate, now).map_or_else(
            || {
                self.left -= 1.0;
                Ok(())
            },
            Err,
        )
    }

    /// How long until there is one; `None` when there is.
    pub(super) fn wait(&mut self, rate: Rate, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * rate.per_second).min(rate.burst);
        self.at = now;
        // What is missing by rounding alone is not worth a refusal.
        let missing = 1.0 - self.left;
        (missing > 1e-9).then(|| Duration::from_secs_f64(missing / rate.per_second))
    }

    /// When it was last looked at.
    pub(super) fn at(&self) -> Instant {
        self.at
    }
}

/// A bucket for each principal, which all of its tokens share: renewing a token grants no second
/// allowance.
#[derive(Debug, Default)]
pub(super) struct CallRates(Mutex<HashMap<Principal, Bucket>>);

impl CallRates {
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

/// Who failed from where.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<HashMap<IpAddr, Record>>);

#[derive(Debug)]
struct Record {
    failures: Bucket,
    /// Principals that were let in from here before.
    known: BTreeSet<Principal>,
}

impl Failures {
    /// Whether valid credentials from the address count, or how long until they do.
    pub(super) fn let_in(&self, from: IpAddr, principal: &Principal) -> Result<(), Duration> {
        self.with(from, |record, now| {
            if record.known.contains(principal) {
                return Ok(());
            }
            if let Some(wait) = record.failures.wait(FAILURES, now) {
                return Err(wait);
            }
            record.known.insert(principal.clone());
            Ok(())
        })
    }

    /// Counts a failure, or says how long until the next attempt is looked at.
    pub(super) fn count(&self, from: IpAddr) -> Result<(), Duration> {
        self.with(from, |record, now| record.failures.take(FAILURES, now))
    }

    fn with<T>(&self, from: IpAddr, look: impl FnOnce(&mut Record, Instant) -> T) -> T {
        let now = Instant::now();
        let from = network(from);
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !records.contains_key(&from) && records.len() >= MOST_ADDRESSES {
            drop_oldest_half(&mut records);
        }
        let record = records.entry(from).or_insert_with(|| Record {
            failures: Bucket::full(FAILURES, now),
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

/// What one peer cannot change at will: of an IPv6 address only the first 64 bits.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}
