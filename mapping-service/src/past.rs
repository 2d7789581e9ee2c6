//! Who has changed which binding of late, and when. Pure.
//!
//! The latest [`STEPS`] changes are kept, across compactions of the journal, and told to keys that
//! may make them and read the binding. The question is one of class CH for TXT, as those for what
//! a server knows of itself are (RFC 4892), so `dig` can ask it: at the owner of a home or of a
//! prefix, at the zone's own name for all, or at a label below it that is any prefix as text. Each
//! record of the answer is a line, oldest first.
//!
//! # Limitations
//! A start takes them from the last 8 MiB of the journal, which has those since its last compaction
//! or import; the log has all. What changed during a compaction is told as from `unknown` then, or
//! as if it had been made or withdrawn, if the snapshot had it already. An answer has the latest
//! that one message holds, some 500.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use hickory_proto::ProtoError;
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::IpNet;
use mat_proto::{Binding, Epoch, Priority, Whose};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::replay::Receipt;
use crate::zone::{Change, Move, RrSet, binding_for};

/// Changes kept at most: some 8 MB, and 30 if each is of eight IPv6 locators.
pub const STEPS: usize = 1 << 15;

/// Octets of the journal's end in which a start looks for them: as many usual ones.
pub(crate) const TAIL: usize = STEPS * 256;

/// In place of what does not fit.
const OLDER: &str = "older changes are left out";

/// Octets of records in an answer, which go into one message by TCP with all that is around them.
const ANSWER: usize = 60_000;

/// Octets of a record beside its text, and of as many pieces of a text as there ever are.
const RECORD: usize = 32;

/// What is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Oldest first.
    pub steps: Vec<Step>,
    /// Whether older ones are known and did not fit the answer.
    pub older: bool,
}

impl Told {
    /// The epoch that the binding of `whose` had when it was withdrawn, if that is the latest that
    /// is told of it.
    pub fn withdrawn_at(&self, whose: Whose) -> Option<Epoch> {
        let last = self.steps.iter().rfind(|step| step.whose == whose)?;
        let (_, epoch) = last.was.rsplit_once('@')?;
        (*last.is == *NOTHING).then_some(())?;
        epoch.parse().ok().map(Epoch)
    }
}

/// A change of a binding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// When it was signed (RFC 3339, UTC).
    pub time: Box<str>,
    /// The key that signed it.
    pub key: Box<str>,
    /// Whose binding.
    #[serde(rename = "home")]
    pub whose: Whose,
    /// The binding before, as [`Brief`] has it.
    pub was: Box<str>,
    /// The binding after.
    pub is: Box<str>,
}

impl Step {
    /// What `step` did, which came with this receipt.
    pub fn of(step: &Move, receipt: &Receipt) -> Self {
        Step::new(step.whose, receipt, step.from.as_ref(), step.to.as_ref())
    }

    /// Whether something is different: not the TTL alone.
    pub fn is_change(&self) -> bool {
        self.was != self.is
    }

    fn new(whose: Whose, receipt: &Receipt, was: Option<&Binding>, is: Option<&Binding>) -> Self {
        Step {
            time: signed_at(receipt.time).into(),
            key: receipt.key.to_string().into(),
            whose,
            was: Brief(was).to_string().into(),
            is: Brief(is).to_string().into(),
        }
    }
}

/// The sets of bindings that an entry of the journal changes, with their owners; `None`: to nothing.
pub(crate) fn bindings_in<'c>(
    change: &'c Change,
    origin: &'c Name,
) -> impl Iterator<Item = (&'c Name, Whose, Option<&'c RrSet>)> + 'c {
    change.sets.iter().filter_map(|((name, kind), set)| {
        let whose = Whose::of_owner(name, origin).filter(|_| *kind == RecordType::SVCB)?;
        Some((name, whose, set.as_ref()))
    })
}

/// The step from `was` to `is` that an entry of the journal with this receipt tells of; `None` if
/// it changed the TTL alone. What stands behind a snapshot may be in it already, and then it has not
/// been that.
pub(crate) fn journaled(
    whose: Whose,
    receipt: &Receipt,
    was: Option<&RrSet>,
    is: Option<&RrSet>,
) -> Option<Step> {
    let binding = |set| binding_for(whose, set).ok();
    let bindings = (was.and_then(binding), is.and_then(binding));
    let mut step = Step::new(whose, receipt, bindings.0.as_ref(), bindings.1.as_ref());
    if let (Some(was), Some(is)) = bindings
        && was.epoch() >= is.epoch()
    {
        step.was = "unknown".into();
    }
    let same = was
        .zip(is)
        .is_some_and(|(was, is)| was.data == is.data && was.ttl != is.ttl);
    (!same).then_some(step)
}

impl fmt::Display for Step {
    /// `2026-11-28T20:14:50Z site-a. 192.0.2.10: 198.51.100.1@4 -> 203.0.113.1@5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}: ", self.time, self.key, self.whose)?;
        write!(f, "{} -> {}", self.was, self.is)
    }
}

impl FromStr for Step {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let (time, rest) = line.split_once(' ').ok_or(())?;
        let (key, rest) = rest.split_once(' ').ok_or(())?;
        let (whose, rest) = rest.split_once(": ").ok_or(())?;
        let (was, is) = rest.split_once(" -> ").ok_or(())?;
        Ok(Step {
            time: time.into(),
            key: key.into(),
            whose: whose.parse().map_err(drop)?,
            was: was.into(),
            is: is.into(),
        })
    }
}

/// The homes that a question at `name` is for: `Some(None)` for all, `None` for none.
pub(crate) fn asked(name: &Name, origin: &Name) -> Option<Option<IpNet>> {
    if name == origin {
        return Some(None);
    }
    if let Some(whose) = Whose::of_owner(name, origin) {
        return Some(Some(whose.net()));
    }
    let below = origin.zone_of(name) && name.num_labels() == origin.num_labels() + 1;
    let label = below.then(|| name.iter().next()).flatten()?;
    Some(Some(std::str::from_utf8(label).ok()?.parse().ok()?))
}

/// Where to ask for `homes`, in any prefix.
pub(crate) fn asked_at(homes: Option<IpNet>, origin: &Name) -> Result<Name, ProtoError> {
    match homes {
        None => Ok(origin.clone()),
        Some(homes) => origin.prepend_label(homes.to_string().as_bytes()),
    }
}

/// The latest changes.
#[derive(Debug, Default)]
pub struct Past(VecDeque<Step>);

impl Past {
    /// Notes a change.
    pub fn note(&mut self, step: Step) {
        if self.0.len() >= STEPS {
            self.0.pop_front();
        }
        self.0.push_back(step);
    }

    /// Those that are `wanted`, oldest first, as records at `asked`. If there are more than an
    /// answer holds, the first record says so.
    pub fn records(&self, asked: &Name, wanted: impl Fn(Whose) -> bool) -> Vec<Record> {
        let all = self.0.iter().rev().filter(|step| wanted(step.whose));
        let mut room = ANSWER;
        let mut lines = Vec::new();
        for step in all {
            let line = step.to_string();
            let Some(rest) = room.checked_sub(line.len() + RECORD) else {
                lines.push(OLDER.to_owned());
                break;
            };
            room = rest;
            lines.push(line);
        }
        lines.reverse();
        let record = |line: String| {
            // A string in it has 255 octets at most (RFC 1035 section 3.3).
            let pieces = line.as_bytes().chunks(255).collect();
            let mut record =
                Record::from_rdata(asked.clone(), 0, RData::TXT(TXT::from_bytes(pieces)));
            record.dns_class = DNSClass::CH;
            record
        };
        lines.into_iter().map(record).collect()
    }
}

/// What an answer tells; `None` if something else.
pub(crate) fn read(records: &[Record]) -> Option<Told> {
    let mut told = Told::default();
    for record in records {
        let RData::TXT(text) = &record.data else {
            return None;
        };
        let text = text.txt_data.concat();
        match std::str::from_utf8(&text).ok()? {
            OLDER => told.older = true,
            line => told.steps.push(line.parse().ok()?),
        }
    }
    Some(told)
}

/// The word for no binding.
const NOTHING: &str = "nothing";

/// A binding in one word: `198.51.100.7@1795420470`, standby in brackets.
pub(crate) struct Brief<'b>(pub(crate) Option<&'b Binding>);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(binding) = self.0 else {
            return f.write_str(NOTHING);
        };
        for (i, entry) in binding.entries().iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match entry.priority {
                Priority::ACTIVE => write!(f, "{comma}{}", entry.locator)?,
                _ => write!(f, "{comma}[{}]", entry.locator)?,
            }
        }
        write!(f, "@{}", binding.epoch())
    }
}

/// A time of a signature, Unix seconds, in UTC (RFC 3339).
fn signed_at(unix: u64) -> String {
    let time = i64::try_from(unix).ok();
    let time = time.and_then(|unix| OffsetDateTime::from_unix_timestamp(unix).ok());
    let text = time.and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_else(|| format!("{unix}-s-after-1970"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(time: u64) -> Receipt {
        Receipt {
            key: Name::from_ascii("site-a.").unwrap(),
            time,
            mac: vec![1],
        }
    }

    fn at(whose: Whose, epoch: u64) -> Binding {
        let locator = match whose.net() {
            IpNet::V4(_) => "198.51.100.7",
            IpNet::V6(_) => "2001:db8:a::7",
        };
        let locator = locator.parse().unwrap();
        Binding::single(whose.first(), Epoch(epoch), 30, locator, 6283).unwrap()
    }

    fn step(home: &str, epoch: u64) -> Step {
        let whose: Whose = home.parse().unwrap();
        let (from, to) = (Some(at(whose, epoch)), Some(at(whose, epoch + 1)));
        let step = Move {
            whose,
            from,
            to,
            displaced_from: None,
        };
        Step::of(&step, &receipt(epoch))
    }

    #[test]
    fn a_line_is_read_as_it_is_written() {
        for home in ["192.0.2.10", "192.0.2.0/24", "2001:db8::1"] {
            let step = step(home, 1_800_000_000);
            let line = step.to_string();
            assert!(line.starts_with("2027-01-15T08:00:00Z "), "{line}");
            assert_eq!(line.parse(), Ok(step), "{line}");
        }
        for text in ["", OLDER, "a b c: d", "a b 192.0.2.1: d"] {
            assert!(text.parse::<Step>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_oldest_is_forgotten_and_what_is_not_wanted_is_not_told() {
        let mut past = Past::default();
        for epoch in 0..STEPS as u64 + 3 {
            past.note(step(&format!("192.0.2.{}", epoch % 2), epoch));
        }
        assert_eq!(past.0.len(), STEPS);
        assert_eq!(&past.0[0].was[..], "198.51.100.7@3");
        let one: Whose = "192.0.2.1".parse().unwrap();
        let told = read(&past.records(&Name::root(), |whose| whose == one)).unwrap();
        assert!(told.older && told.steps.len() > 400);
        assert!(told.steps.iter().all(|step| step.whose == one));
        let epochs: Vec<_> = told.steps.iter().map(|step| step.is.clone()).collect();
        assert!(epochs.is_sorted(), "{epochs:?}");
        assert_eq!(&epochs.last().unwrap()[..], "198.51.100.7@32770");
    }

    #[test]
    fn an_answer_fits_a_message_however_long_its_lines_are() {
        let mut past = Past::default();
        for epoch in 0..2000 {
            past.note(Step {
                is: "x".repeat(epoch).into(),
                ..step("192.0.2.1", 1)
            });
        }
        let asked = Name::from_ascii("a".repeat(60) + ".example.").unwrap();
        let records = past.records(&asked, |_| true);
        let mut message = hickory_proto::op::Message::query();
        message.add_query(hickory_proto::op::Query::query(asked, RecordType::TXT));
        message.answers = records;
        assert!(message.to_vec().unwrap().len() < 62_000);
        let told = read(&message.answers).unwrap();
        assert!(told.older && told.steps.len() > 25);
    }

    #[test]
    fn the_epoch_of_a_withdrawal_is_that_of_what_was() {
        let whose: Whose = "192.0.2.1".parse().unwrap();
        let (one, two) = (at(whose, 7), at(whose, 8));
        let told = |steps: &[(Option<&Binding>, Option<&Binding>)]| Told {
            steps: (steps.iter())
                .map(|(was, is)| Step::new(whose, &receipt(1), *was, *is))
                .collect(),
            older: false,
        };
        let gone = told(&[(Some(&one), None), (None, Some(&two)), (Some(&two), None)]);
        assert_eq!(gone.withdrawn_at(whose), Some(Epoch(8)));
        assert_eq!(gone.withdrawn_at("192.0.2.2".parse().unwrap()), None);
        assert_eq!(
            told(&[(Some(&one), None), (None, Some(&two))]).withdrawn_at(whose),
            None
        );
    }

    #[test]
    fn a_question_is_for_the_homes_that_its_name_says() {
        let origin = Name::from_ascii("map.example.").unwrap();
        for homes in ["192.0.2.10/32", "192.0.2.32/27", "2001:db8:1::/47"] {
            let homes: IpNet = homes.parse().unwrap();
            let name = asked_at(Some(homes), &origin).unwrap();
            assert_eq!(asked(&name, &origin), Some(Some(homes)));
        }
        assert_eq!(asked_at(None, &origin).unwrap(), origin);
        assert_eq!(asked(&origin, &origin), Some(None));
        let at = |text: &str| asked(&Name::from_ascii(text).unwrap(), &origin);
        let home = Some("192.0.2.10/32".parse().unwrap());
        assert_eq!(at("10.2.0.192.h4.MAP.example."), Some(home));
        for text in [
            "example.",
            "www.map.example.",
            "h4.map.example.",
            "a.b.map.example.",
        ] {
            assert_eq!(at(text), None, "{text}");
        }
    }

    #[test]
    fn what_the_snapshot_had_already_is_not_said_to_be_what_was() {
        let whose: Whose = "192.0.2.1".parse().unwrap();
        let set = |epoch, ttl| RrSet {
            ttl,
            data: whose
                .to_svcb(&at(whose, epoch))
                .into_iter()
                .map(RData::SVCB)
                .collect(),
        };
        let step = |was: Option<RrSet>, is| {
            let step = journaled(whose, &receipt(1), was.as_ref(), Some(&is))?;
            Some(step.was.into_string())
        };
        let was = |was, is| step(Some(set(was, 0)), set(is, 0)).unwrap();
        assert_eq!(was(4, 5), "198.51.100.7@4");
        assert_eq!(was(5, 5), "unknown");
        assert_eq!(was(7, 5), "unknown");
        assert_eq!(step(None, set(1, 0)).unwrap(), "nothing");
        assert_eq!(step(Some(set(5, 0)), set(5, 3)), None);
    }
}
