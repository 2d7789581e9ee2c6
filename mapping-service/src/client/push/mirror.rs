//! What a server pushes, kept as it is there. Pure.
//!
//! A set is *certain* once its subscription has been accepted and a question asked after that has
//! been answered: what was there has come by then. It stays so as long as questions are answered;
//! after that nobody knows what has changed meanwhile.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message as Plain, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::SVCB;
use hickory_proto::rr::{Name, RData, RecordType};
use mat_proto::record::{self, RecordError};
use mat_proto::{Binding, Home, Whose};
use serde::Serialize;

use crate::dso::{self, Message, News, Subscription, Tlv};

/// Subscriptions kept for whoever asks; about others the server is asked as before.
const HOMES: usize = 16_384;
/// For so long a home is of interest after it was asked for, or twice its lease.
const INTEREST: Duration = Duration::from_secs(120);
/// Subscriptions that are not answered yet: the server need not hold answers back.
const WINDOW: usize = 128;
/// A question that is not answered by then never will be.
const PATIENCE: Duration = Duration::from_secs(3);
/// Locators are few; whoever pushes more is not to be believed.
const RECORDS: usize = 64;

/// Identifiers of what is asked again and again; those of subscriptions are above.
const KEEPALIVE: u16 = 1;
const BEAT: u16 = 2;

/// What is known of a home now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Of whom.
    #[serde(rename = "home")]
    pub whose: Whose,
    /// The binding, if there is one; of a prefix, that of its first home.
    pub binding: Option<Binding>,
}

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Over {
    #[error("the server wants to be left alone for {0:?}")]
    Delay(Duration),
    #[error("the server does not answer any more")]
    Silent,
    #[error("the server refuses push: {0}")]
    Refused(ResponseCode),
    #[error("the server breaks the rules: {0}")]
    Nonsense(&'static str),
}

/// See the module's page one.
#[derive(Debug)]
pub(super) struct Mirror {
    zone: Name,
    /// How often it is made sure that the server is there.
    beat: Duration,
    wants: HashMap<Subscription, Want>,
    sets: HashMap<Name, Vec<SVCB>>,
    /// What was there at the end of the last session, and has not been heard of since.
    before: HashSet<Name>,
    session: Option<Session>,
}

#[derive(Debug)]
struct Want {
    /// When nobody is interested any more; `None`: never.
    until: Option<Instant>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be asked for.
    New,
    Asked,
    /// Certain with the answer to this question.
    Accepted(u64),
    Certain,
    Refused,
}

#[derive(Debug, Default)]
struct Session {
    established: bool,
    greeted: bool,
    /// To be subscribed to.
    queue: VecDeque<Subscription>,
    unanswered: usize,
    ids: HashMap<u16, Subscription>,
    last_id: u16,
    /// Identifiers of subscriptions nobody is interested in.
    over: Vec<u16>,
    /// Subscriptions that are accepted and not certain.
    accepted: Vec<Subscription>,
    /// Questions asked so far.
    beats: u64,
    /// When the latest one was, and whether it is answered.
    asked: Option<(Instant, bool)>,
    /// When the latest one was asked that has been answered.
    heard: Option<Instant>,
}

impl Mirror {
    /// Of `zone`; what it says is at most `age` old.
    pub(super) fn new(zone: Name, age: Duration) -> Self {
        Mirror {
            zone,
            beat: age / 2,
            wants: HashMap::new(),
            sets: HashMap::new(),
            before: HashSet::new(),
            session: None,
        }
    }

    /// Wants to hear of every binding below `name`, for ever.
    pub(super) fn follow(&mut self, name: &Name) {
        let subscription = Subscription::below(name, RecordType::SVCB);
        self.want(subscription, None);
    }

    /// The binding of a home, or that there is none, if that is certain. It is of interest from
    /// now on.
    pub(super) fn get(&mut self, home: Home, now: Instant) -> Option<Option<Binding>> {
        let name = record::owner(home, &self.zone).ok()?.to_lowercase();
        let binding = self.binding(home.into(), &name).ok()?;
        let lease = binding.as_ref().map_or(Duration::ZERO, Binding::lease);
        let subscription = Subscription::at(&name, RecordType::SVCB);
        let state = self.want(subscription, Some(now + INTEREST.max(lease * 2)))?;
        let heard = self.session.as_ref()?.heard?;
        let recent = now.saturating_duration_since(heard) <= self.beat * 2;
        (state == State::Certain && recent).then_some(binding)
    }

    fn want(&mut self, subscription: Subscription, until: Option<Instant>) -> Option<State> {
        if let Some(want) = self.wants.get_mut(&subscription) {
            // What was refused may be granted later: asked for again after a while.
            if want.state != State::Refused {
                want.until = until;
            }
            return Some(want.state);
        }
        if self.wants.len() >= HOMES {
            return None;
        }
        let state = State::New;
        self.wants
            .insert(subscription.clone(), Want { until, state });
        if let Some(session) = &mut self.session {
            session.queue.push_back(subscription);
        }
        Some(state)
    }

    fn binding(&self, whose: Whose, name: &Name) -> Result<Option<Binding>, RecordError> {
        let set = self.sets.get(name);
        set.map(|set| whose.from_svcb(set)).transpose()
    }

    /// Whether the server has answered in this session.
    pub(super) fn is_up(&self) -> bool {
        let session = self.session.as_ref();
        session.is_some_and(|session| session.heard.is_some())
    }

    /// Subscriptions in force.
    pub(super) fn subscriptions(&self) -> usize {
        let asked = self.session.iter().flat_map(|session| session.ids.values());
        let certain = |s: &&Subscription| {
            self.wants
                .get(s)
                .is_some_and(|want| want.state == State::Certain)
        };
        asked.filter(certain).count()
    }

    /// There is a connection, and nothing is known.
    pub(super) fn connected(&mut self) {
        for want in self.wants.values_mut() {
            want.state = State::New;
        }
        self.session = Some(Session {
            queue: self.wants.keys().cloned().collect(),
            last_id: BEAT,
            ..Session::default()
        });
    }

    /// The connection is gone.
    pub(super) fn disconnected(&mut self) {
        self.session = None;
        self.before.extend(self.sets.drain().map(|(name, _)| name));
    }

    /// When [`Mirror::output`] has something to say even if nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let session = self.session.as_ref()?;
        let (asked, answered) = session.asked?;
        Some(asked + if answered { self.beat } else { PATIENCE })
    }

    /// The next message to send, if there is one now.
    pub(super) fn output(&mut self, now: Instant) -> Result<Option<Vec<u8>>, Over> {
        let Some(session) = &mut self.session else {
            return Ok(None);
        };
        if !session.greeted {
            session.greeted = true;
            session.asked = Some((now, false));
            let tlv = Tlv::Keepalive {
                inactivity: self.beat,
                interval: PATIENCE,
            };
            return Ok(Message::Request { id: KEEPALIVE, tlv }.emit());
        }
        let due = match session.asked {
            Some((asked, false)) if now.saturating_duration_since(asked) >= PATIENCE => {
                return Err(Over::Silent);
            }
            Some((_, false)) => false,
            Some((asked, true)) => now.saturating_duration_since(asked) >= self.beat,
            None => true,
        };
        if !session.established {
            return Ok(None);
        }
        if due
            || (session.asked.is_some_and(|(_, answered)| answered) && !session.accepted.is_empty())
        {
            self.sweep(now);
            return Ok(self.ask(now));
        }
        if let Some(id) = session.over.pop() {
            let tlv = Tlv::Unsubscribe(id);
            return Ok(Message::Unidirectional { code: 0, tlv }.emit());
        }
        while session.unanswered < WINDOW {
            let Some(subscription) = session.queue.pop_front() else {
                break;
            };
            let Some(want) = self.wants.get_mut(&subscription) else {
                continue;
            };
            if want.state != State::New {
                continue;
            }
            let Some(id) = session.free_id() else {
                session.queue.push_front(subscription);
                break;
            };
            want.state = State::Asked;
            session.unanswered += 1;
            session.ids.insert(id, subscription.clone());
            let tlv = Tlv::Subscribe(subscription);
            return Ok(Message::Request { id, tlv }.emit());
        }
        Ok(None)
    }

    /// Asks whether the server is there.
    fn ask(&mut self, now: Instant) -> Option<Vec<u8>> {
        let session = self.session.as_mut()?;
        session.beats += 1;
        session.asked = Some((now, false));
        let mut question = Plain::new(BEAT, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(self.zone.clone(), RecordType::SOA));
        question.to_vec().ok()
    }

    /// Forgets what nobody is interested in.
    fn sweep(&mut self, now: Instant) {
        let Some(session) = &mut self.session else {
            return;
        };
        let over = |want: &Want| want.until.is_some_and(|until| until <= now);
        let (wants, sets, before) = (&mut self.wants, &mut self.sets, &mut self.before);
        session.ids.retain(|id, subscription| {
            let want = wants.get(subscription);
            // What is not answered yet cannot be taken back.
            let gone = want.is_some_and(|want| over(want) && want.state != State::Asked);
            if gone {
                session.over.push(*id);
                wants.remove(subscription);
                sets.remove(&subscription.name);
                before.remove(&subscription.name);
            }
            !gone
        });
        wants.retain(|_, want| !over(want) || want.state == State::Asked);
    }

    /// Takes what has come; what it says of bindings is in the list.
    pub(super) fn input(&mut self, octets: &[u8]) -> Result<Vec<Changed>, Over> {
        if !dso::is_dso(octets) {
            return self.answered(octets);
        }
        let message = Message::parse(octets);
        match message.map_err(|_| Over::Nonsense("a message that cannot be read"))? {
            Message::Response { id, code, .. } => {
                self.response(id, code.into())?;
                Ok(Vec::new())
            }
            Message::Unidirectional { tlv, .. } => match tlv {
                Tlv::Push(news) => Ok(self.news(news)),
                Tlv::RetryDelay(delay) => Err(Over::Delay(delay)),
                Tlv::Keepalive { .. } => Ok(Vec::new()),
                _ => Err(Over::Nonsense("a message that no server sends")),
            },
            Message::Request { .. } => Err(Over::Nonsense("a request")),
        }
    }

    fn response(&mut self, id: u16, code: u16) -> Result<(), Over> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let code = ResponseCode::from(0, code as u8);
        if id == KEEPALIVE {
            if code != ResponseCode::NoError {
                return Err(Over::Refused(code));
            }
            session.established = true;
            session.asked = None;
            return Ok(());
        }
        let subscription = session.ids.get(&id);
        let subscription = subscription.ok_or(Over::Nonsense("a response to nothing"))?;
        let Some(want) = self.wants.get_mut(subscription) else {
            return Ok(());
        };
        if want.state != State::Asked {
            return Err(Over::Nonsense("a response to nothing"));
        }
        session.unanswered = session.unanswered.saturating_sub(1);
        if code == ResponseCode::NoError {
            want.state = State::Accepted(session.beats + 1);
            session.accepted.push(subscription.clone());
        } else {
            want.state = State::Refused;
            session.ids.remove(&id);
        }
        Ok(())
    }

    /// An answer to whether the server is there. What was there in the last session, and is not
    /// in this one, is gone.
    fn answered(&mut self, octets: &[u8]) -> Result<Vec<Changed>, Over> {
        let Some(session) = &mut self.session else {
            return Ok(Vec::new());
        };
        let answer = Plain::from_vec(octets);
        let answer = answer.map_err(|_| Over::Nonsense("an answer that cannot be read"))?;
        let ours = answer.metadata.id == BEAT
            && answer.metadata.message_type == MessageType::Response
            && answer.metadata.op_code == OpCode::Query;
        let Some((asked, false)) = session.asked.filter(|_| ours) else {
            return Err(Over::Nonsense("an answer to nothing"));
        };
        if answer.metadata.response_code != ResponseCode::NoError {
            return Err(Over::Refused(answer.metadata.response_code));
        }
        session.asked = Some((asked, true));
        session.heard = Some(asked);
        let beats = session.beats;
        let (wants, before) = (&mut self.wants, &mut self.before);
        let mut gone = Vec::new();
        session.accepted.retain(|subscription| {
            let Some(want) = wants.get_mut(subscription) else {
                return false;
            };
            match want.state {
                State::Accepted(since) if since > beats => true,
                State::Accepted(_) => {
                    want.state = State::Certain;
                    gone.extend(before.extract_if(|name| subscription.covers(name)));
                    false
                }
                _ => false,
            }
        });
        let homes = gone.iter();
        let homes = homes.filter_map(|name| Whose::of_owner(name, &self.zone));
        let gone = homes.map(|whose| Changed {
            whose,
            binding: None,
        });
        Ok(gone.collect())
    }

    fn news(&mut self, news: Vec<News>) -> Vec<Changed> {
        let mut touched: Vec<Name> = Vec::new();
        for news in news {
            let (name, kind) = match &news {
                News::Added(record) | News::Removed(record) => (&record.name, record.record_type()),
                News::Cleared(name, kind) => (name, *kind),
            };
            let about = matches!(kind, RecordType::SVCB | RecordType::ANY);
            // What was unsubscribed from may be under way still.
            if !about || !self.is_wanted(name) {
                continue;
            }
            let name = name.clone();
            if touched.last() != Some(&name) {
                touched.push(name.clone());
            }
            self.before.remove(&name);
            match news {
                News::Cleared(..) => {
                    self.sets.remove(&name);
                }
                News::Added(record) => {
                    if let RData::SVCB(svcb) = record.data {
                        let set = self.sets.entry(name).or_default();
                        if !set.contains(&svcb) && set.len() < RECORDS {
                            set.push(svcb);
                        }
                    }
                }
                News::Removed(record) => {
                    if let RData::SVCB(svcb) = &record.data
                        && let Some(set) = self.sets.get_mut(&name)
                    {
                        set.retain(|other| other != svcb);
                        if set.is_empty() {
                            self.sets.remove(&name);
                        }
                    }
                }
            }
        }
        touched.sort_unstable();
        touched.dedup();
        let mut changed = Vec::new();
        for name in touched {
            // What is no binding is not certain: the server is asked, and the answer says why.
            if let Some(whose) = Whose::of_owner(&name, &self.zone)
                && let Ok(binding) = self.binding(whose, &name)
            {
                changed.push(Changed { whose, binding });
            }
        }
        changed
    }

    fn is_wanted(&self, name: &Name) -> bool {
        let asked = |want: &Want| want.state != State::New && want.state != State::Refused;
        let at = Subscription::at(name, RecordType::SVCB);
        if self.wants.get(&at).is_some_and(asked) {
            return true;
        }
        let mut all = self.wants.iter().filter(|(s, _)| s.below);
        all.any(|(s, want)| asked(want) && s.covers(name))
    }
}

impl Session {
    fn free_id(&mut self) -> Option<u16> {
        for _ in 0..=u16::MAX {
            self.last_id = self.last_id.checked_add(1).unwrap_or(BEAT + 1);
            if !self.ids.contains_key(&self.last_id) {
                return Some(self.last_id);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::tests::name;
    use hickory_proto::rr::Record;

    const AGE: Duration = Duration::from_secs(1);

    fn home(last: u8) -> Home {
        Home::new([192, 0, 2, last].into()).unwrap()
    }

    fn owner(last: u8) -> Name {
        record::owner(home(last), &name("map.example.")).unwrap()
    }

    fn svcb(last: u8, epoch: u64) -> Record {
        let locator = mat_proto::Locator::new([198, 51, 100, last].into()).unwrap();
        let entry = mat_proto::Entry {
            priority: mat_proto::Priority::ACTIVE,
            locator,
            port: 6283,
            modes: mat_proto::Modes::NATIVE,
        };
        let binding = Binding::new(home(last), mat_proto::Epoch(epoch), 30, vec![entry]).unwrap();
        let records = record::to_records(&binding, &name("map.example."), 0).unwrap();
        records.into_iter().next().unwrap()
    }

    /// The server's side, as far as it matters.
    struct Server {
        mirror: Mirror,
        now: Instant,
        heard: Vec<Message>,
        questions: usize,
    }

    impl Server {
        fn new() -> Self {
            let mut server = Server {
                mirror: Mirror::new(name("map.example."), AGE),
                now: Instant::now(),
                heard: Vec::new(),
                questions: 0,
            };
            server.connect();
            server
        }

        fn connect(&mut self) {
            self.mirror.connected();
            self.listen();
            let greeting = std::mem::take(&mut self.heard);
            assert!(matches!(
                &greeting[..],
                [Message::Request { id: KEEPALIVE, .. }]
            ));
            self.respond(KEEPALIVE, 0).unwrap();
        }

        fn listen(&mut self) {
            while let Some(octets) = self.mirror.output(self.now).unwrap() {
                match Message::parse(&octets) {
                    Ok(message) => self.heard.push(message),
                    Err(_) => self.questions += 1,
                }
            }
        }

        /// The identifier and owner of what has been subscribed to since last looked at.
        fn subscribed(&mut self) -> Vec<(u16, Name)> {
            self.listen();
            let heard = std::mem::take(&mut self.heard);
            let subscribed = heard.into_iter().filter_map(|message| match message {
                Message::Request {
                    id,
                    tlv: Tlv::Subscribe(s),
                } => Some((id, s.name)),
                _ => None,
            });
            subscribed.collect()
        }

        fn respond(&mut self, id: u16, code: u8) -> Result<Vec<Changed>, Over> {
            let tlv = None;
            let message = Message::Response { id, code, tlv };
            self.mirror.input(&message.emit().unwrap())
        }

        /// Answers the question whether it is there, if there is one.
        fn beat(&mut self) {
            self.listen();
            if self.questions > 0 {
                self.questions -= 1;
                let answer = Plain::new(BEAT, MessageType::Response, OpCode::Query);
                self.mirror.input(&answer.to_vec().unwrap()).unwrap();
            }
        }

        fn push(&mut self, news: Vec<News>) -> Vec<Changed> {
            let tlv = Tlv::Push(news);
            let message = Message::Unidirectional { code: 0, tlv };
            self.mirror.input(&message.emit().unwrap()).unwrap()
        }

        fn get(&mut self, last: u8) -> Option<Option<u64>> {
            let known = self.mirror.get(home(last), self.now)?;
            Some(known.map(|binding| binding.epoch().0))
        }
    }

    #[test]
    fn what_is_known_is_certain_only_after_a_question_asked_behind_it() {
        let mut server = Server::new();
        server.beat();
        assert_eq!(server.get(1), None);
        let [(id, owner)] = &server.subscribed()[..] else {
            panic!("one subscription");
        };
        assert_eq!(*owner, self::owner(1));
        // This question goes out before the answer comes, so it proves nothing.
        server.now += AGE / 2;
        server.listen();
        server.respond(*id, 0).unwrap();
        server.beat();
        assert_eq!(server.get(1), None);
        let changed = server.push(vec![News::Added(svcb(1, 5))]);
        assert_eq!(changed[0].whose, home(1).into());
        server.beat();
        assert_eq!(server.get(1), Some(Some(5)));
        // It is replaced, by halves if the server likes, and goes.
        let halves = vec![News::Removed(svcb(1, 5)), News::Added(svcb(1, 6))];
        assert_eq!(server.push(halves).len(), 1);
        assert_eq!(server.get(1), Some(Some(6)));
        server.push(vec![News::Cleared(self::owner(1), RecordType::ANY)]);
        assert_eq!(server.get(1), Some(None));
        // What nobody asked for is passed over.
        assert_eq!(server.push(vec![News::Added(svcb(2, 1))]), []);
        assert_eq!(server.get(2), None);
    }

    #[test]
    fn a_server_that_does_not_answer_knows_nothing() {
        let mut server = Server::new();
        server.get(1);
        let (id, _) = server.subscribed()[0];
        server.respond(id, 0).unwrap();
        server.beat();
        server.beat();
        assert_eq!(server.get(1), Some(None));
        server.now += AGE / 2;
        server.listen();
        assert_eq!(server.get(1), Some(None));
        server.now += AGE;
        assert_eq!(server.get(1), None);
        server.now += PATIENCE;
        assert_eq!(server.mirror.output(server.now), Err(Over::Silent));
        // Nothing of it is believed in the next session.
        server.mirror.disconnected();
        assert_eq!(server.get(1), None);
        server.questions = 0;
        server.connect();
        assert_eq!(server.subscribed().len(), 1);
        assert_eq!(server.get(1), None);
    }

    #[test]
    fn interest_ends_and_what_is_refused_is_asked_for_again_later() {
        let mut server = Server::new();
        server.get(1);
        server.get(2);
        let asked = server.subscribed();
        let refused = asked.iter().find(|(_, name)| *name == owner(2)).unwrap().0;
        let accepted = asked.iter().find(|(_, name)| *name == owner(1)).unwrap().0;
        server.respond(refused, 5).unwrap();
        server.respond(accepted, 0).unwrap();
        for _ in 0..2 * INTEREST.as_secs() {
            server.now += AGE / 2;
            server.beat();
            server.get(2);
        }
        server.now += AGE;
        server.beat();
        server.listen();
        let over = |message: &Message| matches!(message, Message::Unidirectional { tlv: Tlv::Unsubscribe(id), .. } if *id == accepted);
        assert_eq!(server.heard.iter().filter(|m| over(m)).count(), 1);
        server.get(2);
        let again = server.subscribed();
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].1, owner(2));
    }

    #[test]
    fn no_more_is_asked_for_than_is_answered() {
        let mut server = Server::new();
        for n in 1..=250 {
            server.get(n);
        }
        let mut all = 0;
        loop {
            let asked = server.subscribed();
            assert!(asked.len() <= WINDOW);
            all += asked.len();
            if asked.is_empty() {
                break;
            }
            for (id, _) in asked {
                server.respond(id, 0).unwrap();
            }
            server.beat();
        }
        assert_eq!(all, 250);
        assert!(server.respond(3, 0).is_err());
        assert!(server.respond(60_000, 0).is_err());
    }

    #[test]
    fn what_is_gone_after_an_interruption_is_told() {
        let mut server = Server::new();
        let below = name("2.0.192.h4.map.example.");
        server.mirror.follow(&below);
        let accept = |server: &mut Server| {
            let (id, _) = server.subscribed()[0];
            server.respond(id, 0).unwrap();
        };
        accept(&mut server);
        for n in 1..=3 {
            assert_eq!(server.push(vec![News::Added(svcb(n, 1))]).len(), 1);
        }
        server.mirror.disconnected();
        server.questions = 0;
        server.connect();
        accept(&mut server);
        server.push(vec![News::Added(svcb(2, 2))]);
        let mut gone = Vec::new();
        for _ in 0..2 {
            server.listen();
            let answer = Plain::new(BEAT, MessageType::Response, OpCode::Query);
            gone.extend(server.mirror.input(&answer.to_vec().unwrap()).unwrap());
            server.now += AGE;
        }
        gone.sort_by_key(|changed| changed.whose);
        let homes: Vec<Home> = gone.iter().map(|changed| changed.whose.first()).collect();
        assert_eq!(homes, [home(1), home(3)]);
        assert!(gone.iter().all(|changed| changed.binding.is_none()));
    }

    #[test]
    fn a_server_without_push_is_left() {
        let mut mirror = Mirror::new(name("map.example."), AGE);
        mirror.connected();
        mirror.output(Instant::now()).unwrap();
        let message = Message::Response {
            id: KEEPALIVE,
            code: 4,
            tlv: None,
        };
        let over = mirror.input(&message.emit().unwrap());
        assert_eq!(over, Err(Over::Refused(ResponseCode::NotImp)));
    }
}
