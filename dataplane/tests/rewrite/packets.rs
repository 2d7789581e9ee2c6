//! Descriptions of packets that can be built for any addresses, every checksum computed in full
//! by etherparse.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    IpDscp, IpEcn, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header,
};
use mat_dataplane::rewrite::Family;

use crate::segments::{Body, complement, pseudo_header};

/// The two addresses of an IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    pub src: IpAddr,
    pub dst: IpAddr,
}

impl Ends {
    /// These, with some replaced.
    pub fn with(self, src: Option<IpAddr>, dst: Option<IpAddr>) -> Ends {
        Ends {
            src: src.unwrap_or(self.src),
            dst: dst.unwrap_or(self.dst),
        }
    }
}

/// Everything about a packet but its addresses.
#[derive(Debug, Clone)]
pub struct Spec {
    pub network: Network,
    pub body: Body,
    pub fragment: Cut,
}

#[derive(Debug, Clone)]
pub enum Network {
    V4 {
        class: u8,
        identification: u16,
        ttl: u8,
        option: V4Option,
    },
    /// The second list stands behind the fragment header, if there is one.
    V6 {
        class: u8,
        label: u32,
        hops: u8,
        extensions: Vec<Extension>,
        inner: Vec<Extension>,
    },
}

/// No options, no extension headers.
pub fn plain_network(family: Family) -> Network {
    match family {
        Family::V4 => Network::V4 {
            class: 0,
            identification: 7,
            ttl: 64,
            option: V4Option::None,
        },
        Family::V6 => Network::V6 {
            class: 0,
            label: 0,
            hops: 64,
            extensions: vec![],
            inner: vec![],
        },
    }
}

#[derive(Debug, Clone)]
pub enum V4Option {
    None,
    Padding,
    Timestamp,
    /// A source route through these, of which so many are visited.
    SourceRoute {
        strict: bool,
        route: Vec<Ipv4Addr>,
        visited: usize,
    },
}

#[derive(Debug, Clone)]
pub enum Extension {
    HopByHop {
        units: u8,
    },
    Destination {
        units: u8,
    },
    HomeAddress(Ipv6Addr),
    /// Options that only look like a home address: too short, or cut off by the header's end.
    NoHomeAddress {
        cut: bool,
    },
    Routing {
        kind: u8,
        left: u8,
        addresses: Vec<Ipv6Addr>,
    },
    AtomicFragment(u32),
    Authentication,
}

#[derive(Debug, Clone, Copy)]
pub enum Cut {
    Whole,
    /// The first so many units of 8 bytes, but never less than holds the checksum.
    First(usize),
    /// What is behind that.
    Later(usize),
}

/// A packet in bytes.
#[derive(Debug, Clone)]
pub struct Built {
    pub bytes: Vec<u8>,
    /// Where the transport header starts.
    pub transport: usize,
    /// Where the transport checksum stands that covers the addresses, if it does and is there.
    pub checksum: Option<usize>,
}

impl Spec {
    pub fn family(&self) -> Family {
        match self.network {
            Network::V4 { .. } => Family::V4,
            Network::V6 { .. } => Family::V6,
        }
    }

    /// With complete checksums.
    pub fn build(&self, ends: Ends) -> Built {
        let covered = self.covered(ends);
        self.assemble(ends, self.body.segment(covered))
    }

    /// With the sum of the pseudo-header, as Linux hands it to a card that completes checksums.
    pub fn build_partial(&self, ends: Ends) -> Built {
        let covered = self.covered(ends);
        let mut segment = self.body.segment(covered);
        if let Some(at) = self.body.checksum_offset(self.family()) {
            let number = self.body.number(self.family());
            let partial = !complement(pseudo_header(covered, number, segment.len()));
            segment[at..at + 2].copy_from_slice(&partial.to_be_bytes());
        }
        self.assemble(ends, segment)
    }

    /// The addresses in the pseudo-header: the first source and the final destination.
    fn covered(&self, ends: Ends) -> Ends {
        let mut covered = ends;
        match &self.network {
            Network::V4 {
                option: V4Option::SourceRoute { route, visited, .. },
                ..
            } => {
                if *visited < route.len() {
                    covered.dst = route[route.len() - 1].into();
                }
            }
            Network::V4 { .. } => {}
            Network::V6 {
                extensions, inner, ..
            } => {
                for extension in extensions.iter().chain(inner) {
                    match extension {
                        Extension::HomeAddress(home) => covered.src = (*home).into(),
                        Extension::Routing {
                            kind,
                            left: 1..,
                            addresses,
                        } => {
                            // Segment routing lists its segments backwards.
                            let last = if *kind == 4 { 0 } else { addresses.len() - 1 };
                            covered.dst = addresses[last].into();
                        }
                        _ => {}
                    }
                }
            }
        }
        covered
    }

    fn assemble(&self, ends: Ends, segment: Vec<u8>) -> Built {
        let number = self.body.number(self.family());
        let checksum = self.body.checksum_offset(self.family());
        let needed = checksum.map_or(0, |at| at + 2);
        match (&self.network, ends) {
            (
                Network::V4 {
                    class,
                    identification,
                    ttl,
                    option,
                },
                Ends {
                    src: IpAddr::V4(src),
                    dst: IpAddr::V4(dst),
                },
            ) => {
                let (data, offset, more) = self.fragment.apply(segment, needed);
                let mut header = Ipv4Header::new(
                    data.len() as u16,
                    *ttl,
                    IpNumber(number),
                    src.octets(),
                    dst.octets(),
                )
                .unwrap();
                header.dscp = IpDscp::try_new(class >> 2).unwrap();
                header.ecn = IpEcn::try_new(class & 3).unwrap();
                header.identification = *identification;
                header.dont_fragment = false;
                header.more_fragments = more;
                header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
                header.options = Ipv4Options::try_from(option.bytes().as_slice()).unwrap();
                header.set_payload_len(data.len()).unwrap();
                header.header_checksum = header.calc_header_checksum();
                let mut bytes = header.to_bytes().to_vec();
                let transport = bytes.len();
                bytes.extend(data);
                Built {
                    bytes,
                    transport,
                    checksum: at(checksum, transport, offset),
                }
            }
            (
                Network::V6 {
                    class,
                    label,
                    hops,
                    extensions,
                    inner,
                },
                Ends {
                    src: IpAddr::V6(src),
                    dst: IpAddr::V6(dst),
                },
            ) => {
                let (first_inner, inner) = chain(inner, number);
                let needed = inner.len() + needed;
                let inner_len = inner.len();
                let (data, offset, more) = self.fragment.apply([inner, segment].concat(), needed);
                let (first, mut payload) = if matches!(self.fragment, Cut::Whole) {
                    chain(extensions, first_inner)
                } else {
                    let (first, mut outer) = chain(extensions, 44);
                    let position = offset << 3 | u16::from(more);
                    outer.extend([first_inner, 0]);
                    outer.extend(position.to_be_bytes());
                    outer.extend([0xDE, 0xAD, 0xBE, 0xEF]);
                    (first, outer)
                };
                let transport = 40 + payload.len() + if offset == 0 { inner_len } else { 0 };
                payload.extend(data);
                let header = Ipv6Header {
                    traffic_class: *class,
                    flow_label: Ipv6FlowLabel::try_new(*label).unwrap(),
                    payload_length: payload.len() as u16,
                    next_header: IpNumber(first),
                    hop_limit: *hops,
                    source: src.octets(),
                    destination: dst.octets(),
                };
                let bytes = [header.to_bytes().to_vec(), payload].concat();
                Built {
                    bytes,
                    transport,
                    checksum: at(checksum, transport, offset),
                }
            }
            _ => panic!("the addresses are of another family than the network header"),
        }
    }
}

fn at(checksum: Option<usize>, transport: usize, fragment_offset: u16) -> Option<usize> {
    checksum
        .filter(|_| fragment_offset == 0)
        .map(|at| transport + at)
}

impl Cut {
    /// The data of the fragment, its offset in units, and whether more follow.
    fn apply(self, data: Vec<u8>, needed: usize) -> (Vec<u8>, u16, bool) {
        let split = |units: usize| (units.max(needed.div_ceil(8)).max(1) * 8).min(data.len());
        match self {
            Cut::Whole => (data, 0, false),
            Cut::First(units) => (data[..split(units)].to_vec(), 0, true),
            Cut::Later(units) => {
                let split = split(units);
                (data[split..].to_vec(), split.div_ceil(8) as u16, false)
            }
        }
    }
}

impl V4Option {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = match self {
            V4Option::None => vec![],
            V4Option::Padding => vec![1, 1, 1, 0],
            V4Option::Timestamp => vec![68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            V4Option::SourceRoute {
                strict,
                route,
                visited,
            } => {
                let kind = if *strict { 137 } else { 131 };
                let mut bytes = vec![1, kind, 3 + 4 * route.len() as u8, 4 + 4 * *visited as u8];
                bytes.extend(route.iter().flat_map(|address| address.octets()));
                bytes
            }
        };
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}

impl Extension {
    fn number(&self) -> u8 {
        match self {
            Extension::HopByHop { .. } => 0,
            Extension::Destination { .. }
            | Extension::HomeAddress(_)
            | Extension::NoHomeAddress { .. } => 60,
            Extension::Routing { .. } => 43,
            Extension::AtomicFragment(_) => 44,
            Extension::Authentication => 51,
        }
    }

    fn bytes(&self, next: u8) -> Vec<u8> {
        match self {
            Extension::HopByHop { units } | Extension::Destination { units } => {
                let length = 8 * (usize::from(*units) + 1);
                let mut bytes = vec![next, *units, 1, (length - 4).min(255) as u8];
                bytes.resize(length, 0);
                bytes
            }
            // An option that looks like a home address but for its length comes first.
            Extension::HomeAddress(home) => {
                let mut bytes = vec![next, 2, 0xC9, 1, 7, 0, 0xC9, 16];
                bytes.extend(home.octets());
                bytes
            }
            Extension::NoHomeAddress { cut: true } => {
                [&[next, 2, 1, 4, 0, 0, 0, 0, 0xC9, 16], [7; 14].as_slice()].concat()
            }
            Extension::NoHomeAddress { cut: false } => {
                [&[next, 2, 0xC9, 1, 7, 1, 17], [0; 17].as_slice()].concat()
            }
            Extension::Routing {
                kind,
                left,
                addresses,
            } => {
                let last = addresses.len().saturating_sub(1) as u8;
                let mut bytes = vec![next, 2 * addresses.len() as u8, *kind, *left, last, 0, 0, 0];
                bytes.extend(addresses.iter().flat_map(|address| address.octets()));
                bytes
            }
            Extension::AtomicFragment(identification) => {
                [&[next, 0, 0, 0], identification.to_be_bytes().as_slice()].concat()
            }
            Extension::Authentication => [&[next, 4, 0, 0], [7; 20].as_slice()].concat(),
        }
    }
}

/// The bytes of a chain and the number of its first header.
fn chain(extensions: &[Extension], last: u8) -> (u8, Vec<u8>) {
    extensions
        .iter()
        .rev()
        .fold((last, vec![]), |(next, behind), extension| {
            (extension.number(), [extension.bytes(next), behind].concat())
        })
}
