//! Between the sites and the mapping service: questions, answers, and what is pushed.

use std::time::Duration;

use mat_dataplane::agent::{Answer, UpdateResult};
use mat_proto::{Binding, Home};

use super::sites::Site;
use super::{Event, World};

/// A forwarder's question that gets no answer has failed after this time.
const MAP_PATIENCE: Duration = Duration::from_secs(1);

pub(super) enum Question {
    Lookup(Home),
    Update(Home, Option<Binding>, Option<Binding>),
}

pub(super) enum Reply {
    Lookup(Home, Answer),
    Update(Home, Option<Binding>, UpdateResult),
    News(Home, Answer),
}

impl World {
    pub(super) fn ask(&mut self, site: usize, life: u32, question: Question) {
        if self.now < self.sites[site].map_cut {
            let reply = match question {
                Question::Lookup(home) => Reply::Lookup(home, Answer::Failed("no answer".into())),
                Question::Update(home, _, new) => {
                    Reply::Update(home, new, UpdateResult::Unknown("no answer".into()))
                }
            };
            return self.later(MAP_PATIENCE, Event::Told(site, life, reply));
        }
        let lost = self.now < self.answers_lost;
        let reply = match question {
            Question::Lookup(home) if lost => {
                Reply::Lookup(home, Answer::Failed("answer lost".into()))
            }
            Question::Lookup(home) => Reply::Lookup(home, self.map.answer(home)),
            Question::Update(home, expect, new) => {
                match self.map.swap(self.now, home, expect.as_ref(), new.as_ref()) {
                    Err(wrong) => return self.violated(wrong),
                    Ok(result) => {
                        let place = new
                            .as_ref()
                            .and_then(|b| Some((b.active()?.locator, b.epoch())));
                        self.tell(format!("map: {home} from s{site} to {place:?}: {result:?}"));
                        for site in 0..self.sites.len() {
                            self.push(site);
                        }
                        let unknown = UpdateResult::Unknown("answer lost".into());
                        Reply::Update(home, new, if lost { unknown } else { result })
                    }
                }
            }
        };
        let delay = if lost {
            MAP_PATIENCE
        } else {
            self.sites[site].map_delay
        };
        self.later(delay, Event::Told(site, life, reply));
    }

    /// Whether that is word of the mapping service.
    pub(super) fn hears(&mut self, site: usize, reply: &Reply) {
        let failed = match reply {
            Reply::Lookup(_, answer) | Reply::News(_, answer) => {
                matches!(answer, Answer::Failed(_))
            }
            Reply::Update(_, _, result) => matches!(result, UpdateResult::Unknown(_)),
        };
        if !failed {
            self.sites[site].heard = self.now;
        }
    }

    /// A site wants to hear of a home: what is there comes as soon as it can.
    pub(super) fn watch(&mut self, site: usize, home: Home) {
        if let Some(push) = &mut self.sites[site].push {
            push.watch(home);
            self.push(site);
        }
    }

    /// What a site has been told of a home without asking. It wants to hear of it.
    pub(super) fn recent(&mut self, site: usize, home: Home) -> Option<Answer> {
        self.watch(site, home);
        let Site { push, map_cut, .. } = &self.sites[site];
        let push = push.as_ref().filter(|_| self.now >= *map_cut)?;
        push.known(home)
    }

    /// Sends to a site what it does not know.
    pub(super) fn push(&mut self, site: usize) {
        let now = self.now;
        let Site {
            push,
            map_cut,
            map_delay,
            ..
        } = &mut self.sites[site];
        let Some(push) = push.as_mut().filter(|_| now >= *map_cut) else {
            return;
        };
        for (at, parcel) in push.send(&self.map, now, *map_delay) {
            self.later(at.since(now), Event::Pushed(site, parcel));
        }
    }
}
