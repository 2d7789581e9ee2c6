//! What has become of homes, as the journal has it: who has changed which binding, and when.
//!
//! It only reads, so a mat-mapd may serve meanwhile. It knows what has changed since the journal was
//! last compacted, and what was there then; the log has the rest.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, bail};
use hickory_proto::rr::RecordType;
use ipnet::IpNet;
use mat_proto::{Binding, Whose};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::Config;
use crate::journal::{self, Entry};
use crate::writer::Brief;
use crate::zone::binding_for;

/// Writes a line for each change of the binding of one of `homes` (`None`: any).
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
    let mut bindings: BTreeMap<Whose, Binding> = BTreeMap::new();
    for entry in journal::read_all(&file, &bytes, origin)? {
        let Entry { change, receipt } = entry;
        for ((name, kind), set) in &change.sets {
            let Some(whose) = Whose::of_owner(name, origin) else {
                continue;
            };
            let own = whose.net();
            let asked = |some: IpNet| some.contains(&own) || own.contains(&some);
            if *kind != RecordType::SVCB || !homes.is_none_or(asked) {
                continue;
            }
            let is = set.as_ref().and_then(|set| binding_for(whose, set).ok());
            let was = match &is {
                Some(is) => bindings.insert(whose, is.clone()),
                None => bindings.remove(&whose),
            };
            let (was, is) = (Brief(was.as_ref()), Brief(is.as_ref()));
            match &receipt {
                Some(receipt) => writeln!(
                    out,
                    "{} {} {whose}: {was} -> {is}",
                    signed_at(receipt.time),
                    receipt.key
                )?,
                // Before that nobody remembers.
                None => writeln!(out, "at the last compaction, or imported: {whose}: {is}")?,
            }
        }
    }
    Ok(())
}

/// A time of a signature, Unix seconds, in UTC (RFC 3339).
fn signed_at(unix: u64) -> String {
    let time = i64::try_from(unix).ok();
    let time = time.and_then(|unix| OffsetDateTime::from_unix_timestamp(unix).ok());
    let text = time.and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_else(|| format!("{unix} s after 1970"))
}
