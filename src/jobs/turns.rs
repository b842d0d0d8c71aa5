//! Whose job is claimed next: within a priority the principals take turns, so that one with many
//! jobs does not keep the others waiting. A principal's own jobs keep their order.
//!
//! The principal that was served longest ago comes first, and one that was never served before all
//! that were. `rows.rs` of the store in a file says the same in SQL.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use super::{JobId, Principal};

/// A job that waits.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) id: JobId,
    pub(super) principal: Principal,
    pub(super) priority: i32,
}

/// When each principal was served last, as a number that grows with each claim.
#[derive(Debug, Default)]
pub(super) struct Served(BTreeMap<Principal, u64>);

impl Served {
    /// Notes that a job of the principal was claimed.
    pub(super) fn note(&mut self, principal: &Principal) {
        let last = self.0.values().max().copied().unwrap_or(0);
        self.0.insert(principal.clone(), last + 1);
    }

    fn of(&self, principal: &Principal) -> u64 {
        self.0.get(principal).copied().unwrap_or(0)
    }
}

/// The jobs in the order of claims, if no other came.
pub(super) fn in_turn(mut waiting: Vec<Waiting>, served: &Served) -> Vec<JobId> {
    waiting.sort_by_key(|job| job.id);
    // Of each principal at each priority: its first job, and how many were seen so far.
    let mut lines: HashMap<(i32, Principal), (JobId, u64)> = HashMap::new();
    let mut places = Vec::with_capacity(waiting.len());
    for Waiting { id, principal, priority } in waiting {
        let turn = served.of(&principal);
        let (first, seen) = lines.entry((priority, principal)).or_insert((id, 0));
        places.push((Reverse(priority), *seen, turn, *first, id));
        *seen += 1;
    }
    places.sort();
    places.into_iter().map(|(.., id)| id).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn principals_take_turns_within_a_priority() {
        let job = |id: u128, principal: &str, priority| Waiting {
            id: JobId(Uuid::from_u128(id)),
            principal: Principal(principal.to_owned()),
            priority,
        };
        let waiting = vec![
            job(1, "ada", 0),
            job(2, "ada", 0),
            job(3, "ada", 0),
            job(4, "bob", 0),
            job(5, "bob", 0),
            job(6, "eve", 0),
            job(7, "ada", 9),
        ];
        let order = |served: &Served| {
            let ids = in_turn(waiting.clone(), served);
            ids.into_iter().map(|id| id.0.as_u128()).collect::<Vec<_>>()
        };
        let mut served = Served::default();
        assert_eq!(order(&served), [7, 1, 4, 6, 2, 5, 3]);
        served.note(&Principal("ada".to_owned()));
        served.note(&Principal("bob".to_owned()));
        assert_eq!(order(&served), [7, 6, 1, 4, 2, 5, 3]);
        served.note(&Principal("ada".to_owned()));
        assert_eq!(order(&served), [7, 6, 4, 1, 5, 2, 3]);
    }
}
