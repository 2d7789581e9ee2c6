//! Two gateways at one site: one is on duty, the other stands by and takes over.
//!
//! Which of them is on duty is a binding like any other: that of the pair's own home
//! address, to the locator that stands for one of the two. Whoever it names is on duty, and
//! only a compare-and-swap changes it; so there are never two who have a right to be. Beside
//! that the one on duty tells the other one everything it knows ([`crate::io::pair::link`]). When nothing has
//! come for a while, the other one claims the duty; unless the binding's epoch rises, which is
//! how the one on duty says that it lives while nobody listens to it.
//!
//! In here: [`Judge`], pure. What it asks for is done by [`crate::io::pair`].
//!
//! # Limitations
//! A gateway that is on duty, that the other one does not hear, and that cannot ask the
//! mapping service either, goes on. A forwarder that is killed and not started again leaves
//! a kernel that still answers for the site's locators: its service manager is to restart it.

use std::time::Duration;

use mat_proto::{Binding, Epoch, Home, Locator};

use crate::agent::{Answer, Proof, UpdateResult};
use crate::clock::{Now, Time};

/// The one on duty lets the other one hear of it this often.
pub const BEAT: Duration = Duration::from_millis(250);
/// Heard of nothing for so long, the other one is gone: some beats lost are not enough, and
/// neither is a restart.
pub const SILENCE: Duration = Duration::from_millis(1500);
/// How often the binding is read.
const POLL: Duration = Duration::from_secs(1);
/// How often while there is something to be decided.
const HURRY: Duration = Duration::from_millis(200);
/// At the start, the mapping service is waited for this long by whoever was on duty before.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a gateway of a pair does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// It has to find out.
    Undecided,
    /// It serves the site.
    Active,
    /// It is told what the other one knows.
    Standby,
}

/// What is to be done for the [`Judge`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Read the pair's binding; tell [`Judge::answer`].
    Read,
    /// Compare and swap it; tell [`Judge::claimed`].
    Claim {
        /// What must be there.
        expect: Option<Binding>,
        /// What shall be there.
        new: Binding,
    },
}

/// Decides which of the two is on duty.
#[derive(Debug)]
pub struct Judge {
    home: Home,
    ours: Locator,
    port: u16,
    lease_seconds: u32,
    /// Was on duty when it ended, so it may go on if nobody can say more.
    before: bool,
    started: Time,
    duty: Duty,
    /// When the other one last showed that it is on duty.
    heard: Time,
    /// The other one listens.
    followed: bool,
    informed: bool,
    /// When the mapping service last answered.
    answered: Option<Time>,
    known: Option<Binding>,
    /// A question or claim that has not been answered.
    waiting: Option<Option<Binding>>,
    /// When it was last read.
    read: Option<Time>,
    claim: Option<Wish>,
    epoch: Epoch,
}

impl Judge {
    /// For the gateway that `ours` stands for. `before`: it was on duty when its last life
    /// ended.
    pub fn new(
        now: Now,
        (home, ours): (Home, Locator),
        port: u16,
        lease_seconds: u32,
        before: bool,
    ) -> Self {
        Judge {
            home,
            ours,
            port,
            lease_seconds,
            before,
            started: now.time,
            duty: Duty::Undecided,
            heard: now.time,
            followed: false,
            informed: false,
            answered: None,
            known: None,
            waiting: None,
            read: None,
            claim: None,
            epoch: Epoch(0),
        }
    }

    /// Whether this gateway is on duty.
    pub fn duty(&self) -> Duty {
        self.duty
    }

    /// It goes on where a program before it has stopped a moment ago.
    pub fn resume(&mut self) {
        self.duty = Duty::Active;
    }

    /// Something came from the other one, which is on duty.
    pub fn hears(&mut self, now: Now) {
        self.heard = now.time;
        if self.duty == Duty::Undecided {
            self.duty = Duty::Standby;
        }
    }

    /// There is a state to take over with: without one, taking over would make everybody
    /// forget what the site serves.
    pub fn inform(&mut self) {
        self.informed = true;
    }

    /// Whether it would take over, but has never been told anything.
    pub fn lacks_state(&self, now: Now) -> bool {
        !self.informed && self.is_alone(now)
    }

    /// Whether the mapping service answers, so that somebody else can claim the duty.
    pub fn can_be_relieved(&self, now: Now) -> bool {
        self.answered
            .is_some_and(|at| now.time.since(at) < POLL * 3)
    }

    /// Whether the other one listens to what we tell it.
    pub fn set_followed(&mut self, followed: bool) {
        self.followed = followed;
    }

    /// The other one has said that it is no longer on duty.
    pub fn is_left_alone(&mut self, now: Now) {
        self.heard = now.time - SILENCE;
        self.read = None;
    }

    /// What to do now, if anything.
    pub fn poll(&mut self, now: Now) -> Option<Wish> {
        let waits = now.time.since(self.started) >= PATIENCE;
        if self.duty == Duty::Undecided && self.before && waits {
            self.duty = Duty::Active;
        }
        if self.waiting.is_some() {
            return None;
        }
        if let Some(claim) = self.claim.take() {
            if let Wish::Claim { new, .. } = &claim {
                self.waiting = Some(Some(new.clone()));
            }
            return Some(claim);
        }
        let decides = self.duty == Duty::Undecided || self.is_alone(now);
        let often = if decides { HURRY } else { POLL };
        if self.read.is_some_and(|read| now.time.since(read) < often) {
            return None;
        }
        self.read = Some(now.time);
        if self.duty == Duty::Active && !self.followed && self.known.is_some() {
            // Still there: for whoever reads it, since nobody hears it.
            self.claims(now, self.known.clone());
            return self.poll(now);
        }
        self.waiting = Some(None);
        Some(Wish::Read)
    }

    /// What the mapping service says of the pair.
    pub fn answer(&mut self, now: Now, answer: &Answer) {
        self.waiting = None;
        if !matches!(answer, Answer::Failed(_)) {
            self.answered = Some(now.time);
        }
        match answer {
            Answer::Found {
                proof: Proof::Missing,
                ..
            }
            | Answer::NotFound {
                proof: Proof::Missing,
            }
            | Answer::Failed(_) => {}
            // An older copy.
            Answer::Found { binding, .. } if binding.epoch() < self.epoch => {}
            Answer::Found { binding, .. } => {
                let news = binding.epoch() > self.epoch;
                self.epoch = binding.epoch();
                self.known = Some(binding.clone());
                if binding.active().is_some_and(|e| e.locator == self.ours) {
                    self.duty = Duty::Active;
                    return;
                }
                if news || self.duty != Duty::Standby {
                    self.duty = Duty::Standby;
                    self.heard = now.time;
                }
                if self.is_alone(now) && self.informed {
                    self.claims(now, Some(binding.clone()));
                }
            }
            // The first of all, or lost: whoever is on duty says so again.
            Answer::NotFound { .. } if self.duty != Duty::Standby || self.is_alone(now) => {
                self.known = None;
                self.claims(now, None);
            }
            Answer::NotFound { .. } => {}
        }
    }

    /// What became of a claim.
    pub fn claimed(&mut self, now: Now, result: &UpdateResult) {
        let claimed = self.waiting.take().flatten();
        match (result, claimed) {
            (UpdateResult::Committed, Some(new)) => {
                self.answered = Some(now.time);
                self.epoch = new.epoch();
                self.known = Some(new);
                self.duty = Duty::Active;
            }
            // Read back, whatever it was.
            _ => {
                self.known = None;
                self.read = Some(now.time);
            }
        }
    }

    fn is_alone(&self, now: Now) -> bool {
        self.duty == Duty::Standby && now.time.since(self.heard) >= SILENCE
    }

    fn claims(&mut self, now: Now, expect: Option<Binding>) {
        let epoch = expect.as_ref().map_or(self.epoch, Binding::epoch);
        let next = epoch.next(now.unix_seconds());
        let new = Binding::single(self.home, next, self.lease_seconds, self.ours, self.port);
        // Its parts are of one family and in range: the configuration was checked.
        self.claim = new.ok().map(|new| Wish::Claim { expect, new });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "198.51.100.61";
    const SECOND: &str = "198.51.100.62";

    /// Two gateways and a mapping service, which answers at once.
    struct Site {
        now: u64,
        judges: [Judge; 2],
        alive: [bool; 2],
        /// Whether the two hear each other.
        connected: bool,
        map: Option<Binding>,
        /// Which of the two can ask it.
        reaches: [bool; 2],
    }

    fn at(ms: u64) -> Now {
        Now {
            time: Time(ms * 1000),
            unix_us: 1_795_000_000_000_000 + ms * 1000,
        }
    }

    fn judge(site: usize, ms: u64, before: bool) -> Judge {
        let ours = [FIRST, SECOND][site].parse().unwrap();
        let pair = ("192.0.2.250".parse().unwrap(), ours);
        let mut judge = Judge::new(at(ms), pair, 6283, 30, before);
        judge.inform();
        judge
    }

    impl Site {
        fn new() -> Self {
            Site {
                now: 0,
                judges: [judge(0, 0, false), judge(1, 0, false)],
                alive: [true, true],
                connected: true,
                map: None,
                reaches: [true, true],
            }
        }

        /// With the first one on duty.
        fn settled() -> Self {
            let mut site = Site::new();
            site.run(3000);
            assert_eq!(site.duties(), [Duty::Active, Duty::Standby]);
            site
        }

        fn duties(&self) -> [Duty; 2] {
            [0, 1].map(|n| self.judges[n].duty())
        }

        fn run(&mut self, ms: u64) {
            let end = self.now + ms;
            while self.now < end {
                self.now += 50;
                let now = at(self.now);
                for n in 0..2 {
                    if !self.alive[n] {
                        continue;
                    }
                    let hears = self.connected && self.alive[1 - n];
                    self.judges[n].set_followed(hears);
                    if hears && self.judges[n].duty() == Duty::Active {
                        self.judges[1 - n].hears(now);
                    }
                    while let Some(wish) = self.judges[n].poll(now) {
                        self.grant(n, wish);
                    }
                }
            }
        }

        fn grant(&mut self, n: usize, wish: Wish) {
            let now = at(self.now);
            let away = !self.reaches[n];
            match wish {
                Wish::Read => {
                    let proof = Proof::Signed;
                    let answer = match self.map.clone() {
                        _ if away => Answer::Failed("no answer".to_owned()),
                        Some(binding) => Answer::Found { binding, proof },
                        None => Answer::NotFound { proof },
                    };
                    self.judges[n].answer(now, &answer);
                }
                Wish::Claim { expect, new } => {
                    let result = if away {
                        UpdateResult::Unknown("no answer".to_owned())
                    } else if self.map == expect {
                        let before = self.map.as_ref().map_or(Epoch(0), Binding::epoch);
                        assert!(new.epoch() > before, "epochs rise");
                        self.map = Some(new);
                        UpdateResult::Committed
                    } else {
                        UpdateResult::Conflict
                    };
                    self.judges[n].claimed(now, &result);
                }
            }
        }
    }

    #[test]
    fn one_of_two_that_start_together_is_on_duty() {
        let mut site = Site::settled();
        site.run(60_000);
        assert_eq!(site.duties(), [Duty::Active, Duty::Standby]);
    }

    #[test]
    fn the_other_one_takes_over_within_two_seconds() {
        let mut site = Site::settled();
        site.alive[0] = false;
        site.run(1400);
        assert_eq!(site.judges[1].duty(), Duty::Standby);
        site.run(600);
        assert_eq!(site.judges[1].duty(), Duty::Active);
        // Back, it does not claim what is no longer its.
        for before in [true, false] {
            site.judges[0] = judge(0, site.now, before);
            site.alive[0] = true;
            site.run(5000);
            assert_eq!(site.duties(), [Duty::Standby, Duty::Active]);
        }
    }

    #[test]
    fn one_that_is_restarted_soon_goes_on() {
        let mut site = Site::settled();
        site.alive[0] = false;
        site.run(1000);
        site.judges[0] = judge(0, site.now, true);
        site.alive[0] = true;
        site.run(5000);
        assert_eq!(site.duties(), [Duty::Active, Duty::Standby]);
    }

    #[test]
    fn one_that_says_good_bye_is_not_waited_for() {
        let mut site = Site::settled();
        site.alive[0] = false;
        site.judges[1].is_left_alone(at(site.now));
        site.run(100);
        assert_eq!(site.judges[1].duty(), Duty::Active);
    }

    /// They do not hear each other, but both reach the mapping service: by that they know of
    /// each other, and one that dies is still noticed.
    #[test]
    fn when_they_lose_sight_of_each_other_they_see_the_record_change() {
        let mut site = Site::settled();
        site.connected = false;
        site.run(60_000);
        assert_eq!(site.duties(), [Duty::Active, Duty::Standby]);
        site.alive[0] = false;
        site.run(2700);
        assert_eq!(site.judges[1].duty(), Duty::Active);
    }

    /// The one on duty is cut off from everybody, and learns of it when it is back.
    #[test]
    fn one_that_was_replaced_while_it_was_cut_off_gives_up() {
        let mut site = Site::settled();
        site.connected = false;
        site.reaches[0] = false;
        site.run(10_000);
        assert_eq!(site.duties(), [Duty::Active, Duty::Active]);
        site.reaches[0] = true;
        site.run(1100);
        assert_eq!(site.duties(), [Duty::Standby, Duty::Active]);
        site.run(60_000);
        assert_eq!(site.duties(), [Duty::Standby, Duty::Active]);
    }

    #[test]
    fn without_the_mapping_service_nobody_takes_over_and_nobody_gives_up() {
        let mut site = Site::settled();
        site.reaches = [false, false];
        site.connected = false;
        site.run(60_000);
        assert_eq!(site.duties(), [Duty::Active, Duty::Standby]);
        // Restarted, each goes on as what it was.
        site.judges = [judge(0, site.now, true), judge(1, site.now, false)];
        site.run(60_000);
        assert_eq!(site.duties(), [Duty::Active, Duty::Undecided]);
        site.reaches = [true, true];
        site.connected = true;
        site.run(3000);
        assert_eq!(site.duties(), [Duty::Active, Duty::Standby]);
    }

    /// The other one is on duty and says so; the mapping service says nothing.
    #[test]
    fn one_that_comes_back_does_not_serve_beside_one_that_it_hears() {
        let mut site = Site::settled();
        site.alive[0] = false;
        site.run(3000);
        site.reaches = [false, false];
        site.judges[0] = judge(0, site.now, true);
        site.alive[0] = true;
        site.run(10_000);
        assert_eq!(site.duties(), [Duty::Standby, Duty::Active]);
    }

    #[test]
    fn one_that_was_never_told_anything_does_not_take_over() {
        let mut site = Site::settled();
        site.judges[1].informed = false;
        site.alive[0] = false;
        site.run(10_000);
        assert_eq!(site.judges[1].duty(), Duty::Standby);
        assert!(site.judges[1].lacks_state(at(site.now)));
        site.judges[1].inform();
        site.run(500);
        assert_eq!(site.judges[1].duty(), Duty::Active);
    }

    /// A claim that is refused is not repeated without a pause.
    #[test]
    fn a_refusal_is_no_reason_to_hurry() {
        let mut judge = judge(0, 0, false);
        let mut asked = 0;
        for ms in 0..2000 {
            while let Some(wish) = judge.poll(at(ms)) {
                asked += 1;
                let proof = Proof::Signed;
                match wish {
                    Wish::Read => judge.answer(at(ms), &Answer::NotFound { proof }),
                    Wish::Claim { .. } => {
                        judge.claimed(at(ms), &UpdateResult::Refused("no".to_owned()));
                    }
                }
            }
        }
        assert!(asked <= 22, "{asked}");
    }

    #[test]
    fn the_record_hands_the_duty_over() {
        let mut site = Site::settled();
        let epoch = site.map.as_ref().unwrap().epoch().next(0);
        let (home, other) = ("192.0.2.250".parse().unwrap(), SECOND.parse().unwrap());
        site.map = Some(Binding::single(home, epoch, 30, other, 6283).unwrap());
        site.run(1100);
        assert_eq!(site.duties(), [Duty::Standby, Duty::Active]);
        // And one that is lost is written again, higher.
        site.map = None;
        site.run(2500);
        assert_eq!(site.duties(), [Duty::Standby, Duty::Active]);
        assert!(site.map.as_ref().unwrap().epoch() > epoch);
    }

    #[test]
    fn an_answer_without_proof_decides_nothing() {
        let mut judge = judge(0, 0, false);
        assert_eq!(judge.poll(at(0)), Some(Wish::Read));
        let proof = Proof::Missing;
        judge.answer(at(1), &Answer::NotFound { proof });
        assert_eq!((judge.duty(), judge.poll(at(1))), (Duty::Undecided, None));
    }
}
