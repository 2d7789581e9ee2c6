//! When a secondary is told. Pure: the time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// Between the beginnings of two rounds at least: bindings may change thousands of times a
/// second, and each round makes the secondary ask and write its journal. For a reader of a
/// secondary it is little beside the 2 s for which "not bound" may be believed.
pub(super) const GAP: Duration = Duration::from_millis(500);

/// How long the first answer of a round is waited for; after each try twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Datagrams in a round at most (RFC 1996 section 3.6 suggests 5 more than the first, a minute
/// apart; a secondary that is away for longer than these asks by itself when it is back).
const TRIES: u32 = 5;

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Begin a round with a new message.
    Tell,
    /// Send the same message again.
    Again,
    /// The round ends without an answer.
    GiveUp,
    /// Nothing before that time, or before something happens.
    Wait(Option<Instant>),
}

/// One secondary: what it has to be told, and how far that has come.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    behind: bool,
    began: Option<Instant>,
    /// Datagrams sent in this round, and when it goes on.
    round: Option<(u32, Instant)>,
}

impl Pacing {
    /// There is something it does not know.
    pub(super) fn changed(&mut self) {
        self.behind = true;
    }

    /// Whether another change would make no difference.
    pub(super) fn is_behind(&self) -> bool {
        self.behind
    }

    /// It answered.
    pub(super) fn answered(&mut self) {
        self.round = None;
    }

    /// What to do at `now`.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        match self.round {
            Some((_, next)) if now < next => Step::Wait(Some(next)),
            Some((TRIES.., _)) => {
                self.round = None;
                Step::GiveUp
            }
            Some((tries, _)) => {
                self.round = Some((tries + 1, now + FIRST_WAIT * 2u32.pow(tries)));
                Step::Again
            }
            None if !self.behind => Step::Wait(None),
            None => match self.began.map(|began| began + GAP) {
                Some(earliest) if now < earliest => Step::Wait(Some(earliest)),
                _ => {
                    self.behind = false;
                    self.began = Some(now);
                    self.round = Some((1, now + FIRST_WAIT));
                    Step::Tell
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_first_change_is_told_at_once_and_those_after_it_together() {
        let t = Instant::now();
        let mut pacing = Pacing::default();
        assert_eq!(pacing.step(t), Step::Wait(None));
        pacing.changed();
        assert_eq!(pacing.step(t), Step::Tell);
        pacing.answered();
        assert_eq!(pacing.step(t + ms(1)), Step::Wait(None));
        for i in 2..400 {
            pacing.changed();
            assert_eq!(pacing.step(t + ms(i)), Step::Wait(Some(t + GAP)));
        }
        assert_eq!(pacing.step(t + GAP), Step::Tell);
        pacing.answered();
        assert_eq!(pacing.step(t + GAP + ms(1)), Step::Wait(None));
        pacing.changed();
        assert_eq!(pacing.step(t + GAP + ms(900)), Step::Tell);
    }

    #[test]
    fn without_an_answer_it_is_sent_again_ever_more_slowly_and_then_no_more() {
        let t = Instant::now();
        let mut pacing = Pacing::default();
        pacing.changed();
        let mut at = t;
        let mut steps = Vec::new();
        loop {
            match pacing.step(at) {
                Step::Wait(Some(next)) => at = next,
                Step::Wait(None) => break,
                step => steps.push((step, (at - t).as_secs())),
            }
        }
        let again = [1, 3, 7, 15].map(|s| (Step::Again, s));
        let wanted = [&[(Step::Tell, 0)][..], &again, &[(Step::GiveUp, 31)]].concat();
        assert_eq!(steps, wanted);
    }

    #[test]
    fn a_change_while_it_does_not_answer_is_told_in_a_round_of_its_own() {
        let t = Instant::now();
        let mut pacing = Pacing::default();
        pacing.changed();
        assert_eq!(pacing.step(t), Step::Tell);
        pacing.changed();
        assert_eq!(pacing.step(t + ms(600)), Step::Wait(Some(t + FIRST_WAIT)));
        pacing.answered();
        assert_eq!(pacing.step(t + ms(700)), Step::Tell);
    }
}
