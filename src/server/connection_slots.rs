//! The slots for connections, and which connection closes where none is left.
//!
//! A connection is in use while a call of a known caller goes on in it. One that is not in use closes
//! when a new connection needs its slot: first those in which no known caller ever called, and of them
//! the one that has waited longest. Where all are in use, a few more are accepted for health checks
//! alone, so that probes do not take a busy server for a dead one.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::settings::ServerSettings;
use crate::auth::network;

/// Connections beyond the limit that are accepted for health checks alone.
const FOR_HEALTH: usize = 16;

/// The least time between two warnings that connections were closed for others.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Every connection that is open.
#[derive(Debug)]
pub(super) struct ConnectionSlots {
    most: usize,
    most_of_address: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    connections: HashMap<u64, Entry>,
    of_network: HashMap<IpAddr, usize>,
    next: u64,
    warned: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    network: Option<IpAddr>,
    usage: Arc<Usage>,
    leave: CancellationToken,
    is_for_health: bool,
}

/// One connection's slot, until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    number: u64,
    slots: Arc<ConnectionSlots>,
    /// The calls in it.
    pub(super) usage: Arc<Usage>,
    /// Cancelled once the connection is to finish its calls and close.
    pub(super) leave: CancellationToken,
    /// Whether it is accepted for health checks alone.
    pub(super) is_for_health: bool,
}

impl ConnectionSlots {
    pub(super) fn new(settings: &ServerSettings) -> Self {
        Self {
            most: settings.max_connections,
            most_of_address: settings.max_connections_of_address,
            open: Mutex::default(),
        }
    }

    /// A slot for a new connection; another one may have to close for it.
    pub(super) fn take(self: &Arc<Self>, address: Option<SocketAddr>) -> ConnectionSlot {
        let network = address.map(|address| network(address.ip()));
        let mut open = self.lock();
        let of_network = network.map_or(0, |network| open.count(network));
        let has_room = if of_network >= self.most_of_address {
            open.evict(network)
        } else {
            open.ordinary() < self.most || open.evict(None)
        };
        if !has_room {
            open.evict_oldest_for_health();
        }
        let number = open.next;
        open.next += 1;
        let slot = ConnectionSlot {
            number,
            slots: Arc::clone(self),
            usage: Arc::default(),
            leave: CancellationToken::new(),
            is_for_health: !has_room,
        };
        let entry = Entry {
            network,
            usage: Arc::clone(&slot.usage),
            leave: slot.leave.clone(),
            is_for_health: slot.is_for_health,
        };
        open.insert(number, entry);
        slot
    }

    /// Closes one connection that is not in use, because something other than slots is short.
    pub(super) fn free_one(&self) {
        self.lock().evict(None);
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.slots.lock().remove(self.number);
    }
}

impl Open {
    fn insert(&mut self, number: u64, entry: Entry) {
        if let Some(network) = entry.network.filter(|_| !entry.is_for_health) {
            *self.of_network.entry(network).or_default() += 1;
        }
        self.connections.insert(number, entry);
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.connections.remove(&number)?;
        if let Some(network) = entry.network.filter(|_| !entry.is_for_health)
            && let Some(count) = self.of_network.get_mut(&network)
        {
            *count -= 1;
            if *count == 0 {
                self.of_network.remove(&network);
            }
        }
        Some(entry)
    }

    fn count(&self, network: IpAddr) -> usize {
        self.of_network.get(&network).copied().unwrap_or_default()
    }

    fn for_health(&self) -> impl Iterator<Item = u64> {
        let for_health = self.connections.iter().filter(|(_, entry)| entry.is_for_health);
        for_health.map(|(number, _)| *number)
    }

    fn ordinary(&self) -> usize {
        self.connections.len() - self.for_health().count()
    }

    /// Closes the connection that is needed least, of one network or of all; returns whether there was
    /// one that is not in use.
    fn evict(&mut self, of: Option<IpAddr>) -> bool {
        let others = self
            .connections
            .iter()
            .filter(|(_, entry)| !entry.is_for_health && (of.is_none() || entry.network == of));
        let unused = others
            .filter_map(|(number, entry)| Some((entry.usage.unused()?, *number)))
            .min_by_key(|(unused, number)| (unused.had_caller, unused.since, *number));
        let Some((_, number)) = unused else { return false };
        self.ask_to_leave(number);
        true
    }

    /// Closes the oldest connection for health checks: its calls are short or can begin again.
    fn evict_oldest_for_health(&mut self) {
        if self.for_health().count() >= FOR_HEALTH
            && let Some(oldest) = self.for_health().min()
        {
            self.ask_to_leave(oldest);
        }
    }

    fn ask_to_leave(&mut self, number: u64) {
        let Some(entry) = self.remove(number) else { return };
        entry.leave.cancel();
        let now = Instant::now();
        if self.warned.is_none_or(|warned| now.duration_since(warned) >= WARN_EVERY) {
            self.warned = Some(now);
            tracing::warn!(
                connections = self.connections.len(),
                network = ?entry.network,
                "connections that are not in use are closed, for new ones need their slots"
            );
        }
    }
}

/// The calls in one connection.
#[derive(Debug)]
pub(super) struct Usage(Mutex<Used>);

#[derive(Debug)]
struct Used {
    calls: usize,
    of_known_callers: usize,
    had_caller: bool,
    /// No call since.
    idle_since: Instant,
    /// No call of a known caller since.
    unused_since: Instant,
}

/// Since when a connection is not in use.
#[derive(Debug)]
struct Unused {
    had_caller: bool,
    since: Instant,
}

impl Default for Usage {
    fn default() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Used {
            calls: 0,
            of_known_callers: 0,
            had_caller: false,
            idle_since: now,
            unused_since: now,
        }))
    }
}

impl Usage {
    /// Begins a call, which goes on until the result is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> CallInProgress {
        self.lock().calls += 1;
        CallInProgress { usage: Arc::clone(self), is_of_known_caller: false }
    }

    /// Whether a call of a known caller goes on.
    pub(super) fn is_in_use(&self) -> bool {
        self.lock().of_known_callers > 0
    }

    /// Since when there is no call; `None` while there is one.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let used = self.lock();
        (used.calls == 0).then_some(used.idle_since)
    }

    fn unused(&self) -> Option<Unused> {
        let used = self.lock();
        let Used { had_caller, unused_since: since, .. } = *used;
        (used.of_known_callers == 0).then_some(Unused { had_caller, since })
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call in a connection.
#[derive(Debug)]
pub(super) struct CallInProgress {
    usage: Arc<Usage>,
    is_of_known_caller: bool,
}

impl CallInProgress {
    /// Marks the caller as known.
    pub(super) fn admitted(&mut self) {
        if !std::mem::replace(&mut self.is_of_known_caller, true) {
            let mut used = self.usage.lock();
            used.of_known_callers += 1;
            used.had_caller = true;
        }
    }
}

impl Drop for CallInProgress {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut used = self.usage.lock();
        used.calls -= 1;
        used.idle_since = now;
        if self.is_of_known_caller {
            used.of_known_callers -= 1;
            used.unused_since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(most: usize, most_of_address: usize) -> Arc<ConnectionSlots> {
        let settings = ServerSettings {
            max_connections: most,
            max_connections_of_address: most_of_address,
            ..ServerSettings::default()
        };
        Arc::new(ConnectionSlots::new(&settings))
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 1))
    }

    async fn pass() {
        tokio::time::advance(Duration::from_secs(1)).await;
    }

    fn used(slot: &ConnectionSlot) -> CallInProgress {
        let mut call = slot.usage.begin();
        call.admitted();
        call
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_go_before_callers_and_the_longest_idle_first() {
        let slots = slots(3, 3);
        let caller = slots.take(Some(address(1)));
        drop(used(&caller));
        pass().await;
        let first = slots.take(Some(address(2)));
        pass().await;
        let second = slots.take(Some(address(3)));
        // A call without a known caller keeps no slot.
        let _watch = first.usage.begin();
        pass().await;
        let third = slots.take(Some(address(4)));
        assert!(first.leave.is_cancelled() && !second.leave.is_cancelled());
        let fourth = slots.take(Some(address(5)));
        let fifth = slots.take(Some(address(6)));
        assert!(second.leave.is_cancelled() && third.leave.is_cancelled());
        let calls = [used(&fourth), used(&fifth)];
        let sixth = slots.take(Some(address(7)));
        assert!(caller.leave.is_cancelled(), "it is not in use");
        let newest = slots.take(Some(address(8)));
        assert!(sixth.leave.is_cancelled() && !newest.is_for_health);
        drop(calls);
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_has_its_share_and_takes_nothing_of_others() {
        let slots = slots(8, 2);
        let other = slots.take(Some(address(1)));
        let mine = [slots.take(Some(address(2))), slots.take(Some(address(2)))];
        let third = slots.take(Some(address(2)));
        assert!(mine[0].leave.is_cancelled() && !mine[1].leave.is_cancelled());
        let _calls = [used(&mine[1]), used(&third)];
        let fourth = slots.take(Some(address(2)));
        assert!(fourth.is_for_health && !other.leave.is_cancelled());
        assert!(!slots.take(Some(address(1))).is_for_health);
        // Of an IPv6 network every address is one.
        let six = |last| Some(SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, last], 1)));
        let mine = [slots.take(six(1)), slots.take(six(2))];
        let _third = slots.take(six(3));
        assert!(mine[0].leave.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_always_a_slot_for_health() {
        let slots = slots(2, 2);
        let busy = [slots.take(Some(address(1))), slots.take(Some(address(2)))];
        let calls = busy.each_ref().map(used);
        let mut probes = Vec::new();
        for _ in 0..=FOR_HEALTH {
            let probe = slots.take(Some(address(3)));
            assert!(probe.is_for_health);
            probes.push(probe);
        }
        assert!(probes[0].leave.is_cancelled() && !probes[1].leave.is_cancelled());
        assert!(busy.iter().all(|slot| !slot.leave.is_cancelled()));
        drop((calls, busy, probes));
        assert!(!slots.take(Some(address(1))).is_for_health);
        assert!(slots.lock().of_network.is_empty() && slots.lock().connections.is_empty());
    }
}
