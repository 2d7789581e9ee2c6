//! Which data threads are in a batch: how a change is known to have reached them all.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::yield_now;

/// Looks at a thread that is in its batch before its processor is given to others.
const SPINS: u32 = 100;

/// Odd while in a batch; a new number for each batch.
type Phase = Arc<AtomicU64>;

#[derive(Debug, Default)]
pub(super) struct Readers(Mutex<Vec<Phase>>);

impl Readers {
    pub(super) fn register(&self) -> Reader {
        let phase = Phase::default();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Threads that have ended leave their half behind.
        all.retain(|other| Arc::strong_count(other) > 1);
        all.push(Arc::clone(&phase));
        Reader(phase)
    }

    pub(super) fn wait(&self, own: Option<&Reader>) {
        // Pairs with the fence in `enter`: a reader we see outside will see our changes.
        fence(Ordering::SeqCst);
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = all
            .iter()
            .filter(|phase| own.is_none_or(|own| !Arc::ptr_eq(&own.0, phase)));
        for phase in others {
            let seen = phase.load(Ordering::Acquire);
            let mut spins = 0;
            while seen % 2 == 1 && phase.load(Ordering::Acquire) == seen {
                spins += 1;
                if spins < SPINS {
                    spin_loop();
                } else {
                    yield_now();
                }
            }
        }
    }
}

/// A data thread, as the writer sees it.
#[derive(Debug)]
pub struct Reader(Phase);

impl Reader {
    /// A batch begins: what is found from now on may be used until [`Reader::leave`].
    pub fn enter(&self) {
        let phase = self.0.load(Ordering::Relaxed);
        self.0.store(phase | 1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Everything found in the batch has been used.
    pub fn leave(&self) {
        let phase = self.0.load(Ordering::Relaxed);
        self.0.store((phase | 1) + 1, Ordering::Release);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.leave();
    }
}
