//! Whether the device takes work, by its slots.

use std::sync::Arc;

use tokio::sync::watch;

/// Which slot, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SlotIndex(pub(super) usize);

/// Whether the device, or a slot of it, takes work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceHealth {
    /// It was not yet seen to work.
    Starting,
    /// The engine failed badly; its state was dropped and is built anew.
    Recovering,
    /// It works or waits for work.
    Ready,
}

/// Where a slot's thread reports its health. The receivers learn that the device is gone once the
/// last slot's is dropped.
#[derive(Debug)]
pub(super) struct HealthReport {
    slot: SlotIndex,
    slots: Arc<watch::Sender<Vec<DeviceHealth>>>,
    device: Arc<watch::Sender<DeviceHealth>>,
}

/// The health of each slot.
#[derive(Debug, Clone)]
pub(super) struct SlotsHealth(watch::Receiver<Vec<DeviceHealth>>);

impl HealthReport {
    /// One for each of some slots, and what is read of them: slot by slot, and of the device, which
    /// is as well as its best slot.
    pub(super) fn of_slots(
        count: usize,
    ) -> (Vec<Self>, SlotsHealth, watch::Receiver<DeviceHealth>) {
        let (slots, of_slots) = watch::channel(vec![DeviceHealth::Starting; count]);
        let (device, of_device) = watch::channel(DeviceHealth::Starting);
        let (slots, device) = (Arc::new(slots), Arc::new(device));
        let reports = (0..count).map(|index| Self {
            slot: SlotIndex(index),
            slots: slots.clone(),
            device: device.clone(),
        });
        (reports.collect(), SlotsHealth(of_slots), of_device)
    }

    pub(super) fn slot(&self) -> SlotIndex {
        self.slot
    }

    pub(super) fn set(&self, health: DeviceHealth) {
        self.slots.send_modify(|slots| {
            if let Some(own) = slots.get_mut(self.slot.0) {
                *own = health;
            }
            let best = slots.iter().copied().max().unwrap_or(health);
            // While the slots are locked: else an older report could come after a newer one.
            self.device.send_if_modified(|device| std::mem::replace(device, best) != best);
        });
    }
}

impl Drop for HealthReport {
    fn drop(&mut self) {
        // Its thread has ended: nothing is asked of the slot any more.
        self.set(DeviceHealth::Starting);
    }
}

impl SlotsHealth {
    /// Waits until a slot is ready; says whether it will ever be.
    pub(super) async fn ready(mut self, slot: SlotIndex) -> bool {
        let is_ready = |slots: &Vec<DeviceHealth>| slots.get(slot.0) == Some(&DeviceHealth::Ready);
        self.0.wait_for(is_ready).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

    use super::*;

    #[test]
    fn a_device_is_as_well_as_its_best_slot() {
        let (mut reports, _, device) = HealthReport::of_slots(2);
        let seen = || *device.borrow();
        assert_eq!(seen(), DeviceHealth::Starting);
        reports[0].set(DeviceHealth::Ready);
        reports[1].set(DeviceHealth::Recovering);
        assert_eq!(seen(), DeviceHealth::Ready);
        reports.remove(0);
        assert_eq!(seen(), DeviceHealth::Recovering);
        reports.clear();
        assert!(device.has_changed().is_err(), "the device is gone");
    }

    #[test]
    fn reports_that_come_at_the_same_time_leave_the_best() {
        const ROUNDS: usize = 5_000;
        let (reports, slots, device) = HealthReport::of_slots(2);
        let barrier = Barrier::new(2);
        let wrong = thread::scope(|scope| {
            let threads = [0, 1].map(|index| {
                let (report, slots, device, barrier) = (&reports[index], &slots, &device, &barrier);
                scope.spawn(move || {
                    let mut wrong = 0;
                    for round in 0..ROUNDS {
                        let is_ready = (round + index).is_multiple_of(2);
                        barrier.wait();
                        report.set(if is_ready {
                            DeviceHealth::Ready
                        } else {
                            DeviceHealth::Recovering
                        });
                        barrier.wait();
                        let best = slots.0.borrow().iter().copied().max();
                        wrong += usize::from(best != Some(*device.borrow()));
                    }
                    wrong
                })
            });
            threads.map(|thread| thread.join().unwrap())
        });
        assert_eq!(wrong, [0, 0], "rounds after which the device was not as well as its best slot");
    }
}
