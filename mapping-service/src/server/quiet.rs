//! Log lines that anybody on the network can cause, bounded.

use std::sync::Mutex;
use std::sync::PoisonError;

/// Lines per second, all causes together; the counters have the rest.
const LINES: u32 = 10;

/// Lets the first lines of each second through.
#[derive(Debug, Default)]
pub(super) struct Quiet(Mutex<(u64, u32)>);

impl Quiet {
    /// Whether a line may be logged at `now` (Unix seconds).
    pub(super) fn may_speak(&self, now: u64) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 != now {
            *state = (now, 0);
        }
        state.1 = state.1.saturating_add(1);
        state.1 <= LINES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_each_second_anew() {
        let quiet = Quiet::default();
        for second in [5, 6] {
            let spoken = (0..1000).filter(|_| quiet.may_speak(second)).count();
            assert_eq!(spoken, LINES as usize);
        }
    }
}
