//! Soak: many bytes through every combination of family, forwarder, links and path, and none may
//! be wrong.
//!
//! TCP streams and UDP flows run in both directions at once between two instances, through the
//! forwarders of their sites, while the path between these loses, reorders, doubles or spoils
//! packets. Of every TCP stream the SHA-256 of what was sent and of what was received are
//! compared; every datagram is compared with what was sent under its number.
//!
//! # Who verifies what
//! A checksum that is still to be computed (CHECKSUM_PARTIAL) protects nothing: whoever sends the
//! packet at last computes it over whatever the packet has become, and no kernel on the way looks
//! at it. So the links come in four kinds ([`matrix`]):
//!
//! | links | `ethtool -K` | a forwarder's mistake in a payload is noticed by |
//! |---|---|---|
//! | `super` | everything on, `gro off` | SHA-256 alone |
//! | `wire` | between the sites `tso`, `gso` and `tx-udp-segmentation off`, `gro on` | SHA-256 alone |
//! | `gathered` | like `wire`, and `tx off` on all links | the receiving site's kernel, as far as the wire; SHA-256 |
//! | `bare` | everything off, on all links | the receiving instance's kernel, unless gathering by the forwarder made the checksum anew; SHA-256 |
//!
//! `tx off` at the sending instance makes its kernel complete every checksum; from there on the
//! forwarders have to carry it along. `rx off` alone changes nothing on a veth: it hands the
//! receiver whatever state the sender left, and an unfinished checksum counts as good.
//!
//! With complete checksums a flipped bit can be noticed, and on the path `corrupt` it has to be:
//! there the streams must arrive intact although one frame in a hundred is spoilt, and each of
//! these must show up as a checksum error at some receiver, unless a full queue took it or it was
//! one of the forwarders' own few messages. A forwarder that gathers packets without verifying them
//! first, and lets the kernel compute the checksum of the whole, would make a spoilt packet good;
//! then both are violated.
//!
//! # Limitations
//! - The number of bytes asked for is that of TCP; datagrams come on top.
//! - Where super-packets cross an impaired path, they are lost and reordered whole.
//! - Datagrams may get lost on any path: UDP has no flow control but this program's window.

mod course;
mod datagrams;
mod matrix;
mod payload;
mod report;
mod tcp;
mod traffic;
mod udp;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{Host, interrupt, wait_until};
use course::{Course, Readings};
use matrix::{Cell, Path};
pub use report::{CellReport, Report, SCHEMA};
use traffic::Load;

/// How long a socket waits for the other end: longer than TCP needs after several losses in a row.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a packet may need to the receiver after its cell has ended.
const SETTLING: Duration = Duration::from_secs(2);

/// The least that lets every stream of every cell have some bytes.
pub const LEAST_BYTES: u64 = 10_000_000;

/// Packets that a forwarder rightly drops during one cell: what the routers beside it say to each
/// other about their neighbours.
const NEIGHBOUR_DISCOVERY: u64 = 20;
/// What a forwarder counts when one of its peer's messages comes twice.
const COPIED_MESSAGE: [&str; 2] = ["control_replay", "control_unexpected"];
/// What a forwarder counts when a message is not as its peer sent it begins with this.
const SPOILT_MESSAGE: &str = "control_";
/// How many spoilt packets of one cell may be messages of the forwarders, which have other means
/// than the kernel's to tell: one in a hundred is spoilt, and few are sent.
const MESSAGES: u64 = 3;

/// What to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many bytes TCP has to move in all cells together; at least [`LEAST_BYTES`].
    pub bytes: u64,
    /// Where all pseudo-random numbers start.
    pub seed: u64,
    /// Only cells whose names contain all of these; the names are FAMILY/TUN/LINKS/PATH.
    pub only: Vec<String>,
    /// How long one cell may send. What it has not moved by then is left to the cells after it;
    /// the last one has no limit.
    pub cell_time: Duration,
}

/// Where the packets of one direction start and end.
#[derive(Clone, Copy, Debug)]
struct Ends<'a> {
    sender: &'a Host,
    sender_address: IpAddr,
    receiver: &'a Host,
    receiver_address: IpAddr,
}

/// Runs all cells; `progress` is told of each. An error means that the run could not go on, or
/// was interrupted; what is wrong with the packets is in the report.
pub fn run(settings: &Settings, mut progress: impl FnMut(&CellReport)) -> Result<Report> {
    ensure!(
        settings.bytes >= LEAST_BYTES,
        "{} bytes are too few to fill every cell: at least {LEAST_BYTES}",
        settings.bytes
    );
    let cells = selected(&settings.only)?;
    let mut report = Report {
        schema: SCHEMA,
        seed: settings.seed,
        asked: settings.bytes,
        kernel: kernel()?,
        packet_paths: BTreeMap::new(),
        cells: Vec::new(),
    };
    let mut course: Option<Course> = None;
    for (n, cell) in cells.iter().enumerate() {
        let serving = match course.take() {
            Some(course) if course.serves(cell) => course,
            other => {
                other.map_or(Ok(()), Course::end)?;
                Course::new(cell).with_context(|| format!("network of {cell}"))?
            }
        };
        let tun = if cell.offload { "offload" } else { "plain" };
        let packet_path = serving.packet_path()?;
        report.packet_paths.insert(tun.to_owned(), packet_path);

        let left = settings.bytes.saturating_sub(report.tcp_bytes());
        let last = n + 1 == cells.len();
        let load = Load {
            bytes: matrix::share(left, &cells[n..]),
            time: (!last).then_some(settings.cell_time),
            seed: payload::seed(settings.seed, n as u64),
        };
        let found = run_cell(&serving, cell, &load).with_context(|| cell.to_string())?;
        progress(&found);
        report.cells.push(found);
        course = Some(serving);
        ensure!(!interrupt::requested(), "interrupted");
    }
    course.map_or(Ok(()), Course::end)?;
    Ok(report)
}

fn selected(only: &[String]) -> Result<Vec<Cell>> {
    let mut cells = Cell::all();
    cells.retain(|cell| {
        let name = cell.to_string();
        only.iter().all(|part| name.contains(part))
    });
    ensure!(
        !cells.is_empty(),
        "no cell's name contains all of {only:?}; names are like {}",
        Cell::all()[0]
    );
    Ok(cells)
}

fn run_cell(course: &Course, cell: &Cell, load: &Load) -> Result<CellReport> {
    course.set_up(cell, load.seed)?;
    let before = course.read()?;
    let start = Instant::now();
    let both_ways = course.both_ways(cell.family)?;
    let traffic = traffic::run(&both_ways, load, cell)?;
    let seconds = start.elapsed().as_secs_f64();
    course.calm()?;
    let counted = settled(course, &before)?;

    let mut faults = traffic.faults;
    faults.extend(judge(cell, &counted, traffic.tcp_bytes));
    Ok(CellReport {
        cell: cell.to_string(),
        seconds,
        tcp_bytes: traffic.tcp_bytes,
        datagrams_sent: traffic.datagrams_sent,
        datagrams_received: traffic.datagrams_received,
        datagram_bytes: traffic.datagram_bytes,
        datagrams_twice: traffic.datagrams_twice,
        mean_packet: counted.bytes as f64 / counted.packets.max(1) as f64,
        frames_lost: counted.lost,
        frames_doubled: counted.duplicated,
        frames_spoilt: counted.spoilt,
        queue_drops: counted.dropped,
        checksum_errors: counted.checksum_errors,
        causes: counted.causes,
        wrong: traffic.wrong,
        faults,
    })
}

/// What has been counted since `before`, once nothing that was spoilt is on its way any more: an
/// unneeded retransmission may be, when all data has long arrived.
fn settled(course: &Course, before: &Readings) -> Result<Readings> {
    let read = || Ok(course.read()?.since(before));
    let accounted = |counted: &Readings| unaccounted(counted) == 0;
    let settled = wait_until(SETTLING, "every spoilt packet to be noticed", || {
        read()
            .map(|counted| accounted(&counted).then_some(counted))
            .transpose()
    });
    // In vain: they are judged as they are.
    settled.unwrap_or_else(|_| read())
}

/// How many spoilt packets no kernel has noticed, nor a full queue taken before.
fn unaccounted(counted: &Readings) -> u64 {
    let noticed = counted.checksum_errors + counted.dropped;
    counted.spoilt.saturating_sub(noticed)
}

/// What should not have been counted, or should have been.
fn judge(cell: &Cell, counted: &Readings, tcp_bytes: u64) -> Vec<String> {
    let mut faults = Vec::new();
    let Readings {
        checksum_errors,
        spoilt,
        dropped,
        bytes,
        ..
    } = *counted;
    if bytes < tcp_bytes {
        faults.push(format!(
            "the forwarders sent only {bytes} bytes to each other for {tcp_bytes} of payload"
        ));
    }
    if cell.path == Path::Corrupt {
        if spoilt == 0 {
            faults.push("no packet was spoilt".to_owned());
        }
        if checksum_errors > spoilt || unaccounted(counted) > MESSAGES {
            faults.push(format!(
                "{spoilt} packets were spoilt, but {checksum_errors} checksum errors noticed, \
                 and {dropped} packets dropped by queues"
            ));
        }
    } else if checksum_errors > 0 {
        faults.push(format!("{checksum_errors} checksum errors"));
    }
    let unexpected = |(cause, count): &(&String, &u64)| !expected(cell.path, cause, **count);
    for (cause, count) in counted.causes.iter().filter(unexpected) {
        faults.push(format!("the forwarders counted {count} x {cause}"));
    }
    faults
}

/// Whether a path like this explains that the forwarders counted this.
fn expected(path: Path, cause: &str, count: u64) -> bool {
    match path {
        Path::Mess if COPIED_MESSAGE.contains(&cause) => true,
        Path::Corrupt if cause.starts_with(SPOILT_MESSAGE) && count <= MESSAGES => true,
        _ => cause == "not_ours" && count <= NEIGHBOUR_DISCOVERY,
    }
}

/// Version of the running kernel, without its local suffix.
fn kernel() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("osrelease")?;
    Ok(release.trim().split('-').next().unwrap_or("?").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(name: &str) -> Cell {
        selected(&[name.to_owned()]).unwrap()[0]
    }

    fn counted(checksum_errors: u64, spoilt: u64) -> Readings {
        Readings {
            checksum_errors,
            spoilt,
            packets: 1,
            bytes: 1000,
            ..Readings::default()
        }
    }

    #[test]
    fn cells_are_selected_by_all_parts_of_their_names() {
        let only = ["ipv6".to_owned(), "corrupt".to_owned()];
        let names: Vec<String> = selected(&only)
            .unwrap()
            .iter()
            .map(Cell::to_string)
            .collect();
        assert_eq!(names.len(), 4);
        assert!(names.contains(&"ipv6/offload/bare/corrupt".to_owned()));
        let error = selected(&["ipv5".to_owned()]).unwrap_err().to_string();
        assert!(
            error.contains("ipv5") && error.contains("names are like"),
            "{error}"
        );
    }

    #[test]
    fn a_checksum_error_is_a_fault_unless_a_packet_was_spoilt() {
        let clean = cell("ipv4/offload/bare/clean");
        assert!(judge(&clean, &counted(0, 0), 900).is_empty());
        assert_eq!(judge(&clean, &counted(1, 0), 900).len(), 1);
        let corrupt = cell("ipv4/offload/bare/corrupt");
        assert!(judge(&corrupt, &counted(7, 7), 900).is_empty());
        assert!(judge(&corrupt, &counted(70 - MESSAGES, 70), 900).is_empty());
        assert_eq!(
            judge(&corrupt, &counted(70 - MESSAGES - 1, 70), 900).len(),
            1
        );
        assert_eq!(judge(&corrupt, &counted(71, 70), 900).len(), 1);
        let mut ten_dropped = counted(60, 70);
        ten_dropped.dropped = 10;
        assert!(judge(&corrupt, &ten_dropped, 900).is_empty());
        // A path that spoils nothing has shown nothing.
        assert_eq!(judge(&corrupt, &counted(0, 0), 900).len(), 1);
    }

    #[test]
    fn traffic_that_went_another_way_is_a_fault() {
        let clean = cell("ipv4/offload/bare/clean");
        assert_eq!(judge(&clean, &counted(0, 0), 1001).len(), 1);
    }

    #[test]
    fn unexpected_drops_are_faults() {
        let clean = cell("ipv4/offload/bare/clean");
        let faults = |cell, cause: &str, count| {
            let mut counted = counted(0, 0);
            counted.causes.insert(cause.to_owned(), count);
            judge(cell, &counted, 900)
        };
        assert_eq!(
            faults(&clean, "write_refused", 3),
            ["the forwarders counted 3 x write_refused"]
        );
        assert!(faults(&clean, "not_ours", 3).is_empty());
        assert_eq!(faults(&clean, "not_ours", 300).len(), 1);
        assert_eq!(faults(&clean, "control_replay", 3).len(), 1);
        let mess = cell("ipv4/offload/bare/mess");
        assert!(faults(&mess, "control_replay", 3).is_empty());
        let corrupt = cell("ipv4/offload/bare/corrupt");
        let mac = |count| faults(&corrupt, "control_mac", count);
        // A path that spoils nothing has shown nothing, which is the one fault.
        assert_eq!((mac(MESSAGES).len(), mac(MESSAGES + 1).len()), (1, 2));
    }
}
