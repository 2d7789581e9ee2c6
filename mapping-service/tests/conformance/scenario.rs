//! A scenario: a text file that says what is sent, and what every server has to make of it.
//!
//! ```text
//! # A comment. What stands at the left edge begins a block; what is indented belongs to it.
//! without knot because it ...             a server that this file is not for, and why
//! start                                   records that are there at first, besides the apex
//!   host 60 A 192.0.2.1
//! update what this step is about          sends one UPDATE
//!   over tcp                              instead of UDP
//!   section empty                         the zone section without the right record
//!   section other.example. IN SOA         one more record in the zone section
//!   counts 1 0 2                          what the header says of the three sections if it lies
//!   prereq yxdomain host                  prerequisites, as in nsupdate: RFC 2136 section 2.4.4
//!   prereq nxdomain host                  2.4.5
//!   prereq yxrrset host A                 2.4.1
//!   prereq yxrrset host A 192.0.2.1       2.4.2; each record by itself
//!   prereq nxrrset host A                 2.4.3
//!   prereq raw host 0 ANY TYPE1 \# 00     whatever can be said: NAME TTL CLASS TYPE [DATA]
//!   add host 60 A 192.0.2.2               updates: 2.5.1
//!   delete host A                         2.5.2
//!   delete host                           2.5.3
//!   delete host A 192.0.2.1               2.5.4
//!   raw host 60 IN A \# c00002            as with prereq
//!   expect NOERROR                        the response code (or SILENCE), never left out
//!     but bind FORMERR because it ...     a server that differs, and why
//!   serial raised                         or kept, or a number: if it has to be said
//!     but knot kept because it ...
//! zone                                    the whole zone after the step before
//!   host 60 A 192.0.2.2                   besides the apex as it was at the start
//!   but bind has www 60 TXT "x" because it ...
//!   but bind lacks host 60 A 192.0.2.2 because it ...
//! ```
//! [`crate::text`] says how records are written. The servers are `mat`, `bind` and `knot`. A
//! difference without a reason is a mistake.
//!
//! What nobody has to write: an update that is refused changes nothing, and the serial rises
//! exactly if the zone changes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::servers::Seat;
use crate::text;
use crate::wire::{Message, Record};

/// No answer at all.
pub const SILENCE: &str = "SILENCE";

/// Response codes as they are written (RFC 2136 section 2.2), and the lack of one.
const CODES: [&str; 12] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET",
    "NXRRSET", "NOTAUTH", "NOTZONE", SILENCE,
];

/// The name of a response code.
pub fn code_name(code: Option<u8>) -> &'static str {
    let known = code.map_or(Some(&SILENCE), |code| CODES.get(usize::from(code)));
    known.unwrap_or(&"another code")
}

/// One file.
#[derive(Default)]
pub struct Scenario {
    /// Who does not play it.
    pub without: Vec<Seat>,
    pub start: Vec<Record>,
    pub steps: Vec<Step>,
}

/// One UPDATE and what it has to come to.
pub struct Step {
    /// Where it begins, and what it is about.
    pub place: String,
    pub message: Message,
    pub tcp: bool,
    code: Option<Expected<&'static str>>,
    pub serial: Option<Expected<Serial>>,
    pub zone: Option<Contents>,
}

/// What becomes of the serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serial {
    Kept,
    Raised,
    Is(u32),
}

/// The same for all, except for some.
pub struct Expected<T> {
    usual: T,
    but: BTreeMap<Seat, T>,
}

impl<T: Copy + PartialEq> Expected<T> {
    fn new(usual: T) -> Self {
        Expected {
            usual,
            but: BTreeMap::new(),
        }
    }

    fn differs(&mut self, seat: Seat, value: T) -> Result<()> {
        let before = self.but.insert(seat, value);
        ensure!(
            value != self.usual && before.is_none(),
            "a difference that is none"
        );
        Ok(())
    }

    pub fn of(&self, seat: Seat) -> T {
        self.but.get(&seat).copied().unwrap_or(self.usual)
    }
}

/// The whole zone but for the apex of the start.
#[derive(Default)]
pub struct Contents {
    pub records: Vec<Record>,
    /// Who has more, or less (`false`).
    pub but: Vec<(Seat, bool, Record)>,
}

impl Scenario {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Scenario> {
        let shown = path.file_name().unwrap_or_default().to_string_lossy();
        Scenario::parse(&shown, &std::fs::read_to_string(path)?)
    }

    fn parse(file: &str, text: &str) -> Result<Scenario> {
        let mut parser = Parser::default();
        for (number, line) in (1..).zip(text.lines()) {
            let place = format!("{file}:{number}");
            let read = parser.line(line, &place);
            read.with_context(|| format!("{place}: {}", line.trim()))?;
        }
        let complete = parser.complete();
        complete.with_context(|| format!("{file}: at its end"))?;
        Ok(parser.scenario)
    }
}

/// What an indented line belongs to.
#[derive(Default)]
enum Block {
    #[default]
    None,
    Start,
    Update,
    Zone,
}

#[derive(Default)]
struct Parser {
    scenario: Scenario,
    block: Block,
}

impl Parser {
    fn line(&mut self, line: &str, place: &str) -> Result<()> {
        let words = text::words(line);
        match words[..] {
            [] => return Ok(()),
            [first, ..] if first.starts_with('#') => return Ok(()),
            _ => {}
        }
        if line.starts_with(char::is_whitespace) {
            return match self.block {
                Block::None => bail!("belongs to nothing"),
                Block::Start => {
                    self.scenario.start.push(text::record(&words)?);
                    Ok(())
                }
                Block::Update => self.step()?.line(&words),
                Block::Zone => {
                    let zone = self.step()?.zone.as_mut();
                    zone.context("no zone block")?.line(&words)
                }
            };
        }
        self.complete()?;
        match words[..] {
            ["without", ..] => {
                let (seat, []) = difference(&words[1..])? else {
                    bail!("write without SERVER because REASON");
                };
                self.scenario.without.push(seat);
            }
            ["start"] => self.block = Block::Start,
            ["update", ..] => {
                self.block = Block::Update;
                self.scenario
                    .steps
                    .push(Step::new(format!("{place} {line}"))?);
            }
            ["zone"] => {
                self.block = Block::Zone;
                let before = self.step()?.zone.replace(Contents::default());
                ensure!(
                    before.is_none(),
                    "the zone after this step stands there already"
                );
            }
            _ => bail!("a block is without, start, update or zone"),
        }
        Ok(())
    }

    fn step(&mut self) -> Result<&mut Step> {
        self.scenario
            .steps
            .last_mut()
            .context("no update before this")
    }

    /// The step that is left behind has everything it needs.
    fn complete(&self) -> Result<()> {
        let last = self.scenario.steps.last();
        ensure!(
            last.is_none_or(|step| step.code.is_some()),
            "the step before has no expect"
        );
        Ok(())
    }
}

impl Step {
    fn new(place: String) -> Result<Step> {
        Ok(Step {
            place,
            message: Message {
                zone: vec![section(&["@", "IN", "SOA"])?],
                ..Message::default()
            },
            tcp: false,
            code: None,
            serial: None,
            zone: None,
        })
    }

    /// The response code that this server has to give.
    pub fn code(&self, seat: Seat) -> &'static str {
        self.code.as_ref().map_or("", |code| code.of(seat))
    }

    fn line(&mut self, words: &[&str]) -> Result<()> {
        let message = &mut self.message;
        match words {
            ["over", "tcp"] => self.tcp = true,
            ["section", "empty"] => message.zone.clear(),
            ["section", words @ ..] => message.zone.push(section(words)?),
            ["counts", zone, prerequisites, updates] => {
                let counts = [zone.parse()?, prerequisites.parse()?, updates.parse()?];
                message.counts = Some(counts);
            }
            ["prereq", words @ ..] => message.prerequisites.push(prerequisite(words)?),
            ["add", words @ ..] => message.updates.push(text::record(words)?),
            ["delete", words @ ..] => message.updates.push(deletion(words)?),
            ["raw", words @ ..] => message.updates.push(text::raw(words)?),
            ["expect", code] => self.code = Some(Expected::new(known_code(code)?)),
            ["serial", word] => self.serial = Some(Expected::new(serial(word)?)),
            ["but", words @ ..] => {
                let (seat, words) = difference(words)?;
                let [word] = words else {
                    bail!("write but SERVER WORD because REASON");
                };
                match (&mut self.serial, &mut self.code) {
                    (Some(expected), _) => expected.differs(seat, serial(word)?)?,
                    (None, Some(expected)) => expected.differs(seat, known_code(word)?)?,
                    (None, None) => bail!("but of what?"),
                }
            }
            _ => bail!("no such line in an update"),
        }
        Ok(())
    }
}

impl Contents {
    fn line(&mut self, words: &[&str]) -> Result<()> {
        let ["but", words @ ..] = words else {
            self.records.push(text::record(words)?);
            return Ok(());
        };
        let (seat, words) = difference(words)?;
        let (has, words) = match words {
            ["has", words @ ..] => (true, words),
            ["lacks", words @ ..] => (false, words),
            _ => bail!("write but SERVER has|lacks RECORD because REASON"),
        };
        self.but.push((seat, has, text::record(words)?));
        Ok(())
    }
}

/// `SERVER ... because REASON`: the server, and what is between.
fn difference<'w>(words: &'w [&'w str]) -> Result<(Seat, &'w [&'w str])> {
    let end = words.iter().position(|word| *word == "because");
    let end = end
        .filter(|end| end + 1 < words.len())
        .context("a difference needs a reason: because ...")?;
    let seat = Seat::ALL
        .into_iter()
        .find(|seat| words.first() == Some(&seat.name()));
    Ok((
        seat.context("the servers are mat, bind and knot")?,
        &words[1..end],
    ))
}

fn known_code(word: &str) -> Result<&'static str> {
    let known = CODES.into_iter().find(|code| *code == word);
    known.with_context(|| format!("{word:?} is no response code"))
}

fn serial(word: &str) -> Result<Serial> {
    Ok(match word {
        "kept" => Serial::Kept,
        "raised" => Serial::Raised,
        number => Serial::Is(number.parse().context("serial kept, raised or a number")?),
    })
}

fn section(words: &[&str]) -> Result<Record> {
    let [name, class, kind] = words else {
        bail!("write NAME CLASS TYPE");
    };
    text::raw(&[*name, "0", *class, *kind])
}

fn prerequisite(words: &[&str]) -> Result<Record> {
    match words {
        ["raw", words @ ..] => text::raw(words),
        ["yxdomain", name] => text::raw(&[*name, "0", "ANY", "ANY"]),
        ["nxdomain", name] => text::raw(&[*name, "0", "NONE", "ANY"]),
        ["yxrrset", name, kind] => text::raw(&[*name, "0", "ANY", *kind]),
        ["nxrrset", name, kind] => text::raw(&[*name, "0", "NONE", *kind]),
        ["yxrrset", name, kind, data @ ..] => {
            text::raw(&[&[*name, "0", "IN", *kind][..], data].concat())
        }
        _ => bail!("a prerequisite is yxdomain, nxdomain, yxrrset, nxrrset or raw"),
    }
}

fn deletion(words: &[&str]) -> Result<Record> {
    match words {
        [name] => text::raw(&[*name, "0", "ANY", "ANY"]),
        [name, kind] => text::raw(&[*name, "0", "ANY", *kind]),
        [name, kind, data @ ..] => text::raw(&[&[*name, "0", "NONE", *kind][..], data].concat()),
        [] => bail!("delete what?"),
    }
}

#[test]
fn mistakes_name_file_line_and_what_is_wrong() {
    let step = "update something\n  add host 60 TXT x\n";
    let cases = [
        (
            "  add host 60 TXT x",
            "a.txt:1: add host 60 TXT x: belongs to nothing",
        ),
        ("upgrade", "a.txt:1: upgrade: a block is"),
        (
            "update\n  add host 60 TXTT x",
            "a.txt:2: add host 60 TXTT x: \"TXTT\" is none of",
        ),
        ("update\n  add host 6O TXT x", "\"6O\" is no TTL"),
        (
            "update\n  expect NOERR",
            "a.txt:2: expect NOERR: \"NOERR\" is no response code",
        ),
        (
            "update\n  but bind NOERROR because",
            "a difference needs a reason",
        ),
        (
            "update\n  but bimd NOERROR because so",
            "the servers are mat, bind and knot",
        ),
        ("zone", "a.txt:1: zone: no update before this"),
        (step, "a.txt: at its end: the step before has no expect"),
    ];
    for (text, wanted) in cases {
        let error = Scenario::parse("a.txt", text).err();
        let error = error.map_or(String::new(), |error| format!("{error:#}"));
        assert!(error.contains(wanted), "{error}\nshould contain\n{wanted}");
    }
    let unjustified = [
        "expect NOERROR\n  but bind REFUSED",
        "expect NOERROR\nzone\n  but mat has x 0 TXT x",
    ];
    for rest in unjustified {
        assert!(
            Scenario::parse("a.txt", &format!("{step}  {rest}")).is_err(),
            "{rest}"
        );
    }
}
