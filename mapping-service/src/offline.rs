//! What is done with the journal by hand: zone files in and out while no mat-mapd serves from it,
//! and what has become of homes at any time, as far as it goes back.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, bail};
use hickory_proto::op::Query;
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use ipnet::IpNet;
use mat_proto::Whose;

use crate::clock::unix_now;
use crate::config::Config;
use crate::daemon::{Recovered, recover};
use crate::journal;
use crate::past;
use crate::policy::overlap;
use crate::writer::{Shared, write_snapshot};
use crate::zone::update::{Draft, Refusal, Update};
use crate::zone::{RrSet, View as _, binding_for, lower};
use crate::zonefile;

/// Records whose sets are checked at a time: only memory sets a bound.
const PORTION: usize = 1024;

/// Takes what stands in the zone file `path` into the zone, each set in place of what it holds
/// there: all of it, or nothing. The apex stays that of the configuration. A place that is another
/// home's in the zone and is to change hands within the file may be refused, or taken from the other
/// home first: portions are checked one after the other.
///
/// # Errors
/// A mistake in either file, a set that the rules for home addresses forbid (an epoch that
/// falls, say), or the journal cannot be used. Nothing has been changed.
pub fn import(config: &Path, path: &Path) -> anyhow::Result<String> {
    let config = Config::load(config)?;
    let origin = config.apex.origin.clone();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{}: cannot be read", path.display()))?;
    let records = zonefile::parse(&text, &origin)
        .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    let Recovered {
        mut zone,
        replay,
        past,
        mut journal,
    } = recover(&config)?;
    let of_apex = |record: &Record| {
        matches!(record.record_type(), RecordType::SOA | RecordType::NS)
            && lower(&record.name) == origin
    };
    let records: Vec<Record> = records.into_iter().filter(|r| !of_apex(r)).collect();
    let same_set = |a: &Record, b: &Record| a.name == b.name && a.record_type() == b.record_type();
    let sets: Vec<&[Record]> = records.chunk_by(same_set).collect();
    let mut changed = 0;
    for portion in sets.chunks(PORTION) {
        let update = replacing(&origin, portion);
        let change = Draft::new(&zone)
            .update::<Refusal>(&update, |_| Ok(()))
            .with_context(|| format!("{}: nothing was imported", path.display()))?;
        // The serial is no set of the file.
        changed += change.sets.len().saturating_sub(1);
        zone.apply(change);
        // What an update passes over in silence is a mistake in a file.
        for set in portion {
            let [first, ..] = set else { continue };
            let held = zone.set(&lower(&first.name), first.record_type());
            if held.is_none_or(|held| set.iter().any(|r| !held.data.contains(&r.data))) {
                bail!(
                    "{}: {} {}: not to be had beside the rest (a CNAME stands alone, and not at \
                     the apex); nothing was imported",
                    path.display(),
                    first.name,
                    first.record_type()
                );
            }
        }
    }
    let (bindings, others) = zone.count();
    let said = format!(
        "{} sets read, {changed} changed; the zone has {bindings} bindings and {others} other \
         names, serial {}",
        sets.len(),
        zone.serial()
    );
    if changed > 0 {
        // Written beside and renamed: whole, or not at all.
        let shared = Shared::new(zone, replay, past);
        let new = write_snapshot(&shared, journal.begin_compaction()?, unix_now())?;
        journal.adopt(new)?;
    }
    Ok(said)
}

/// An update that puts sets in the place of those of the same name and type.
fn replacing(origin: &Name, sets: &[&[Record]]) -> Update {
    let mut updates = Vec::new();
    for set in sets {
        if let Some(first) = set.first() {
            let mut delete = Record::update0(first.name.clone(), 0, first.record_type());
            delete.dns_class = DNSClass::ANY;
            updates.push(delete);
        }
        updates.extend(set.iter().cloned());
    }
    Update {
        zone: vec![Query::query(origin.clone(), RecordType::SOA)],
        prerequisites: Vec::new(),
        updates,
    }
}

/// Writes the zone as a zone file.
///
/// # Errors
/// The journal is not there or in use (then `dig AXFR` shows the zone), or `out` fails.
pub fn export(config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let config = Config::load(config)?;
    if !config.data_dir.join("journal").exists() {
        bail!(
            "{} holds no journal: nothing has ever been served from there",
            config.data_dir.display()
        );
    }
    let Recovered { zone, .. } = recover(&config)?;
    let soa = |record: &Record| record.record_type() == RecordType::SOA;
    // Other servers want the SOA first.
    let (first, rest): (Vec<Record>, Vec<Record>) = zone.records().partition(soa);
    for record in first.iter().chain(&rest) {
        writeln!(out, "{}", zonefile::print(record))?;
    }
    Ok(())
}

/// Writes a line for each change of the binding of one of `homes` (`None`: any), as far back as the
/// last compaction. It only reads, so a mat-mapd may serve meanwhile.
///
/// # Errors
/// The configuration or the journal cannot be read, or `out` fails.
pub fn history(config: &Path, homes: Option<IpNet>, out: &mut impl Write) -> anyhow::Result<()> {
    let config = Config::load(config)?;
    let file = config.data_dir.join("journal");
    if !file.exists() {
        bail!(
            "{} is not there: nothing has ever been served",
            file.display()
        );
    }
    let bytes =
        std::fs::read(&file).with_context(|| format!("{}: cannot be read", file.display()))?;
    let origin = &config.apex.origin;
    let mut bindings: BTreeMap<Whose, RrSet> = BTreeMap::new();
    for journal::Entry { change, receipt } in journal::read_all(&file, &bytes, origin)? {
        for (_, whose, is) in past::bindings_in(&change, origin) {
            if !homes.is_none_or(|homes| overlap(homes, whose.net())) {
                continue;
            }
            let was = match is {
                Some(is) => bindings.insert(whose, is.clone()),
                None => bindings.remove(&whose),
            };
            match &receipt {
                Some(receipt) => {
                    if let Some(step) = past::journaled(whose, receipt, was.as_ref(), is) {
                        writeln!(out, "{step}")?;
                    }
                }
                // Before that nobody remembers.
                None => {
                    let is = is.and_then(|set| binding_for(whose, set).ok());
                    let is = past::Brief(is.as_ref());
                    writeln!(out, "at the last compaction, or imported: {whose}: {is}")?;
                }
            }
        }
    }
    Ok(())
}
