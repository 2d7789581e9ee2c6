//! What one journal entry holds, and its bytes. Pure.
//!
//! ```text
//! entry    = deleted | records | buried | receipt
//! deleted  = count (4) { name | type (2) }
//! records  = count (4) { length (4) | record in DNS wire form }
//! buried   = count (4) { name | epoch (8) }
//! receipt  = 0 | 1 key name | time (8) | length (2) | MAC
//! name     = length (2) | uncompressed DNS wire form
//! ```
//! All numbers are big-endian. A set's records stand together and replace it.

use hickory_proto::ProtoError;
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinEncodable, BinEncoder};
use mat_proto::Epoch;

use crate::replay::Receipt;
use crate::zone::{Change, RrSet, emit_record};

/// A change and the update it came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// What changed. Its `moves` are not stored.
    pub change: Change,
    /// The signed update that asked for it, so that it is known after a restart.
    pub receipt: Option<Receipt>,
}

/// Why an entry cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// A record that has no wire form.
    #[error("a record cannot be encoded: {0}")]
    Encode(#[from] ProtoError),
    /// Sound bytes with another meaning.
    #[error("an entry that this release cannot read (written by a newer one?)")]
    Unknown,
}

impl From<Change> for Entry {
    fn from(change: Change) -> Self {
        Entry {
            change,
            receipt: None,
        }
    }
}

impl From<Receipt> for Entry {
    fn from(receipt: Receipt) -> Self {
        Entry {
            change: Change::default(),
            receipt: Some(receipt),
        }
    }
}

impl Entry {
    /// Its bytes.
    pub fn encode(&self) -> Result<Vec<u8>, EntryError> {
        let mut deleted = (0u32, Vec::new());
        let mut records = (0u32, Vec::new());
        let mut record = Vec::new();
        for ((name, kind), set) in &self.change.sets {
            let Some(set) = set else {
                deleted.0 += 1;
                put_name(&mut deleted.1, name)?;
                deleted.1.extend_from_slice(&u16::from(*kind).to_be_bytes());
                continue;
            };
            for data in &set.data {
                record.clear();
                emit_record(&mut BinEncoder::new(&mut record), name, set.ttl, data)?;
                records.0 += 1;
                records
                    .1
                    .extend_from_slice(&(record.len() as u32).to_be_bytes());
                records.1.extend_from_slice(&record);
            }
        }
        let mut out = Vec::new();
        for (count, bytes) in [deleted, records] {
            out.extend_from_slice(&count.to_be_bytes());
            out.extend_from_slice(&bytes);
        }
        out.extend_from_slice(&(self.change.buried.len() as u32).to_be_bytes());
        for (name, epoch) in &self.change.buried {
            put_name(&mut out, name)?;
            out.extend_from_slice(&epoch.0.to_be_bytes());
        }
        match &self.receipt {
            None => out.push(0),
            Some(receipt) => {
                out.push(1);
                put_name(&mut out, &receipt.key)?;
                out.extend_from_slice(&receipt.time.to_be_bytes());
                out.extend_from_slice(&(receipt.mac.len() as u16).to_be_bytes());
                out.extend_from_slice(&receipt.mac);
            }
        }
        Ok(out)
    }

    /// Reads what [`Entry::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let mut reader = Reader(bytes);
        let entry = reader.entry().ok_or(EntryError::Unknown)?;
        match reader.0 {
            [] => Ok(entry),
            _ => Err(EntryError::Unknown),
        }
    }
}

fn put_name(out: &mut Vec<u8>, name: &Name) -> Result<(), EntryError> {
    let wire = name.to_bytes()?;
    out.extend_from_slice(&(wire.len() as u16).to_be_bytes());
    out.extend_from_slice(&wire);
    Ok(())
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn entry(&mut self) -> Option<Entry> {
        // In their order: a map is made of them at once, since to insert them one by one is
        // much of the time that a start takes.
        let mut sets: Vec<((Name, RecordType), Option<RrSet>)> = Vec::new();
        for _ in 0..self.u32()? {
            let name = self.name()?;
            let kind = RecordType::from(self.u16()?);
            sets.push(((name, kind), None));
        }
        for _ in 0..self.u32()? {
            let len = self.u32()?;
            let record = Record::from_bytes(self.take(len as usize)?).ok()?;
            let kind = record.record_type();
            match sets.last_mut() {
                Some(((name, of), Some(set))) if *of == kind && *name == record.name => {
                    set.data.push(record.data);
                }
                _ => {
                    let set = RrSet {
                        ttl: record.ttl,
                        data: vec![record.data],
                    };
                    sets.push(((record.name, kind), Some(set)));
                }
            }
        }
        let mut change = Change {
            sets: sets.into_iter().collect(),
            ..Change::default()
        };
        for _ in 0..self.u32()? {
            let name = self.name()?;
            change.buried.insert(name, Epoch(self.u64()?));
        }
        let receipt = match self.take(1)? {
            [0] => None,
            [1] => {
                let key = self.name()?;
                let time = self.u64()?;
                let len = self.u16()?;
                let mac = self.take(len.into())?.to_vec();
                Some(Receipt { key, time, mac })
            }
            _ => return None,
        };
        Some(Entry { change, receipt })
    }

    fn take(&mut self, len: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    fn name(&mut self) -> Option<Name> {
        let len = self.u16()?;
        Name::from_bytes(self.take(len.into())?).ok()
    }
}
