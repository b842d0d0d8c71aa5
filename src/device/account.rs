//! Accounts for the memory that slots share: the loaded models, the jobs under way, and the calls
//! beside them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    OpenedModel,
    engine_failure::{HeldBeside, out_of_memory},
    health::SlotIndex,
};
use crate::{
    engine::WorkMemory,
    jobs::{Failure, FailureReason},
};

/// A model in memory.
#[derive(Debug)]
pub(super) struct LoadedModel<E> {
    pub(super) digest: String,
    /// Of the model whose tensors it shares, where it shares some.
    pub(super) base: Option<String>,
    pub(super) engine: Arc<E>,
    /// Bytes of its own.
    pub(super) bytes: u64,
}

/// What takes memory until it ends; a slot has at most one of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Occupant {
    /// A slot's job.
    Job(SlotIndex),
    /// A slot's interactive call.
    Call(SlotIndex),
}

impl Occupant {
    fn is_job(&self) -> bool {
        matches!(self, Self::Job(_))
    }

    fn slot(&self) -> SlotIndex {
        match self {
            Self::Job(slot) | Self::Call(slot) => *slot,
        }
    }
}

/// What an occupant takes.
#[derive(Debug, Default)]
struct Usage {
    /// Digests of the models that it works with.
    models: BTreeSet<String>,
    /// Bytes that it takes at its peak beside them.
    work: u64,
    /// Bytes of models that were dropped after a panic, and that it works with all the same.
    dropped: u64,
}

impl Usage {
    /// Bytes beside the loaded models.
    fn beside_models(&self) -> u64 {
        self.work.saturating_add(self.dropped)
    }
}

/// Why something is not admitted.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    /// Waiting does not help.
    Final(Failure),
    /// There is room once others have ended; the failure is for an occupant that does not wait.
    NoRoomBeside { blocker: Blocker, failure: Failure },
}

impl Refusal {
    /// For an occupant that does not wait.
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::Final(failure) | Self::NoRoomBeside { failure, .. } => failure,
        }
    }
}

/// What must end before there is room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocker {
    /// Calls alone, which are short.
    Calls,
    /// Jobs of other slots, or the loading of a model.
    Jobs,
}

/// The account of one memory.
#[derive(Debug)]
pub(super) struct Account<E> {
    /// The one used last at the end.
    loaded: Vec<LoadedModel<E>>,
    usage: BTreeMap<Occupant, Usage>,
    /// Bytes of the model that is being loaded.
    loading: u64,
    /// The slot whose job loads models and is not admitted yet. One at a time, or two jobs with their
    /// models in memory could each wait for the other to end.
    starting: Option<SlotIndex>,
    /// Models that stay loaded at most.
    max_loaded: usize,
    /// Bytes that may be held in all.
    limit: Option<u64>,
    /// Grows whenever there may be more room than before.
    releases: u64,
}

impl<E> Account<E> {
    pub(super) fn new(max_loaded: usize) -> Self {
        Self {
            loaded: Vec::new(),
            usage: BTreeMap::new(),
            loading: 0,
            starting: None,
            max_loaded: max_loaded.max(1),
            limit: None,
            releases: 0,
        }
    }

    pub(super) fn set_limit(&mut self, limit: Option<u64>) {
        self.limit = limit;
        self.releases += 1;
    }

    pub(super) fn releases(&self) -> u64 {
        self.releases
    }

    /// A loaded model, which stays until the occupant ends.
    pub(super) fn find(&mut self, occupant: Occupant, digest: &str) -> Option<Arc<E>> {
        let index = self.loaded.iter().position(|loaded| loaded.digest == digest)?;
        let loaded = self.loaded.remove(index);
        let engine = loaded.engine.clone();
        self.loaded.push(loaded);
        self.usage.entry(occupant).or_default().models.insert(digest.to_owned());
        Some(engine)
    }

    /// Lets a job load its models, until [`Account::admit`] or [`Account::release`].
    pub(super) fn start(&mut self, slot: SlotIndex) -> Result<(), Refusal> {
        if self.starting.is_some_and(|other| other != slot) {
            let message = "the job of another slot loads its models first; try again";
            let failure = Failure::new(FailureReason::OutOfMemory, message);
            return Err(Refusal::NoRoomBeside { blocker: Blocker::Jobs, failure });
        }
        self.starting = Some(slot);
        Ok(())
    }

    /// Makes room for one more model of so many bytes, before it comes, so that both need not fit;
    /// the room is taken until [`Account::finish_loading`].
    pub(super) fn make_room(
        &mut self,
        occupant: Occupant,
        model: &OpenedModel,
        bytes: u64,
    ) -> Result<(), Refusal> {
        let models = digests([model]);
        let what = format!("loading {}", model.name);
        self.check_room(occupant, &models, bytes, |_| (what, bytes))?;
        while self.loaded.len() >= self.max_loaded && self.drop_one(&models) {}
        self.drop_until_fits(&models, bytes);
        self.loading = bytes;
        Ok(())
    }

    /// Keeps the model that was loaded; none where loading failed.
    pub(super) fn finish_loading(&mut self, occupant: Occupant, loaded: Option<LoadedModel<E>>) {
        self.loading = 0;
        if let Some(loaded) = loaded {
            self.usage.entry(occupant).or_default().models.insert(loaded.digest.clone());
            self.loaded.push(loaded);
        }
        self.releases += 1;
    }

    /// Notes what a job or a call works with and takes. Where that does not fit beside the others, it
    /// is refused, and nothing is noted.
    pub(super) fn admit<'a>(
        &mut self,
        occupant: Occupant,
        models: impl IntoIterator<Item = &'a OpenedModel>,
        memory: WorkMemory,
    ) -> Result<(), Refusal> {
        let models = digests(models);
        let bytes = memory.program.saturating_add(memory.work);
        self.check_room(occupant, &models, bytes, |account| {
            let what = if occupant.is_job() { "the job" } else { "the call" };
            (what.to_owned(), memory.total(account.bytes_of(&models)))
        })?;
        self.drop_until_fits(&models, bytes);
        let usage = self.usage.entry(occupant).or_default();
        usage.models.extend(models);
        usage.work = memory.work;
        self.end_start(occupant);
        Ok(())
    }

    /// A job or a call has ended.
    pub(super) fn release(&mut self, occupant: Occupant) {
        self.usage.remove(&occupant);
        self.end_start(occupant);
        self.releases += 1;
    }

    /// Drops the models that nobody works with; says whether any went.
    pub(super) fn drop_idle(&mut self) -> bool {
        let mut dropped = false;
        while self.drop_one(&BTreeSet::new()) {
            dropped = true;
        }
        dropped
    }

    /// Drops every model that no other slot works with. What this slot's own job or call works with
    /// lives until its end all the same, and counts until then.
    pub(super) fn drop_all_of(&mut self, slot: SlotIndex) {
        let elsewhere = self.needed(&BTreeSet::new(), |occupant| occupant.slot() != slot);
        for occupant in [Occupant::Job(slot), Occupant::Call(slot)] {
            let own = self.needed(&BTreeSet::new(), |other| *other == occupant);
            let dropped = self.loaded.extract_if(.., |loaded| {
                own.contains(&loaded.digest) && !elsewhere.contains(&loaded.digest)
            });
            let bytes = dropped.map(|loaded| loaded.bytes).fold(0, u64::saturating_add);
            if let Some(usage) = self.usage.get_mut(&occupant) {
                usage.dropped = usage.dropped.saturating_add(bytes);
            }
        }
        self.loaded.retain(|loaded| elsewhere.contains(&loaded.digest));
        self.releases += 1;
    }

    fn end_start(&mut self, occupant: Occupant) {
        if occupant.is_job() && self.starting == Some(occupant.slot()) {
            self.starting = None;
            self.releases += 1;
        }
    }

    /// Whether so many more bytes fit beside all others, once idle models are dropped. `describe`
    /// says of a refusal what was refused and how many bytes it needs in all.
    fn check_room(
        &self,
        occupant: Occupant,
        models: &BTreeSet<String>,
        bytes: u64,
        describe: impl FnOnce(&Self) -> (String, u64),
    ) -> Result<(), Refusal> {
        let Some(limit) = self.limit else { return Ok(()) };
        let fits = |loading: u64, beside: fn(&Occupant) -> bool| {
            let others = |other: &Occupant| *other != occupant && beside(other);
            let needed = self.needed(models, |other| *other == occupant || others(other));
            let own = self.usage.get(&occupant).map_or(0, |usage| usage.dropped);
            let work = self.usage.iter().filter(|(other, _)| others(other));
            let work = work.map(|(_, usage)| usage.beside_models());
            let parts = [self.bytes_of(&needed), own, loading, bytes].into_iter().chain(work);
            parts.fold(0, u64::saturating_add) <= limit
        };
        if fits(self.loading, |_| true) {
            return Ok(());
        }
        let (what, need) = describe(self);
        if !fits(0, |_| false) {
            let nothing = HeldBeside::default();
            return Err(Refusal::Final(out_of_memory(&what, need, limit, nothing)));
        }
        let blocker =
            if fits(self.loading, Occupant::is_job) { Blocker::Calls } else { Blocker::Jobs };
        let failure = out_of_memory(&what, need, limit, self.held_beside(occupant));
        Err(Refusal::NoRoomBeside { blocker, failure })
    }

    fn held_beside(&self, occupant: Occupant) -> HeldBeside {
        let mut held = HeldBeside::default();
        for (other, usage) in self.usage.iter().filter(|(other, _)| **other != occupant) {
            let bytes = usage.beside_models().saturating_add(self.bytes_of(&usage.models));
            if other.is_job() {
                held.jobs += 1;
                held.by_jobs = held.by_jobs.saturating_add(bytes);
            } else {
                held.by_calls = held.by_calls.saturating_add(bytes);
            }
        }
        held
    }

    /// These models and those of some occupants, with the models that they are made of.
    fn needed(
        &self,
        models: &BTreeSet<String>,
        of: impl Fn(&Occupant) -> bool,
    ) -> BTreeSet<String> {
        let used = self.usage.iter().filter(|(occupant, _)| of(occupant));
        let used = used.flat_map(|(_, usage)| &usage.models);
        let mut needed: BTreeSet<_> = models.iter().chain(used).cloned().collect();
        let bases = self.loaded.iter().filter(|loaded| needed.contains(&loaded.digest));
        let bases: Vec<_> = bases.filter_map(|loaded| loaded.base.clone()).collect();
        needed.extend(bases);
        needed
    }

    /// All bytes that are held.
    fn total(&self) -> u64 {
        let models = self.loaded.iter().map(|loaded| loaded.bytes);
        let work = self.usage.values().map(Usage::beside_models);
        models.chain(work).fold(self.loading, u64::saturating_add)
    }

    fn bytes_of(&self, models: &BTreeSet<String>) -> u64 {
        let of_these = self.loaded.iter().filter(|loaded| models.contains(&loaded.digest));
        of_these.map(|loaded| loaded.bytes).fold(0, u64::saturating_add)
    }

    fn drop_until_fits(&mut self, models: &BTreeSet<String>, bytes: u64) {
        let Some(limit) = self.limit else { return };
        while self.total().saturating_add(bytes) > limit && self.drop_one(models) {}
    }

    /// Drops the model used longest ago that nobody works with, and on which no other is built; says
    /// whether there was one.
    fn drop_one(&mut self, but: &BTreeSet<String>) -> bool {
        let is_idle = |loaded: &LoadedModel<E>| {
            let digest = &loaded.digest;
            let is_base = self.loaded.iter().any(|other| other.base.as_ref() == Some(digest));
            let is_used = self.usage.values().any(|usage| usage.models.contains(digest));
            !is_base && !is_used && !but.contains(digest)
        };
        match self.loaded.iter().position(is_idle) {
            Some(index) => {
                self.loaded.remove(index);
                true
            }
            None => false,
        }
    }
}

/// Of models and of those that they are made of.
fn digests<'a>(models: impl IntoIterator<Item = &'a OpenedModel>) -> BTreeSet<String> {
    let of_model = |model: &OpenedModel| {
        let base = model.edited.as_ref().map(|edited| edited.base_digest.clone());
        [Some(model.digest.clone()), base]
    };
    models.into_iter().flat_map(of_model).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::BuiltinModel;

    const FIRST: SlotIndex = SlotIndex(0);
    const SECOND: SlotIndex = SlotIndex(1);

    fn model(name: &str) -> OpenedModel {
        OpenedModel {
            name: name.to_owned(),
            digest: name.to_owned(),
            files: Arc::new(BuiltinModel::open("emoji-canvas").unwrap()),
            edited: None,
            ancestors: Vec::new(),
        }
    }

    fn account(limit: u64) -> Account<()> {
        let mut account = Account::new(2);
        account.set_limit(Some(limit));
        account
    }

    fn work(work: u64) -> WorkMemory {
        WorkMemory { program: 0, work }
    }

    /// Loads a model of 20 bytes.
    fn load(account: &mut Account<()>, occupant: Occupant, name: &str) -> Result<(), Refusal> {
        if account.find(occupant, name).is_none() {
            account.make_room(occupant, &model(name), 20)?;
            let (digest, engine) = (name.to_owned(), Arc::new(()));
            let loaded = LoadedModel { digest, base: None, engine, bytes: 20 };
            account.finish_loading(occupant, Some(loaded));
        }
        Ok(())
    }

    fn blocker(result: Result<(), Refusal>) -> Blocker {
        match result.unwrap_err() {
            Refusal::NoRoomBeside { blocker, .. } => blocker,
            Refusal::Final(failure) => panic!("{failure}"),
        }
    }

    #[test]
    fn two_jobs_on_one_model_hold_it_once() {
        let mut account = account(100);
        for slot in [FIRST, SECOND] {
            load(&mut account, Occupant::Job(slot), "a").unwrap();
            account.admit(Occupant::Job(slot), [&model("a")], work(40)).unwrap();
        }
        assert_eq!(account.total(), 100);
    }

    #[test]
    fn a_job_has_room_once_what_is_in_its_way_has_ended() {
        let mut account = account(100);
        let (job, other, call) =
            (Occupant::Job(FIRST), Occupant::Job(SECOND), Occupant::Call(SECOND));
        load(&mut account, other, "a").unwrap();
        account.admit(other, [&model("a")], work(30)).unwrap();
        load(&mut account, call, "a").unwrap();
        account.admit(call, [&model("a")], work(20)).unwrap();
        load(&mut account, job, "a").unwrap();
        let admit =
            |account: &mut Account<()>, bytes| account.admit(job, [&model("a")], work(bytes));
        assert_eq!(blocker(admit(&mut account, 40)), Blocker::Calls);
        assert_eq!(blocker(admit(&mut account, 60)), Blocker::Jobs);
        assert!(matches!(admit(&mut account, 81), Err(Refusal::Final(_))));
        account.release(other);
        assert_eq!(blocker(admit(&mut account, 61)), Blocker::Calls);
        admit(&mut account, 60).unwrap();
        assert_eq!(account.total(), 100);
    }

    #[test]
    fn no_slot_drops_a_model_that_another_works_with() {
        let mut account = account(50);
        let (job, other) = (Occupant::Job(FIRST), Occupant::Job(SECOND));
        load(&mut account, job, "a").unwrap();
        load(&mut account, other, "b").unwrap();
        assert_eq!(blocker(load(&mut account, job, "c")), Blocker::Jobs);
        // As after a panic of its own.
        account.release(job);
        account.drop_all_of(FIRST);
        assert_eq!(account.total(), 20, "the other slot's model stays after a panic here");
        assert_eq!(blocker(account.admit(job, [&model("c")], work(31))), Blocker::Jobs);
        account.release(other);
        load(&mut account, job, "c").unwrap();
        account.admit(job, [&model("c")], work(30)).unwrap();
        assert_eq!(account.total(), 50, "the model that nobody works with makes room");
    }

    #[test]
    fn what_a_panic_of_a_call_drops_counts_until_its_slots_job_has_ended() {
        let mut account = account(100);
        let (job, call, other) =
            (Occupant::Job(FIRST), Occupant::Call(FIRST), Occupant::Job(SECOND));
        for occupant in [job, call] {
            load(&mut account, occupant, "a").unwrap();
        }
        account.admit(job, [&model("a")], work(50)).unwrap();
        account.drop_all_of(FIRST);
        account.release(call);
        assert_eq!(account.total(), 70, "the job still holds the model");
        // It is loaded once more for the other slot.
        load(&mut account, other, "a").unwrap();
        assert_eq!(blocker(account.admit(other, [&model("a")], work(20))), Blocker::Jobs);
        account.release(job);
        account.admit(other, [&model("a")], work(20)).unwrap();
        assert_eq!(account.total(), 40);
    }

    #[test]
    fn one_job_at_a_time_loads_its_models() {
        let mut account = account(100);
        account.start(FIRST).unwrap();
        account.start(FIRST).unwrap();
        assert_eq!(blocker(account.start(SECOND)), Blocker::Jobs);
        account.admit(Occupant::Job(FIRST), [], work(1)).unwrap();
        account.start(SECOND).unwrap();
        account.release(Occupant::Job(SECOND));
        account.start(FIRST).unwrap();
    }
}
