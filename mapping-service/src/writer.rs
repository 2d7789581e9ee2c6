//! The one writer: checks, applies, commits to disk, publishes, answers; in
//! this order, for every update.
//!
//! It is a thread of its own because fdatasync blocks. It takes what is queued
//! as one batch, so many updates share one fdatasync; each is checked against
//! the zone *with the earlier ones of its batch*, so prerequisites hold exactly
//! as if they had come one by one. Readers see a change only once it is on disk,
//! and an answer is given only once readers see it.
//!
//! Since nobody else writes the zone, it needs the write lock only to publish.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use mat_proto::Whose;
use tokio::sync::{mpsc, oneshot, watch};

use crate::history::{Before, History};
use crate::journal::{Entry, Finished, Journal, JournalError, NewJournal};
use crate::past::{Past, Step};
use crate::policy::{Denial, Policy};
use crate::push::{Changes, SetKey};
use crate::replay::{Memory, Receipt};
use crate::zone::update::{Draft, Refusal, Update};
use crate::zone::{Change, Zone};
use crate::zonefile;

/// Updates waiting at most; beyond, the server answers SERVFAIL.
pub const QUEUE: usize = 1024;

/// Updates that share one fdatasync at most.
const BATCH: usize = 256;

/// Names in an entry of a snapshot, copied while nothing can be published.
const PIECE: usize = 256;

/// An update whose signature has been verified.
#[derive(Debug)]
pub struct Job {
    /// The message.
    pub update: Update,
    /// Which key signed it, when, and the MAC.
    pub receipt: Receipt,
    /// What that key may do.
    pub policy: Arc<Policy>,
    /// Who sent it, for the log.
    pub from: SocketAddr,
    /// Where the result goes.
    pub done: oneshot::Sender<Result<(), Failure>>,
}

/// Why an update was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// RFC 2136 or the rules for home addresses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The key's policy.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// The disk.
    #[error("the journal could not be written")]
    Disk,
}

impl Failure {
    /// The response code.
    pub fn code(&self) -> ResponseCode {
        match self {
            Failure::Refused(refusal) => refusal.code(),
            Failure::Denied(_) => ResponseCode::Refused,
            Failure::Disk => ResponseCode::ServFail,
        }
    }
}

/// What readers, writer and server share.
#[derive(Debug)]
pub struct Shared {
    /// What is published.
    pub zone: RwLock<Zone>,
    /// What it was of late. Its lock is taken within the zone's only, so that whoever has both
    /// sees them of the same moment.
    history: Mutex<History>,
    past: Mutex<Past>,
    replay: Mutex<Memory>,
    journal_bytes: AtomicU64,
    serial: watch::Sender<u32>,
    changes: Changes,
}

impl Shared {
    /// A zone, and what is remembered of signed updates and of changes.
    pub fn new(zone: Zone, replay: Memory, past: Past) -> Self {
        Shared {
            serial: watch::Sender::new(zone.serial()),
            zone: RwLock::new(zone),
            history: Mutex::default(),
            past: Mutex::new(past),
            replay: Mutex::new(replay),
            journal_bytes: AtomicU64::new(0),
            changes: Changes::default(),
        }
    }

    /// The replay memory. It and the zone stay usable if a thread panicked while
    /// it held the lock: both change in single steps.
    pub fn replay(&self) -> MutexGuard<'_, Memory> {
        self.replay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who has changed which binding of late.
    pub fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Octets of the journal when the writer last looked.
    pub fn journal_bytes(&self) -> u64 {
        self.journal_bytes.load(Ordering::Relaxed)
    }

    /// Runs `f` on the published zone.
    pub fn read<T>(&self, f: impl FnOnce(&Zone) -> T) -> T {
        f(&self.zone.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `f` on the published zone and what it was of late.
    pub fn read_with_history<T>(&self, f: impl FnOnce(&Zone, &History) -> T) -> T {
        self.read(|zone| f(zone, &self.history()))
    }

    /// The serial of the zone, to be waited for. It is told once a batch, so at times a later
    /// one is published already.
    pub fn serials(&self) -> watch::Receiver<u32> {
        self.serial.subscribe()
    }

    /// Which sets have changed, for those who want to hear of it.
    pub(crate) fn changes(&self) -> &Changes {
        &self.changes
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody else changes the zone, so what is to be replaced can be looked up before readers
    /// have to wait.
    fn publish(&self, change: Change) {
        let before = self.read(|zone| Before::of(zone, &change));
        let mut zone = self.zone.write().unwrap_or_else(PoisonError::into_inner);
        self.history().note(before);
        // Whoever wants to hear of changes from now on has to wait until this one can be read.
        let wanted = self.changes.are_wanted();
        let keys = change.sets.keys().cloned().map(Arc::new);
        let sets: Option<Vec<SetKey>> = wanted.then(|| keys.collect());
        zone.apply(change);
        drop(zone);
        if let Some(sets) = sets {
            self.changes.note(sets);
        }
    }
}

/// What the writer is to do.
#[derive(Debug)]
pub enum Order {
    /// An update.
    Update(Job),
    /// A compacted journal is ready, or could not be written.
    Compacted(Result<Finished, JournalError>),
}

/// Works until all senders of `queue` are gone and it is empty; `orders` is one of them, for
/// what it orders itself.
pub fn run(
    shared: &Arc<Shared>,
    mut journal: Journal,
    (orders, mut queue): (mpsc::WeakSender<Order>, mpsc::Receiver<Order>),
    clock: fn() -> u64,
) {
    let mut compacting = false;
    let look = |journal: &Journal| {
        shared
            .journal_bytes
            .store(journal.size(), Ordering::Relaxed);
    };
    look(&journal);
    while let Some(first) = queue.blocking_recv() {
        let mut batch = Vec::new();
        let mut compacted = None;
        let mut next = Some(first);
        while let Some(order) = next {
            match order {
                Order::Update(job) => batch.push(job),
                Order::Compacted(result) => compacted = Some(result),
            }
            next = (batch.len() < BATCH)
                .then(|| queue.try_recv().ok())
                .flatten();
        }
        work(shared, &mut journal, batch);
        if let Some(result) = compacted {
            compacting = false;
            adopt(&mut journal, result);
        }
        if !compacting && journal.wants_compaction() {
            compacting = begin_compaction(shared, &mut journal, &orders, clock());
        }
        look(&journal);
    }
}

fn work(shared: &Shared, journal: &mut Journal, batch: Vec<Job>) {
    if batch.is_empty() {
        return;
    }
    let origin = shared.read(|zone| zone.origin().clone());
    let decided: Vec<(Job, Result<Entry, Failure>)> = shared.read(|zone| {
        let mut draft = Draft::new(zone);
        batch
            .into_iter()
            .map(|job| {
                let permit = |change: &Change| {
                    let permitted = job.policy.permits(&origin, &job.update, change);
                    permitted.map_err(Failure::from)
                };
                let result = draft.update(&job.update, permit);
                let result = result.map(|change| Entry {
                    change,
                    receipt: Some(job.receipt.clone()),
                });
                (job, result)
            })
            .collect()
    });
    let entries = decided
        .iter()
        .filter_map(|(_, result)| result.as_ref().ok());
    let mut entries = entries.filter(|entry| !entry.change.is_empty()).peekable();
    let changed = entries.peek().is_some();
    let committed = !changed
        || journal
            .append(entries)
            .map_err(|error| tracing::error!(%error, "changes lost: the journal failed"))
            .is_ok();
    let mut answers = Vec::with_capacity(decided.len());
    for (job, result) in decided {
        let result = match result {
            // What was decided on top of changes that are lost is void as well.
            _ if !committed => Err(Failure::Disk),
            Ok(entry) => {
                log_accepted(shared, &origin, &job, &entry.change);
                shared.publish(entry.change);
                Ok(())
            }
            Err(failure) => {
                log_refused(&job, &failure);
                Err(failure)
            }
        };
        let code = match &result {
            Ok(()) => Some(ResponseCode::NoError),
            Err(Failure::Disk) => None,
            Err(failure) => Some(failure.code()),
        };
        shared.replay().settle(&job.receipt, code);
        answers.push((job.done, result));
    }
    if committed && changed {
        shared.serial.send_replace(shared.read(Zone::serial));
    }
    // All in one go: one by one, each would wake a thread.
    for (done, result) in answers {
        // The asker may be gone; the change stands all the same.
        let _ = done.send(result);
    }
}

/// Has another thread write a smaller journal, while changes go on; whether it does.
fn begin_compaction(
    shared: &Arc<Shared>,
    journal: &mut Journal,
    orders: &mpsc::WeakSender<Order>,
    now: u64,
) -> bool {
    // Without one, all is about to end.
    let Some(orders) = orders.upgrade() else {
        return false;
    };
    let begun = journal.begin_compaction().and_then(|new| {
        let shared = shared.clone();
        let thread = std::thread::Builder::new().name("compaction".to_owned());
        let spawned = thread.spawn(move || {
            let written = write_snapshot(&shared, new, now);
            // The writer lives as long as somebody can send to it.
            let _ = orders.blocking_send(Order::Compacted(written));
        });
        spawned.map(drop).map_err(JournalError::Thread)
    });
    if let Err(error) = &begun {
        not_compacted(journal, error);
    }
    begun.is_ok()
}

/// Writes all that a restart has to know, piece by piece: changes of the meantime may be in it or
/// not, and follow in any case.
pub(crate) fn write_snapshot(
    shared: &Shared,
    mut new: NewJournal,
    now: u64,
) -> Result<Finished, JournalError> {
    let buried = shared.read(Zone::buried);
    for some in buried.chunks(PIECE) {
        new.push(&Entry::from(Change {
            buried: some.iter().cloned().collect(),
            ..Change::default()
        }))?;
    }
    let mut from = Some(Name::root());
    while let Some(name) = from {
        let piece;
        (piece, from) = shared.read(|zone| zone.piece(&name, PIECE));
        new.push(&Entry::from(piece))?;
    }
    let receipts = shared.replay().committed(now);
    for entry in receipts.into_iter().map(Entry::from) {
        new.push(&entry)?;
    }
    new.finish()
}

fn adopt(journal: &mut Journal, written: Result<Finished, JournalError>) {
    let before = journal.size();
    match written.and_then(|new| journal.adopt(new)) {
        Ok(()) => tracing::info!(before, after = journal.size(), "journal compacted"),
        Err(error) => not_compacted(journal, &error),
    }
}

fn not_compacted(journal: &mut Journal, error: &JournalError) {
    tracing::error!(%error, "journal not compacted; it goes on growing");
    journal.postpone_compaction();
}

/// Says what was changed, and notes it for those who ask later.
fn log_accepted(shared: &Shared, origin: &Name, job: &Job, change: &Change) {
    let (key, from) = (&job.receipt.key, job.from);
    let mut past = shared.past();
    for step in &change.moves {
        let step = Step::of(step, &job.receipt);
        tracing::info!(
            %key, %from, home = %step.whose, was = %step.was, is = %step.is, "binding changed"
        );
        if step.is_change() {
            past.note(step);
        }
    }
    drop(past);
    for ((name, kind), set) in &change.sets {
        let binding = *kind == RecordType::SVCB && Whose::of_owner(name, origin).is_some();
        let serial = *kind == RecordType::SOA;
        if !binding && !serial {
            let records = set.as_ref().map_or(0, |set| set.data.len());
            let kind = zonefile::kind(*kind);
            tracing::info!(%key, %from, %name, kind, records, "records changed");
        }
    }
}

fn log_refused(job: &Job, why: &Failure) {
    let names: std::collections::BTreeSet<String> = job
        .update
        .updates
        .iter()
        .take(8)
        .map(|record| record.name.to_string())
        .collect();
    let names: Vec<String> = names.into_iter().collect();
    tracing::warn!(
        key = %job.receipt.key, from = %job.from, names = %names.join(" "),
        code = ?why.code(), %why, "update refused"
    );
}
