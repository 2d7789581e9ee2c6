//! The journal: changes on disk before anybody hears of them.
//!
//! One file, `journal`, of framed entries: the zone it belongs to, a snapshot,
//! then every committed change in order. [`Journal::append`] returns only when
//! the disk has them (fdatasync), so what was acknowledged survives kill -9 and
//! power loss. When the file has grown to a multiple of its snapshot it is
//! written anew beside and renamed over.
//!
//! ```text
//! frame = length (4) | CRC-32 of the rest (4) | batch number (8) | payload
//! ```
//!
//! What follows the last sound frame is the torn end of a batch that was never
//! acknowledged: it is cut off, with a warning, and kept aside in
//! `journal.torn`. A damaged frame with sound frames of *later* batches behind
//! it is something else, namely lost acknowledged data; then the journal
//! refuses to open rather than serve an older binding as the truth.
//!
//! # Limitations
//! One writer per directory (a lock file sees to it). Opening reads the whole
//! file into memory.

mod entry;

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use hickory_proto::rr::Name;

pub use entry::{Entry, EntryError};

/// Below this size compaction is not worth it.
const SMALL: u64 = 4 << 20;

/// Largest frame ever written or believed.
const MAX_FRAME: usize = 64 << 20;

const FRAME_HEAD: usize = 16;

/// What a snapshot's frames have for a batch number; later ones are higher.
const SNAPSHOT_BATCH: u64 = 1;

const MAGIC: &[u8] = b"mat-mapd journal 1\n";

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The directory or a file in it is not ours to use.
    #[error("{path}: {error}; data_dir must be a directory mat-mapd may write to")]
    Io {
        /// Directory or file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another process has it.
    #[error("{0} is in use by another mat-mapd; give each its own data_dir")]
    Locked(PathBuf),
    /// The file is something else.
    #[error("{0} is not a journal of mat-mapd; move it away or choose another data_dir")]
    Foreign(PathBuf),
    /// It belongs to another zone.
    #[error(
        "{path} is the journal of zone {found}, not of {wanted}; choose another data_dir or correct `zone`"
    )]
    OtherZone {
        /// The file.
        path: PathBuf,
        /// The zone it belongs to.
        found: String,
        /// The configured zone.
        wanted: String,
    },
    /// Acknowledged data is damaged.
    #[error(
        "{path} is damaged at offset {offset}: sound entries of later batches follow, so acknowledged changes are lost; restore the file from a backup"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
    /// A sound frame that this release cannot read.
    #[error("{path}, offset {offset}: {error}")]
    Entry {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        error: EntryError,
    },
    /// The system gives no thread to compact it.
    #[error("no thread to compact the journal: {0}")]
    Thread(io::Error),
    /// An earlier failure left the file in an unknown state.
    #[error("the journal failed earlier and takes nothing more until mat-mapd is restarted")]
    Poisoned,
}

/// An open journal, at its end.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    origin: Name,
    file: File,
    /// Bytes known to be sound and on disk.
    len: u64,
    /// Bytes of the snapshot the file begins with.
    base: u64,
    batch: u64,
    poisoned: bool,
    /// Held for its lock.
    _lock: File,
}

/// What opening found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// How many entries.
    pub entries: usize,
    /// Bytes of a torn end that were cut off.
    pub torn: u64,
}

impl Journal {
    /// Opens the journal of `origin` in `dir`, or begins one, and reads it: `each` gets every
    /// entry, oldest first, and before it is known whether all is well, with the octets behind it.
    pub fn open(
        dir: &Path,
        origin: &Name,
        mut each: impl FnMut(Entry, usize),
    ) -> Result<(Journal, Recovered), JournalError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |error| JournalError::Io { path, error }
        };
        std::fs::create_dir_all(dir).map_err(fail(dir))?;
        let lock = lock(dir)?;
        let path = dir.join("journal");
        let mut bytes = Vec::new();
        let mut is_new = false;
        match File::open(&path) {
            Ok(mut file) => {
                file.read_to_end(&mut bytes).map_err(fail(&path))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => is_new = true,
            Err(error) => return Err(fail(&path)(error)),
        }
        let mut recovered = Recovered::default();
        let mut sound = Sound {
            base: 0,
            end: 0,
            batch: 0,
        };
        if is_new {
            NewJournal::create(dir, origin, 0)?.finish()?.install(dir)?;
        } else {
            sound = read(&path, &bytes, origin, |entry, left| {
                recovered.entries += 1;
                each(entry, left);
            })?;
            recovered.torn = (bytes.len() - sound.end) as u64;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(fail(&path))?;
        if recovered.torn > 0 {
            let aside = dir.join("journal.torn");
            std::fs::write(&aside, &bytes[sound.end..]).map_err(fail(&aside))?;
            file.set_len(sound.end as u64).map_err(fail(&path))?;
            file.sync_all().map_err(fail(&path))?;
        }
        let len = file.seek(SeekFrom::End(0)).map_err(fail(&path))?;
        let journal = Journal {
            dir: dir.to_owned(),
            origin: origin.clone(),
            file,
            len,
            base: sound.base,
            batch: sound.batch,
            poisoned: false,
            _lock: lock,
        };
        Ok((journal, recovered))
    }

    /// Writes `entries` as one batch and waits for the disk. On an error none of
    /// them counts, now or after a restart.
    pub fn append<'e>(
        &mut self,
        entries: impl IntoIterator<Item = &'e Entry>,
    ) -> Result<(), JournalError> {
        if self.poisoned {
            return Err(JournalError::Poisoned);
        }
        let path = self.dir.join("journal");
        let mut bytes = Vec::new();
        for entry in entries {
            let payload = entry.encode().map_err(|error| JournalError::Entry {
                path: path.clone(),
                offset: self.len,
                error,
            })?;
            frame(&mut bytes, self.batch + 1, &payload);
        }
        let written = self
            .file
            .write_all(&bytes)
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // What reached the disk is unknown: take it back, or never write
            // behind it.
            let undone = self
                .file
                .set_len(self.len)
                .and_then(|()| self.file.seek(SeekFrom::Start(self.len)))
                .and_then(|_| self.file.sync_all());
            self.poisoned = undone.is_err();
            return Err(JournalError::Io { path, error });
        }
        self.len += bytes.len() as u64;
        self.batch += 1;
        Ok(())
    }

    /// Whether the file has outgrown its snapshot.
    pub fn wants_compaction(&self) -> bool {
        !self.poisoned && self.len > SMALL.max(4 * self.base)
    }

    /// Begins a file to take the place of this one. What has been appended until now is to be
    /// pushed into it; what is appended from now on [`Journal::adopt`] takes over. It may be
    /// among what is pushed as well: to apply a change twice is to apply it once.
    pub fn begin_compaction(&self) -> Result<NewJournal, JournalError> {
        NewJournal::create(&self.dir, &self.origin, self.len)
    }

    /// Puts a finished file in the place of this one.
    pub fn adopt(&mut self, new: Finished) -> Result<(), JournalError> {
        let path = self.dir.join("journal");
        let fail = |error| JournalError::Io {
            path: path.clone(),
            error,
        };
        let mut rest = vec![0; (self.len - new.mark) as usize];
        self.file.read_exact_at(&mut rest, new.mark).map_err(fail)?;
        let base = new.len;
        let mut file = &new.file;
        file.write_all(&rest)
            .and_then(|()| file.sync_all())
            .map_err(fail)?;
        self.file = new.install(&self.dir)?;
        self.len = base + rest.len() as u64;
        self.base = base;
        self.batch = self.batch.max(1);
        Ok(())
    }

    /// Lets a journal grow on that could not be compacted: not each batch is to try again.
    pub fn postpone_compaction(&mut self) {
        self.base = self.len;
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.len
    }
}

fn lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join("lock");
    let io = |error| JournalError::Io {
        path: path.clone(),
        error,
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(JournalError::Locked(dir.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(io(error)),
    }
}

/// A file that is written beside the journal, to take its place.
#[derive(Debug)]
pub struct NewJournal {
    path: PathBuf,
    out: BufWriter<File>,
    len: u64,
    /// The journal's length when this was begun.
    mark: u64,
}

/// The same, complete and on disk under its own name.
#[derive(Debug)]
pub struct Finished {
    path: PathBuf,
    file: File,
    len: u64,
    mark: u64,
}

impl NewJournal {
    fn create(dir: &Path, origin: &Name, mark: u64) -> Result<Self, JournalError> {
        let path = dir.join("journal.new");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path);
        let file = file.map_err(|error| JournalError::Io {
            path: path.clone(),
            error,
        })?;
        let mut new = NewJournal {
            path,
            out: BufWriter::new(file),
            len: 0,
            mark,
        };
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(origin.to_ascii().as_bytes());
        new.put(0, &head)?;
        Ok(new)
    }

    /// Writes part of a snapshot.
    pub fn push(&mut self, entry: &Entry) -> Result<(), JournalError> {
        let payload = entry.encode().map_err(|error| JournalError::Entry {
            path: self.path.clone(),
            offset: self.len,
            error,
        })?;
        self.put(SNAPSHOT_BATCH, &payload)
    }

    fn put(&mut self, batch: u64, payload: &[u8]) -> Result<(), JournalError> {
        let mut bytes = Vec::new();
        frame(&mut bytes, batch, payload);
        self.len += bytes.len() as u64;
        let written = self.out.write_all(&bytes);
        written.map_err(|error| self.failed(error))
    }

    /// Waits for the disk.
    pub fn finish(self) -> Result<Finished, JournalError> {
        let path = self.path;
        let file = self.out.into_inner().map_err(|error| error.into_error());
        let synced = file.and_then(|file| file.sync_all().map(|()| file));
        let file = synced.map_err(|error| JournalError::Io {
            path: path.clone(),
            error,
        })?;
        Ok(Finished {
            path,
            file,
            len: self.len,
            mark: self.mark,
        })
    }

    fn failed(&self, error: io::Error) -> JournalError {
        JournalError::Io {
            path: self.path.clone(),
            error,
        }
    }
}

impl Finished {
    /// Gives it the journal's name, for good.
    fn install(self, dir: &Path) -> Result<File, JournalError> {
        let renamed = std::fs::rename(&self.path, dir.join("journal"));
        let synced = renamed
            .and_then(|()| File::open(dir))
            .and_then(|dir| dir.sync_all());
        synced.map_err(|error| JournalError::Io {
            path: self.path,
            error,
        })?;
        Ok(self.file)
    }
}

/// Reads all sound frames.
fn read(
    path: &Path,
    bytes: &[u8],
    origin: &Name,
    mut each: impl FnMut(Entry, usize),
) -> Result<Sound, JournalError> {
    let foreign = || JournalError::Foreign(path.to_owned());
    let (head, mut at) = unframe(bytes, 0).ok_or_else(foreign)?;
    let zone = head.payload.strip_prefix(MAGIC).ok_or_else(foreign)?;
    let zone = std::str::from_utf8(zone)
        .ok()
        .and_then(|text| Name::from_ascii(text).ok())
        .ok_or_else(foreign)?;
    if zone != *origin {
        return Err(JournalError::OtherZone {
            path: path.to_owned(),
            found: zone.to_string(),
            wanted: origin.to_string(),
        });
    }
    let mut batch = 0;
    let mut base = at;
    while let Some((frame, next)) = unframe(bytes, at) {
        let entry = Entry::decode(frame.payload).map_err(|error| JournalError::Entry {
            path: path.to_owned(),
            offset: at as u64,
            error,
        })?;
        each(entry, bytes.len() - next);
        batch = frame.batch;
        at = next;
        if batch == SNAPSHOT_BATCH {
            base = at;
        }
    }
    if later_batch_follows(bytes, at, batch) {
        return Err(JournalError::Damaged {
            path: path.to_owned(),
            offset: at as u64,
        });
    }
    Ok(Sound {
        base: base as u64,
        end: at,
        batch,
    })
}

/// The entries of a journal in memory; what is not whole at its end is no entry.
pub(crate) fn read_all(
    path: &Path,
    bytes: &[u8],
    origin: &Name,
) -> Result<Vec<Entry>, JournalError> {
    let mut entries = Vec::new();
    read(path, bytes, origin, |entry, _| entries.push(entry))?;
    Ok(entries)
}

/// A sound journal with some entries.
pub(crate) fn sample(origin: &Name) -> (Vec<u8>, Vec<Entry>) {
    let entries = vec![Entry::from(crate::zone::Change::default()); 2];
    let mut bytes = Vec::new();
    frame(
        &mut bytes,
        0,
        &[MAGIC, origin.to_ascii().as_bytes()].concat(),
    );
    for (batch, entry) in entries.iter().enumerate() {
        let payload = entry.encode().unwrap_or_default();
        frame(&mut bytes, batch as u64 + 1, &payload);
    }
    (bytes, entries)
}

/// How far a file is sound.
struct Sound {
    /// The end of its snapshot.
    base: u64,
    /// The end of it all.
    end: usize,
    /// The last batch.
    batch: u64,
}

/// Whether behind the unsound frame at `at` there is a sound one that was
/// written after a batch that must have been complete by then.
fn later_batch_follows(bytes: &[u8], at: usize, batch: u64) -> bool {
    (at + 1..bytes.len().saturating_sub(FRAME_HEAD))
        .filter_map(|at| unframe(bytes, at))
        .any(|(frame, _)| frame.batch > batch + 1)
}

struct Frame<'b> {
    batch: u64,
    payload: &'b [u8],
}

fn frame(out: &mut Vec<u8>, batch: u64, payload: &[u8]) {
    let mut body = batch.to_be_bytes().to_vec();
    body.extend_from_slice(payload);
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(&crc32(&body).to_be_bytes());
    out.extend_from_slice(&body);
}

/// The frame at `at` if it is whole and sound, and the offset behind it.
fn unframe(bytes: &[u8], at: usize) -> Option<(Frame<'_>, usize)> {
    let head: [u8; FRAME_HEAD] = bytes.get(at..at + FRAME_HEAD)?.try_into().ok()?;
    let word = |i: usize| u32::from_be_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
    let len = word(0) as usize;
    if len == 0 || len > MAX_FRAME {
        return None;
    }
    let end = at + FRAME_HEAD + len;
    let body = bytes.get(at + 8..end)?;
    (crc32(body) == word(4)).then(|| {
        let batch = u64::from(word(8)) << 32 | u64::from(word(12));
        let payload = &body[8..];
        (Frame { batch, payload }, end)
    })
}

/// CRC-32 (IEEE 802.3).
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut c = i as u32;
            let mut bit = 0;
            while bit < 8 {
                c = if c & 1 != 0 {
                    c >> 1 ^ 0xEDB8_8320
                } else {
                    c >> 1
                };
                bit += 1;
            }
            table[i] = c;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, byte| {
        TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ crc >> 8
    })
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{RData, RecordType};
    use mat_proto::Epoch;

    use super::*;
    use crate::replay::Receipt;
    use crate::zone::tests::{apex, name};
    use crate::zone::{Change, RrSet, Zone};

    fn entry(i: u64) -> Entry {
        let mut change = Zone::new(&apex()).snapshot();
        change
            .buried
            .insert(name("10.2.0.192.h4.map.example."), Epoch(i));
        // Data of no octets.
        let kind = RecordType::Unknown(65280);
        let (ttl, data) = (60, vec![RData::Update0(kind)]);
        let key = (name("host.map.example."), kind);
        change.sets.insert(key, Some(RrSet { ttl, data }));
        let receipt = Receipt {
            key: name("site-a."),
            time: i,
            mac: vec![7; 32],
        };
        Entry {
            change,
            receipt: Some(receipt),
        }
    }

    /// Opens it; also what was in it, and what was cut off.
    fn open(dir: &Path, origin: &str) -> Result<(Journal, Vec<Entry>, u64), JournalError> {
        let mut entries = Vec::new();
        let (journal, recovered) = Journal::open(dir, &name(origin), |e, _| entries.push(e))?;
        assert_eq!(recovered.entries, entries.len());
        Ok((journal, entries, recovered.torn))
    }

    fn journal_with(dir: &Path, batches: u64) {
        let (mut journal, ..) = open(dir, "map.example.").unwrap();
        for i in 1..=batches {
            journal.append(&[entry(i), entry(i + 100)]).unwrap();
        }
    }

    fn reopened(dir: &Path) -> Result<(Vec<Entry>, u64), JournalError> {
        open(dir, "map.example.").map(|(_, entries, torn)| (entries, torn))
    }

    #[test]
    fn what_was_appended_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        journal_with(dir.path(), 3);
        let (entries, _) = reopened(dir.path()).unwrap();
        let wanted: Vec<Entry> = (1..=3).flat_map(|i| [entry(i), entry(i + 100)]).collect();
        assert_eq!(entries, wanted);
    }

    #[test]
    fn a_torn_end_is_cut_at_every_length_and_nothing_before_it() {
        let dir = tempfile::tempdir().unwrap();
        journal_with(dir.path(), 3);
        let path = dir.path().join("journal");
        let whole = std::fs::read(&path).unwrap();
        let ends: Vec<usize> = {
            let mut at = 0;
            std::iter::from_fn(|| {
                at = unframe(&whole, at)?.1;
                Some(at)
            })
            .collect()
        };
        for cut in ends[4]..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (entries, torn) = reopened(dir.path()).unwrap();
            let kept = ends.iter().filter(|end| **end <= cut).count() - 1;
            assert_eq!(entries.len(), kept, "cut at {cut}");
            assert_eq!(torn as usize, cut - ends[kept]);
            assert_eq!(std::fs::read(&path).unwrap(), whole[..ends[kept]]);
        }
        // Garbage and zeros behind the end (a block allocated and never written).
        for tail in [vec![0; 5000], vec![0xa5; 5000]] {
            std::fs::write(&path, [whole.clone(), tail].concat()).unwrap();
            let (entries, torn) = reopened(dir.path()).unwrap();
            assert_eq!((entries.len(), torn), (6, 5000));
        }
    }

    #[test]
    fn appending_goes_on_behind_a_cut() {
        let dir = tempfile::tempdir().unwrap();
        journal_with(dir.path(), 2);
        let path = dir.path().join("journal");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 3);
        std::fs::write(&path, bytes).unwrap();
        journal_with(dir.path(), 1);
        assert_eq!(reopened(dir.path()).unwrap().0.len(), 5);
    }

    #[test]
    fn lost_acknowledged_data_is_not_taken_for_a_torn_end() {
        let dir = tempfile::tempdir().unwrap();
        journal_with(dir.path(), 4);
        let path = dir.path().join("journal");
        let mut bytes = std::fs::read(&path).unwrap();
        let first = unframe(&bytes, 0).unwrap().1;
        bytes[first + 40] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = reopened(dir.path()).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { .. }), "{error}");
    }

    #[test]
    fn after_a_failure_nothing_is_written_behind_what_is_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, ..) = open(dir.path(), "map.example.").unwrap();
        journal.append(&[entry(1)]).unwrap();
        // A file that cannot be written, nor cut back.
        journal.file = File::open(dir.path().join("journal")).unwrap();
        let error = journal.append(&[entry(2)]).unwrap_err();
        assert!(matches!(error, JournalError::Io { .. }), "{error}");
        let error = journal.append(&[entry(3)]).unwrap_err();
        assert!(matches!(error, JournalError::Poisoned), "{error}");
        drop(journal);
        assert_eq!(reopened(dir.path()).unwrap().0, [entry(1)]);
    }

    #[test]
    fn a_journal_is_used_by_one_zone_and_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let (held, ..) = open(dir.path(), "map.example.").unwrap();
        let error = reopened(dir.path()).unwrap_err();
        assert!(matches!(error, JournalError::Locked(_)), "{error}");
        drop(held);
        let error = open(dir.path(), "other.example.").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("zone map.example., not of other.example.")
        );
        // An empty one was not made by us either.
        for octets in ["hello", ""] {
            std::fs::write(dir.path().join("journal"), octets).unwrap();
            let error = reopened(dir.path()).unwrap_err();
            assert!(matches!(error, JournalError::Foreign(_)), "{error}");
        }
    }

    #[test]
    fn compaction_keeps_what_the_zone_holds() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, ..) = open(dir.path(), "map.example.").unwrap();
        let mut zone = Zone::new(&apex());
        for i in 1..2000 {
            let owner = record_name(i);
            zone.apply(Change {
                buried: [(owner, Epoch(u64::from(i)))].into(),
                ..Change::default()
            });
            journal.append(&[entry(1)]).unwrap();
        }
        let before = journal.size();
        let mut new = journal.begin_compaction().unwrap();
        new.push(&Entry::from(zone.snapshot())).unwrap();
        journal.adopt(new.finish().unwrap()).unwrap();
        assert!(journal.size() < before);
        journal.append(&[Entry::from(zone.snapshot())]).unwrap();
        drop(journal);
        let mut copy = Zone::new(&apex());
        for entry in reopened(dir.path()).unwrap().0 {
            copy.apply(entry.change);
        }
        assert_eq!(copy.snapshot(), zone.snapshot());
    }

    /// The power goes while a batch is being written: of what was not synced each sector is there,
    /// is not (zeros), or is garbage, and the file is as long as it was, as it was to be, or
    /// anything between. All that was acknowledged is read, of the batch itself at most its
    /// first entries, each whole, and the journal goes on.
    #[test]
    fn a_thousand_power_losses_cost_nothing_acknowledged() {
        const SECTOR: usize = 512;
        let mut state = 1_u64;
        let mut random = move |below: usize| {
            // xorshift64*: the same losses each time.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut acknowledged = Vec::new();
        for loss in 0..1000 {
            if loss % 50 == 0 {
                // The file has grown long.
                let _ = std::fs::remove_file(&path);
                acknowledged.clear();
            }
            let (mut journal, entries, _) = open(dir.path(), "map.example.").unwrap();
            assert_eq!(entries, acknowledged, "loss {loss}");
            let batch = |count: usize, from: usize| -> Vec<Entry> {
                (0..count).map(|n| entry((from + n) as u64)).collect()
            };
            for _ in 0..random(3) {
                let entries = batch(1 + random(4), 10 * loss);
                journal.append(&entries).unwrap();
                acknowledged.extend(entries);
            }
            let synced = std::fs::read(&path).unwrap();
            let lost = batch(1 + random(8), 10 * loss + 5);
            journal.append(&lost).unwrap();
            drop(journal);

            let mut image = std::fs::read(&path).unwrap();
            let mut at = synced.len();
            while at < image.len() {
                let end = image.len().min((at / SECTOR + 1) * SECTOR);
                match random(3) {
                    0 => {}
                    1 => image[at..end].fill(0),
                    _ => image[at..end].fill_with(|| random(256) as u8),
                }
                at = end;
            }
            image.truncate(synced.len() + random(image.len() - synced.len() + 1));
            assert!(image.starts_with(&synced));
            std::fs::write(&path, image).unwrap();
            // A compaction may have been under way as well.
            std::fs::write(
                dir.path().join("journal.new"),
                &synced[..random(synced.len())],
            )
            .unwrap();

            let (entries, _) = reopened(dir.path()).unwrap();
            let kept = entries.len() - acknowledged.len();
            acknowledged.extend_from_slice(&lost[..kept]);
            assert_eq!(entries, acknowledged, "loss {loss}");
        }
    }

    /// Changes go on while a snapshot is written: what is in both counts once.
    #[test]
    fn a_compaction_takes_over_what_is_appended_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, ..) = open(dir.path(), "map.example.").unwrap();
        let mut zone = Zone::new(&apex());
        let change = |i: u32| Change {
            buried: [(record_name(i), Epoch(u64::from(i)))].into(),
            ..Change::default()
        };
        let go_on = |journal: &mut Journal, zone: &mut Zone, numbers: std::ops::Range<u32>| {
            for i in numbers {
                journal.append(&[Entry::from(change(i))]).unwrap();
                zone.apply(change(i));
            }
        };
        go_on(&mut journal, &mut zone, 1..50);
        let mut new = journal.begin_compaction().unwrap();
        go_on(&mut journal, &mut zone, 50..60);
        new.push(&Entry::from(zone.snapshot())).unwrap();
        go_on(&mut journal, &mut zone, 60..70);
        let new = new.finish().unwrap();
        go_on(&mut journal, &mut zone, 70..80);
        let before = journal.size();
        journal.adopt(new).unwrap();
        assert!(journal.size() < before);
        go_on(&mut journal, &mut zone, 80..90);
        drop(journal);

        let (journal, entries, torn) = open(dir.path(), "map.example.").unwrap();
        assert_eq!(torn, 0);
        assert!(0 < journal.base && journal.base < journal.len);
        let mut copy = Zone::new(&apex());
        for entry in entries {
            copy.apply(entry.change);
        }
        assert_eq!(copy.snapshot(), zone.snapshot());
    }

    fn record_name(i: u32) -> Name {
        name(&format!("{}.{}.0.192.h4.map.example.", i % 250, i / 250))
    }
}
