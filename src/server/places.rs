//! The places for connections, and whose turn it is to go where there are none left.
//!
//! A connection is in use while a call goes on in it whose caller is known. One that is not in use
//! goes when somebody else needs its place: those first in which no known caller ever called, and of
//! them the one that has waited longest. Where all are in use, a few more are let in for health
//! alone, so that those who watch the server do not take it for dead.

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

/// Connections beyond the limit that may ask for health alone.
const FOR_HEALTH: usize = 16;

/// How often the log says that connections make room.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Every connection that is open.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    most_of_address: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    connections: HashMap<u64, Entry>,
    of_network: HashMap<IpAddr, usize>,
    next: u64,
    told: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    network: Option<IpAddr>,
    usage: Arc<Usage>,
    leave: CancellationToken,
    is_for_health: bool,
}

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    places: Arc<Places>,
    /// The calls in it.
    pub(super) usage: Arc<Usage>,
    /// Cancelled once the connection is to finish its calls and go.
    pub(super) leave: CancellationToken,
    /// Whether it may ask for health alone.
    pub(super) is_for_health: bool,
}

impl Places {
    pub(super) fn new(settings: &ServerSettings) -> Self {
        Self {
            most: settings.max_connections,
            most_of_address: settings.max_connections_of_address,
            open: Mutex::default(),
        }
    }

    /// A place for a new connection; another one may have to go for it.
    pub(super) fn take(self: &Arc<Self>, address: Option<SocketAddr>) -> Place {
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
        let place = Place {
            number,
            places: Arc::clone(self),
            usage: Arc::default(),
            leave: CancellationToken::new(),
            is_for_health: !has_room,
        };
        let entry = Entry {
            network,
            usage: Arc::clone(&place.usage),
            leave: place.leave.clone(),
            is_for_health: place.is_for_health,
        };
        open.insert(number, entry);
        place
    }

    /// Has one connection go that is not in use, for want of something else than places.
    pub(super) fn relieve(&self) {
        self.lock().evict(None);
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(self.number);
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

    /// Has the connection go that is needed least, of one network or of all; says whether any could.
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

    /// Their calls are short or watch; whoever has watched longest can begin again.
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
        if self.told.is_none_or(|told| now.duration_since(told) >= TELL_EVERY) {
            self.told = Some(now);
            tracing::warn!(
                connections = self.connections.len(),
                network = ?entry.network,
                "connections that are not in use are closed, for new ones need their places"
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
    /// A call begins, and goes on until the result is dropped.
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
    /// Its caller is known.
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

    fn places(most: usize, most_of_address: usize) -> Arc<Places> {
        let settings = ServerSettings {
            max_connections: most,
            max_connections_of_address: most_of_address,
            ..ServerSettings::default()
        };
        Arc::new(Places::new(&settings))
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 1))
    }

    async fn pass() {
        tokio::time::advance(Duration::from_secs(1)).await;
    }

    fn used(place: &Place) -> CallInProgress {
        let mut call = place.usage.begin();
        call.admitted();
        call
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_go_before_callers_and_the_longest_idle_first() {
        let places = places(3, 3);
        let caller = places.take(Some(address(1)));
        drop(used(&caller));
        pass().await;
        let first = places.take(Some(address(2)));
        pass().await;
        let second = places.take(Some(address(3)));
        // A call that nobody signed for keeps no place.
        let _watch = first.usage.begin();
        pass().await;
        let third = places.take(Some(address(4)));
        assert!(first.leave.is_cancelled() && !second.leave.is_cancelled());
        let fourth = places.take(Some(address(5)));
        let fifth = places.take(Some(address(6)));
        assert!(second.leave.is_cancelled() && third.leave.is_cancelled());
        let calls = [used(&fourth), used(&fifth)];
        let sixth = places.take(Some(address(7)));
        assert!(caller.leave.is_cancelled(), "it is not in use");
        let newest = places.take(Some(address(8)));
        assert!(sixth.leave.is_cancelled() && !newest.is_for_health);
        drop(calls);
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_has_its_share_and_takes_nothing_of_others() {
        let places = places(8, 2);
        let other = places.take(Some(address(1)));
        let mine = [places.take(Some(address(2))), places.take(Some(address(2)))];
        let third = places.take(Some(address(2)));
        assert!(mine[0].leave.is_cancelled() && !mine[1].leave.is_cancelled());
        let _calls = [used(&mine[1]), used(&third)];
        let fourth = places.take(Some(address(2)));
        assert!(fourth.is_for_health && !other.leave.is_cancelled());
        assert!(!places.take(Some(address(1))).is_for_health);
        // Of an IPv6 network every address is one.
        let six = |last| Some(SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, last], 1)));
        let mine = [places.take(six(1)), places.take(six(2))];
        let _third = places.take(six(3));
        assert!(mine[0].leave.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_always_a_place_for_health() {
        let places = places(2, 2);
        let busy = [places.take(Some(address(1))), places.take(Some(address(2)))];
        let calls = busy.each_ref().map(used);
        let mut probes = Vec::new();
        for _ in 0..=FOR_HEALTH {
            let probe = places.take(Some(address(3)));
            assert!(probe.is_for_health);
            probes.push(probe);
        }
        assert!(probes[0].leave.is_cancelled() && !probes[1].leave.is_cancelled());
        assert!(busy.iter().all(|place| !place.leave.is_cancelled()));
        drop((calls, busy, probes));
        assert!(!places.take(Some(address(1))).is_for_health);
        assert!(places.lock().of_network.is_empty() && places.lock().connections.is_empty());
    }
}
