//! What is combined with what, and how many bytes each combination gets, pure.

use std::fmt;

/// Of the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Ipv4,
    Ipv6,
}

/// What the devices leave to others, and so what travels and who verifies it. `ethtool` words are
/// in [`Links::uplinks`] and [`Links::instances`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    /// Super-packets with unfinished checksums everywhere.
    Super,
    /// Super-packets inside the sites, 1500-byte packets between them, gathered again where they
    /// arrive; checksums unfinished.
    Wire,
    /// Complete checksums and single packets from the sender on, as behind a real interface;
    /// gathered between the sites by kernels that verify what they gather.
    Gathered,
    /// Complete checksums and single packets everywhere; the receiving instance verifies them.
    Bare,
}

/// What happens between the sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// Nothing.
    Clean,
    /// Frames are lost.
    Loss,
    /// Frames overtake each other.
    Reorder,
    /// Frames are lost, overtake each other and come twice.
    Mess,
    /// Single bits of payload are flipped.
    Corrupt,
}

/// One combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) family: Family,
    /// The forwarders' own `offload`.
    pub(super) offload: bool,
    pub(super) links: Links,
    pub(super) path: Path,
}

const DEVICE_ON: &str = "tx on rx on tso on gso on tx-udp-segmentation on gro off \
                         rx-udp-gro-forwarding off";
const DEVICE_OFF: &str = "tx off rx off tso off gso off tx-udp-segmentation off gro off \
                          rx-udp-gro-forwarding off";

impl Links {
    const ALL: [Links; 4] = [Links::Bare, Links::Gathered, Links::Wire, Links::Super];

    /// For both ends of the links between the sites and the router.
    pub(super) fn uplinks(self) -> &'static str {
        match self {
            Links::Super => DEVICE_ON,
            Links::Wire => {
                "tx on rx on tso off gso off tx-udp-segmentation off gro on \
                 rx-udp-gro-forwarding on"
            }
            Links::Gathered => {
                "tx off rx off tso off gso off tx-udp-segmentation off gro on \
                 rx-udp-gro-forwarding on"
            }
            Links::Bare => DEVICE_OFF,
        }
    }

    /// For both ends of the links between instances and sites.
    pub(super) fn instances(self) -> &'static str {
        if self.complete_checksums() {
            DEVICE_OFF
        } else {
            DEVICE_ON
        }
    }

    /// Whether the sender's own kernel computes every checksum.
    fn complete_checksums(self) -> bool {
        matches!(self, Links::Gathered | Links::Bare)
    }
}

impl Cell {
    /// All of them, in the order of their turns: those that need the same network follow each
    /// other, and the fastest, which takes what the others left over, is the last.
    pub(super) fn all() -> Vec<Cell> {
        let mut cells = Vec::new();
        for paths in [
            &[Path::Corrupt, Path::Mess, Path::Reorder, Path::Loss][..],
            &[Path::Clean],
        ] {
            for offload in [false, true] {
                for &path in paths {
                    for links in Links::ALL {
                        if path == Path::Corrupt && !links.complete_checksums() {
                            continue;
                        }
                        for family in [Family::Ipv6, Family::Ipv4] {
                            cells.push(Cell {
                                family,
                                offload,
                                links,
                                path,
                            });
                        }
                    }
                }
            }
        }
        cells
    }

    /// How much of the bytes it gets, compared with others: most where they move fast.
    fn weight(&self) -> u64 {
        match (self.path, self.offload, self.links) {
            (Path::Clean, true, Links::Super) => 200,
            (Path::Clean, true, Links::Wire) => 160,
            (Path::Clean, true, Links::Gathered) => 100,
            (Path::Clean, true, Links::Bare) => 60,
            (Path::Clean, false, _) => 20,
            // What the forwarder gathers is at stake here most of all.
            (Path::Corrupt, true, _) => 12,
            (_, true, _) => 6,
            (_, false, _) => 2,
        }
    }
}

/// How many of the bytes that are `left` the first of `cells` gets; the last one gets all. What one
/// cell could not move in its time is so spread over the cells after it.
pub(super) fn share(left: u64, cells: &[Cell]) -> u64 {
    let sum: u64 = cells.iter().map(Cell::weight).sum();
    let first = cells.first().map_or(0, Cell::weight);
    (u128::from(left) * u128::from(first))
        .checked_div(u128::from(sum))
        .map_or(0, |share| share as u64)
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        };
        let offload = if self.offload { "offload" } else { "plain" };
        let links = match self.links {
            Links::Super => "super",
            Links::Wire => "wire",
            Links::Gathered => "gathered",
            Links::Bare => "bare",
        };
        let path = match self.path {
            Path::Clean => "clean",
            Path::Loss => "loss",
            Path::Reorder => "reorder",
            Path::Mess => "mess",
            Path::Corrupt => "corrupt",
        };
        f.pad(&format!("{family}/{offload}/{links}/{path}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_combination_has_its_turn_once() {
        let cells = Cell::all();
        let names: BTreeSet<String> = cells.iter().map(Cell::to_string).collect();
        assert_eq!(names.len(), cells.len());
        // 2 families x 2 kinds of TUN x (4 kinds of links x 4 paths, 2 x corruption).
        assert_eq!(cells.len(), 2 * 2 * (4 * 4 + 2));
        assert!(!names.contains("ipv4/offload/super/corrupt"));
    }

    #[test]
    fn networks_are_built_once_and_the_fastest_comes_last() {
        let cells = Cell::all();
        let mut networks: Vec<_> = cells
            .iter()
            .map(|cell| (cell.offload, cell.path == Path::Clean))
            .collect();
        networks.dedup();
        assert_eq!(networks.len(), 4);
        assert_eq!(
            cells.last().unwrap().to_string(),
            "ipv4/offload/super/clean"
        );
    }

    /// The bytes of each cell, if `slow` is what the cells with an impaired path can move.
    fn deal(total: u64, slow: u64) -> Vec<(Cell, u64)> {
        let cells = Cell::all();
        let mut left = total;
        let mut dealt = Vec::new();
        for (n, cell) in cells.iter().enumerate() {
            let mut bytes = share(left, &cells[n..]);
            if cell.path != Path::Clean {
                bytes = bytes.min(slow);
            }
            left -= bytes;
            dealt.push((*cell, bytes));
        }
        assert_eq!(left, 0);
        dealt
    }

    #[test]
    fn the_sum_is_exact_and_nobody_goes_without() {
        for total in [100_000_000_000, 5_000_000_000, 10_000_001] {
            let dealt = deal(total, u64::MAX);
            assert_eq!(dealt.iter().map(|(_, bytes)| bytes).sum::<u64>(), total);
            assert!(dealt.iter().all(|(_, bytes)| *bytes > total / 1000));
            let impaired = dealt.iter().filter(|(cell, _)| cell.path != Path::Clean);
            assert!(impaired.map(|(_, bytes)| bytes).sum::<u64>() < total / 5);
        }
    }

    #[test]
    fn what_slow_cells_leave_goes_to_the_others() {
        let dealt = deal(1_000_000_000, 1000);
        let last = dealt.last().unwrap().1;
        assert!(last > deal(1_000_000_000, u64::MAX).last().unwrap().1);
    }

    #[test]
    fn nothing_left_or_nobody_there_is_nothing() {
        assert_eq!(share(0, &Cell::all()), 0);
        assert_eq!(share(100, &[]), 0);
    }
}
