//! What a run does, from what was asked for. Pure.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::contender::{self, Contender};

/// Of the addresses, and so of every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// For people.
    pub fn label(self) -> &'static str {
        match self {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        }
    }
}

/// What is between the ends, a veth or a wide-area link, and what else the machine has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Conditions {
    /// The round trip that it takes by itself; a veth takes none.
    pub rtt_ms: f64,
    /// Its bottleneck, if it has one.
    pub rate_mbit: Option<f64>,
    /// Processes that are busy all the time.
    #[serde(default)]
    pub busy: u32,
}

impl Conditions {
    /// True for a wide-area link.
    pub fn is_far(&self) -> bool {
        self.rtt_ms > 0.0 || self.rate_mbit.is_some()
    }

    /// For the name of a file.
    pub fn slug(&self) -> String {
        let mut slug = format!("rtt{}", self.rtt_ms);
        if let Some(rate) = self.rate_mbit {
            slug += &format!("-{rate}mbit");
        }
        if self.busy > 0 {
            slug += &format!("-busy{}", self.busy);
        }
        slug
    }

    /// For people; nothing for a veth on a machine that does nothing else.
    pub fn label(&self) -> String {
        let mut label = String::new();
        if self.is_far() {
            label += &format!(", {} ms round trip", self.rtt_ms);
        }
        if let Some(rate) = self.rate_mbit {
            label += &format!(", {rate} Mbit/s");
        }
        if self.busy > 0 {
            label += &format!(", beside {} busy processes", self.busy);
        }
        label
    }
}

/// What the veths carry.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum SetUp {
    /// Super-packets of up to 64 KiB: the devices' defaults, as between two machines of one host.
    Tso,
    /// Packets of at most the MTU, as on a wire: cut by the sending device, gathered by the
    /// receiving one.
    Wire,
}

impl SetUp {
    /// In the order of the table.
    pub const ALL: [SetUp; 2] = [SetUp::Tso, SetUp::Wire];

    /// Words for `ethtool -K`.
    pub fn features(self) -> &'static str {
        match self {
            SetUp::Tso => "tso on gso on tx-udp-segmentation on gro off",
            SetUp::Wire => "tso off gso off tx-udp-segmentation off gro on",
        }
    }

    /// For people.
    pub fn label(self) -> &'static str {
        match self {
            SetUp::Tso => "TSO: super-packets cross the veth",
            SetUp::Wire => "wire: 1500-byte packets cross the veth",
        }
    }
}

/// What is measured.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// One TCP stream.
    Tcp1,
    /// Four TCP streams.
    Tcp4,
    /// One flow of datagrams with 64 octets of payload, from iperf3.
    Udp64,
    /// The same from a sender that does nothing else.
    UdpFlood,
    /// Eight flows of datagrams of changing size.
    UdpMixed,
    /// One flow of packets of 1400 bytes, which fit into every tunnel.
    Udp1400,
    /// Round trips of a small datagram.
    Latency,
}

impl Measure {
    /// In the order of the table.
    pub const ALL: [Measure; 7] = [
        Measure::Tcp1,
        Measure::Tcp4,
        Measure::Udp64,
        Measure::UdpFlood,
        Measure::UdpMixed,
        Measure::Udp1400,
        Measure::Latency,
    ];

    /// For people.
    pub fn label(self) -> &'static str {
        match self {
            Measure::Tcp1 => "TCP, 1 stream",
            Measure::Tcp4 => "TCP, 4 streams",
            Measure::Udp64 => "UDP, 64 octets, iperf3",
            Measure::UdpFlood => "UDP, 64 octets, flood",
            Measure::UdpMixed => "UDP, 8 flows, mixed sizes",
            Measure::Udp1400 => "UDP, 1400-byte packets",
            Measure::Latency => "round trip, p50",
        }
    }
}

/// What was asked for; `None` is the default.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// The short form.
    pub quick: bool,
    /// The link is a wide-area one.
    pub far: bool,
    /// Ids of contenders.
    pub only: Option<Vec<String>>,
    /// Measures.
    pub measures: Option<Vec<Measure>>,
    /// One set-up.
    pub set_up: Option<SetUp>,
    /// Rounds.
    pub rounds: Option<u32>,
    /// Length of one transfer in seconds.
    pub seconds: Option<u32>,
}

/// What a run does. A round is every measure in every set-up with every contender, once.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In the order of the table.
    pub contenders: Vec<&'static Contender>,
    /// In the order they run.
    pub measures: Vec<Measure>,
    /// In the order they run.
    pub set_ups: Vec<SetUp>,
    /// How many.
    pub rounds: u32,
    /// Length of one transfer.
    pub seconds: u32,
}

/// Rounds of the full form; of the quick one, whose median has a 95 % interval just so (see
/// [`crate::stats`]).
const ROUNDS: u32 = 15;
const QUICK_ROUNDS: u32 = 6;

/// Of the quick form: what a change of the program can show in.
const QUICK: [&str; 4] = [
    contender::DIRECT,
    contender::KERNEL,
    contender::MAT,
    contender::MAT_PLAIN,
];

/// Over a long way: what the way itself allows, ours, and the best of the others.
const FAR: [&str; 6] = [
    contender::DIRECT,
    contender::MAT,
    "mat-single",
    "mat-queues",
    "mat-redirect",
    "wireguard-go",
];

impl Plan {
    /// The error names the contender that there is not.
    pub fn new(wishes: &Wishes) -> Result<Self, String> {
        let far = wishes.far;
        let contenders = match &wishes.only {
            Some(ids) => chosen(ids)?,
            None if far => named(&FAR),
            None if wishes.quick => named(&QUICK),
            None => contender::ALL.iter().collect(),
        };
        let measures = match (&wishes.measures, far, wishes.quick) {
            (Some(measures), ..) => measures.clone(),
            (None, true, _) => vec![Measure::Tcp1],
            (None, false, true) => vec![Measure::Tcp1, Measure::Udp64, Measure::Latency],
            (None, false, false) => Measure::ALL.to_vec(),
        };
        let seconds = match (far, wishes.quick) {
            // The window has to open first.
            (true, _) => 10,
            (false, true) => 1,
            (false, false) => 2,
        };
        let rounds = if wishes.quick { QUICK_ROUNDS } else { ROUNDS };
        Ok(Plan {
            contenders,
            measures,
            set_ups: wishes.set_up.map_or(SetUp::ALL.to_vec(), |one| vec![one]),
            rounds: wishes.rounds.unwrap_or(rounds),
            seconds: wishes.seconds.unwrap_or(seconds),
        })
    }
}

/// In the order of the table, each once, and the reference of the ratios with them.
fn chosen(ids: &[String]) -> Result<Vec<&'static Contender>, String> {
    if let Some(unknown) = ids.iter().find(|id| contender::find(id).is_none()) {
        let known: Vec<_> = contender::ALL.iter().map(|c| c.id).collect();
        return Err(format!(
            "there is no contender `{unknown}`; there are {}",
            known.join(", ")
        ));
    }
    let ids = ids.iter().map(String::as_str);
    Ok(named(&ids.chain([contender::DIRECT]).collect::<Vec<_>>()))
}

fn named(ids: &[&str]) -> Vec<&'static Contender> {
    let all = contender::ALL.iter();
    all.filter(|c| ids.contains(&c.id)).collect()
}

/// The contenders of one turn in an order that a seed decides, another one each turn. What comes
/// first in a machine's cold moment, or after the heaviest one, is not always the same.
pub fn shuffled<T: Copy>(items: &[T], seed: u64, turn: u64) -> Vec<T> {
    let mut items = items.to_vec();
    let mut state = seed ^ turn.wrapping_mul(0xA24B_AED4_963E_E407);
    // Fisher and Yates.
    for last in (1..items.len()).rev() {
        let other = split_mix(&mut state) % (last as u64 + 1);
        items.swap(last, other as usize);
    }
    items
}

/// Steele, Lea and Flood: Fast splittable pseudorandom number generators (2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(plan: &Plan) -> Vec<&str> {
        plan.contenders.iter().map(|c| c.id).collect()
    }

    #[test]
    fn all_take_part_unless_told_otherwise() {
        let plan = Plan::new(&Wishes::default()).unwrap();
        assert_eq!(plan.contenders.len(), contender::ALL.len());
        assert_eq!(plan.measures, Measure::ALL);
        assert_eq!(plan.set_ups, SetUp::ALL);
        assert_eq!((plan.rounds, plan.seconds), (15, 2));
    }

    #[test]
    fn the_named_ones_run_beside_the_reference_in_the_order_of_the_table() {
        let wishes = Wishes {
            only: Some(vec!["vxlan".to_owned(), "nft".to_owned(), "nft".to_owned()]),
            measures: Some(vec![Measure::Latency]),
            set_up: Some(SetUp::Wire),
            rounds: Some(3),
            ..Wishes::default()
        };
        let plan = Plan::new(&wishes).unwrap();
        assert_eq!(ids(&plan), ["direct", "nft", "vxlan"]);
        assert_eq!(plan.measures, [Measure::Latency]);
        assert_eq!(plan.set_ups, [SetUp::Wire]);
        assert_eq!(plan.rounds, 3);
    }

    #[test]
    fn a_wrong_name_is_told_with_the_right_ones() {
        let wishes = Wishes {
            only: Some(vec!["mat-fast".to_owned()]),
            ..Wishes::default()
        };
        let error = Plan::new(&wishes).unwrap_err();
        assert!(error.contains("`mat-fast`"), "{error}");
        assert!(error.contains("mat-plain, naive, wireguard-go"), "{error}");
    }

    #[test]
    fn the_short_and_the_far_form_choose_among_known_ones() {
        let quick = Wishes {
            quick: true,
            ..Wishes::default()
        };
        assert_eq!(ids(&Plan::new(&quick).unwrap()), QUICK);
        let far = Wishes {
            far: true,
            ..Wishes::default()
        };
        let plan = Plan::new(&far).unwrap();
        assert_eq!(ids(&plan), FAR);
        assert_eq!((plan.measures, plan.seconds), (vec![Measure::Tcp1], 10));
    }

    #[test]
    fn conditions_say_what_they_are() {
        let far = Conditions {
            rtt_ms: 20.0,
            rate_mbit: Some(500.0),
            ..Conditions::default()
        };
        assert_eq!(far.slug(), "rtt20-500mbit");
        assert_eq!(far.label(), ", 20 ms round trip, 500 Mbit/s");
        assert!(far.is_far());
        let mut veth = Conditions::default();
        assert_eq!(
            (veth.slug(), veth.label()),
            ("rtt0".to_owned(), String::new())
        );
        veth.busy = 2;
        assert!(!veth.is_far());
        assert_eq!(veth.slug(), "rtt0-busy2");
        assert_eq!(veth.label(), ", beside 2 busy processes");
    }

    #[test]
    fn an_order_repeats_with_its_seed_and_changes_from_turn_to_turn() {
        let items = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(shuffled(&items, 7, 0), shuffled(&items, 7, 0));
        assert_ne!(shuffled(&items, 7, 0), shuffled(&items, 7, 1));
        assert_ne!(shuffled(&items, 7, 0), shuffled(&items, 8, 0));
        let mut sorted = shuffled(&items, 7, 0);
        sorted.sort_unstable();
        assert_eq!(sorted, items);
    }

    #[test]
    fn everybody_is_first_about_as_often() {
        let mut first = [0; 4];
        for turn in 0..4000 {
            first[shuffled(&[0, 1, 2, 3], 1, turn)[0]] += 1;
        }
        assert!(first.iter().all(|n| (900..1100).contains(n)), "{first:?}");
    }
}
