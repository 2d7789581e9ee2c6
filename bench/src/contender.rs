//! Who takes part: a list, so that another variant is another line.

/// One way from sender to receiver.
#[derive(Debug)]
pub struct Contender {
    /// In flags and raw files.
    pub id: &'static str,
    /// In tables and plots.
    pub label: &'static str,
    /// How it is built.
    pub kind: Kind,
}

/// How a contender is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The wire alone.
    Direct,
    /// A kernel that forwards between two wires.
    Router,
    /// Both kernels rewrite both addresses, without connection tracking.
    Rewrite,
    /// A VXLAN tunnel of the kernel (RFC 7348).
    Vxlan,
    /// A forwarder of ours at both ends; the lines are those of its `[tun]`.
    Mat(&'static str),
    /// The same, but `tc` leads what comes in into the TUN at ingress, before any route is asked.
    Redirect,
    /// The simplest forwarder there can be at both ends.
    Naive,
    /// A user-space WireGuard at both ends; the program's name.
    WireGuard(&'static str),
}

/// The reference of all ratios.
pub const DIRECT: &str = "direct";

/// What a forwarder must not be far from.
pub const KERNEL: &str = "kernel";

/// `matd` as it comes.
pub const MAT: &str = "mat";

/// `matd` with a TUN that takes and gives nothing but plain packets, as on Android.
pub const MAT_PLAIN: &str = "mat-plain";

/// What such a TUN is used like in a tutorial.
pub const NAIVE: &str = "naive";

/// In the order of tables and plots.
pub const ALL: [Contender; 13] = [
    Contender {
        id: DIRECT,
        label: "direct veth",
        kind: Kind::Direct,
    },
    Contender {
        id: KERNEL,
        label: "kernel forwarding",
        kind: Kind::Router,
    },
    Contender {
        id: "nft",
        label: "nftables rewrite",
        kind: Kind::Rewrite,
    },
    Contender {
        id: "vxlan",
        label: "VXLAN (kernel)",
        kind: Kind::Vxlan,
    },
    Contender {
        id: MAT,
        label: "MAT",
        kind: Kind::Mat(""),
    },
    Contender {
        id: "mat-single",
        label: "MAT, `coalesce = false`",
        kind: Kind::Mat("coalesce = false"),
    },
    Contender {
        id: "mat-queues",
        label: "MAT, `queues = 2`",
        kind: Kind::Mat("queues = 2"),
    },
    Contender {
        id: "mat-redirect",
        label: "MAT, led in by `tc`",
        kind: Kind::Redirect,
    },
    Contender {
        id: MAT_PLAIN,
        label: "MAT, `offload = false`",
        kind: Kind::Mat("offload = false"),
    },
    Contender {
        id: NAIVE,
        label: "naive plain TUN",
        kind: Kind::Naive,
    },
    Contender {
        id: "wireguard-go",
        label: "wireguard-go",
        kind: Kind::WireGuard("wireguard-go"),
    },
    Contender {
        id: "gotatun",
        label: "GotaTun",
        kind: Kind::WireGuard("gotatun"),
    },
    Contender {
        id: "boringtun",
        label: "BoringTun",
        kind: Kind::WireGuard("boringtun-cli"),
    },
];

/// By its id.
pub fn find(id: &str) -> Option<&'static Contender> {
    ALL.iter().find(|contender| contender.id == id)
}

/// Place in the table; unknown ones, which a raw file of another version may have, come last.
pub fn place(id: &str) -> usize {
    let place = ALL.iter().position(|contender| contender.id == id);
    place.unwrap_or(ALL.len())
}

/// The words for people; the id itself if it is not known.
pub fn label(id: &str) -> &str {
    find(id).map_or(id, |contender| contender.label)
}

/// True for the user-space WireGuards.
pub fn is_wireguard(id: &str) -> bool {
    find(id).is_some_and(|contender| matches!(contender.kind, Kind::WireGuard(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_the_reference_comes_first() {
        for (place, contender) in ALL.iter().enumerate() {
            assert_eq!(super::place(contender.id), place);
        }
        assert_eq!(ALL[0].id, DIRECT);
        assert_eq!(find(KERNEL).unwrap().kind, Kind::Router);
        assert_eq!(find(MAT).unwrap().kind, Kind::Mat(""));
    }

    #[test]
    fn an_unknown_one_keeps_its_name_and_comes_last() {
        assert_eq!(label("carrier-pigeon"), "carrier-pigeon");
        assert!(place("carrier-pigeon") > place("boringtun"));
        assert!(!is_wireguard("carrier-pigeon"));
        assert!(is_wireguard("gotatun"));
    }
}
