//! Plays a scenario to a server and compares.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::scenario::{Contents, SILENCE, Scenario, Serial, Step, code_name};
use crate::servers::{APEX, Seat, Server};
use crate::text;
use crate::wire::{self, Message, PATIENCE, Record};

/// Who has not answered by now will not: a server that answers does so in milliseconds.
const HUSH: Duration = Duration::from_millis(300);

/// What is not as the scenario has it, line by line.
pub fn play(scenario: &Scenario, seat: Seat) -> Result<Vec<String>> {
    let server = seat.start();
    let mut wrong = Vec::new();
    if !scenario.start.is_empty() {
        let message = Message {
            zone: vec![text::raw(&["@", "0", "IN", "SOA"])?],
            updates: scenario.start.clone(),
            ..Message::default()
        };
        let code = wire::update(server.address, &Seat::key(), &message, true, PATIENCE)?;
        let code = code_name(code);
        ensure!(code == "NOERROR", "start: {code}\n{}", server.log());
    }
    for step in &scenario.steps {
        let place = format!("{}: {}", seat.name(), step.place);
        let found = take(step, seat, &server);
        let found = found.with_context(|| format!("{place}\n{}", server.log()))?;
        wrong.extend(found.iter().map(|what| format!("{place}\n    {what}")));
    }
    Ok(wrong)
}

fn take(step: &Step, seat: Seat, server: &Server) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let (address, key) = (server.address, Seat::key());
    let wanted = step.code(seat);
    let patience = match wanted {
        SILENCE => HUSH,
        _ => PATIENCE,
    };
    let before = wire::transfer(address, &key)?;
    let code = wire::update(address, &key, &step.message, step.tcp, patience)?;
    let after = wire::transfer(address, &key)?;
    let code = code_name(code);
    if code != wanted {
        wrong.push(format!("{code}, not {wanted}"));
    }
    let changed = before.records != after.records;
    if changed && code != "NOERROR" {
        wrong.push("refused, and has changed the zone".to_owned());
    }
    let usual = match changed {
        true => Serial::Raised,
        false => Serial::Kept,
    };
    let serial = step.serial.as_ref().map_or(usual, |serial| serial.of(seat));
    let moved = after.serial.wrapping_sub(before.serial);
    let right = match serial {
        Serial::Kept => moved == 0 && !changed,
        // RFC 1982 section 3.2.
        Serial::Raised => (1..1 << 31).contains(&moved),
        Serial::Is(serial) => after.serial == serial,
    };
    if !right {
        wrong.push(format!(
            "serial {} became {}, not {serial:?}; zone changed: {changed}",
            before.serial, after.serial
        ));
    }
    if let Some(zone) = &step.zone {
        let wanted = expected(zone, seat)?;
        let more = after.records.difference(&wanted);
        wrong.extend(more.map(|record| format!("has {record}")));
        let less = wanted.difference(&after.records);
        wrong.extend(less.map(|record| format!("lacks {record}")));
    }
    Ok(wrong)
}

/// The zone that this server should have.
fn expected(zone: &Contents, seat: Seat) -> Result<BTreeSet<Record>> {
    let apex = APEX.iter().map(|line| text::record(&text::words(line)));
    let mut records: BTreeSet<Record> = apex.collect::<Result<_>>()?;
    records.extend(zone.records.iter().cloned());
    let mut records: BTreeSet<Record> = records.into_iter().map(Record::lowered).collect();
    for (_, has, record) in zone.but.iter().filter(|(of, ..)| *of == seat) {
        let record = record.clone().lowered();
        let news = match has {
            true => records.insert(record),
            false => records.remove(&record),
        };
        ensure!(news, "a difference that is none");
    }
    Ok(records)
}
