//! Descriptions of packets that can be built for any addresses, every checksum computed in full
//! by etherparse.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    Icmpv4Type, Icmpv6Type, IpDscp, IpEcn, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options,
    Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader,
};
use mat_dataplane::rewrite::{Family, protocol};

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
    Routing {
        kind: u8,
        left: u8,
        addresses: Vec<Ipv6Addr>,
    },
    AtomicFragment(u32),
    Authentication,
}

#[derive(Debug, Clone)]
pub enum Body {
    Tcp {
        ports: (u16, u16),
        sequence: u32,
        flags: u8,
        payload: Vec<u8>,
    },
    Udp {
        ports: (u16, u16),
        checksum: bool,
        payload: Vec<u8>,
    },
    UdpLite {
        ports: (u16, u16),
        coverage: usize,
        payload: Vec<u8>,
    },
    Dccp {
        ports: (u16, u16),
        coverage: u8,
        payload: Vec<u8>,
    },
    Echo {
        reply: bool,
        rest: [u8; 4],
        payload: Vec<u8>,
    },
    Mobility {
        payload: Vec<u8>,
    },
    /// A protocol whose checksum, if any, does not cover addresses.
    Other {
        number: u8,
        payload: Vec<u8>,
    },
    /// An ICMP error; the quote is raw bytes.
    Error {
        kind: u8,
        code: u8,
        rest: [u8; 4],
        quote: Vec<u8>,
    },
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
            Extension::Destination { .. } | Extension::HomeAddress(_) => 60,
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

impl Body {
    pub fn number(&self, family: Family) -> u8 {
        match self {
            Body::Tcp { .. } => protocol::TCP,
            Body::Udp { .. } => protocol::UDP,
            Body::UdpLite { .. } => protocol::UDP_LITE,
            Body::Dccp { .. } => protocol::DCCP,
            Body::Mobility { .. } => protocol::MOBILITY,
            Body::Other { number, .. } => *number,
            Body::Echo { .. } | Body::Error { .. } => match family {
                Family::V4 => protocol::ICMP,
                Family::V6 => protocol::ICMPV6,
            },
        }
    }

    /// Where the checksum stands, if it covers the addresses.
    fn checksum_offset(&self, family: Family) -> Option<usize> {
        match self {
            Body::Tcp { .. } => Some(16),
            Body::Udp { .. } | Body::UdpLite { .. } | Body::Dccp { .. } => Some(6),
            Body::Mobility { .. } => Some(4),
            Body::Echo { .. } | Body::Error { .. } if family == Family::V6 => Some(2),
            Body::Echo { .. } | Body::Error { .. } | Body::Other { .. } => None,
        }
    }

    /// Transport header and payload, checksum complete.
    fn segment(&self, covered: Ends) -> Vec<u8> {
        match self {
            Body::Tcp {
                ports,
                sequence,
                flags,
                payload,
            } => {
                let mut header = TcpHeader::new(ports.0, ports.1, *sequence, 0x7210);
                header.fin = flags & 1 != 0;
                header.syn = flags & 2 != 0;
                header.rst = flags & 4 != 0;
                header.ack = flags & 16 != 0;
                header.checksum = match covered {
                    Ends {
                        src: IpAddr::V4(src),
                        dst: IpAddr::V4(dst),
                    } => header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), payload),
                    Ends {
                        src: IpAddr::V6(src),
                        dst: IpAddr::V6(dst),
                    } => header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), payload),
                    _ => panic!("mixed families"),
                }
                .unwrap();
                [header.to_bytes().as_slice(), payload].concat()
            }
            Body::Udp {
                ports,
                checksum,
                payload,
            } => {
                let mut header =
                    UdpHeader::without_ipv4_checksum(ports.0, ports.1, payload.len()).unwrap();
                if *checksum {
                    header.checksum = match covered {
                        Ends {
                            src: IpAddr::V4(src),
                            dst: IpAddr::V4(dst),
                        } => header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), payload),
                        Ends {
                            src: IpAddr::V6(src),
                            dst: IpAddr::V6(dst),
                        } => header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), payload),
                        _ => panic!("mixed families"),
                    }
                    .unwrap();
                }
                [header.to_bytes().as_slice(), payload].concat()
            }
            Body::UdpLite {
                ports,
                coverage,
                payload,
            } => {
                let mut segment = ports_bytes(*ports);
                let coverage = if *coverage == 0 {
                    0
                } else {
                    8 + coverage % (payload.len() + 1)
                };
                segment.extend((coverage as u16).to_be_bytes());
                segment.extend([0, 0]);
                segment.extend(payload);
                let seen = if coverage == 0 {
                    segment.len()
                } else {
                    coverage
                };
                let sum = pseudo_header(covered, protocol::UDP_LITE, segment.len());
                let checksum = match complement(sum.add_slice(&segment[..seen])) {
                    0 => 0xFFFF,
                    checksum => checksum,
                };
                segment[6..8].copy_from_slice(&checksum.to_be_bytes());
                segment
            }
            Body::Dccp {
                ports,
                coverage,
                payload,
            } => {
                let mut segment = ports_bytes(*ports);
                segment.extend([4, coverage & 0x0F, 0, 0, 0x01, 0, 0, 0, 0, 0, 0, 9]);
                segment.extend(payload);
                let seen = match usize::from(coverage & 0x0F) {
                    0 => segment.len(),
                    words => (16 + 4 * (words - 1)).min(segment.len()),
                };
                let sum = pseudo_header(covered, protocol::DCCP, segment.len());
                let checksum = complement(sum.add_slice(&segment[..seen]));
                segment[6..8].copy_from_slice(&checksum.to_be_bytes());
                segment
            }
            Body::Echo {
                reply,
                rest,
                payload,
            } => {
                let kind = match (covered.src, reply) {
                    (IpAddr::V4(_), false) => 8,
                    (IpAddr::V4(_), true) => 0,
                    (IpAddr::V6(_), false) => 128,
                    (IpAddr::V6(_), true) => 129,
                };
                icmp(covered, kind, 0, *rest, payload)
            }
            Body::Error {
                kind,
                code,
                rest,
                quote,
            } => icmp(covered, *kind, *code, *rest, quote),
            Body::Mobility { payload } => {
                let mut segment = vec![59, 0, 5, 0, 0, 0, 0, 0];
                segment.extend(payload);
                segment.resize(segment.len().next_multiple_of(8), 0);
                segment[1] = (segment.len() / 8 - 1) as u8;
                let sum = pseudo_header(covered, protocol::MOBILITY, segment.len());
                let checksum = complement(sum.add_slice(&segment));
                segment[4..6].copy_from_slice(&checksum.to_be_bytes());
                segment
            }
            Body::Other { payload, .. } => payload.clone(),
        }
    }
}

fn ports_bytes((src, dst): (u16, u16)) -> Vec<u8> {
    [src.to_be_bytes(), dst.to_be_bytes()].concat()
}

fn icmp(covered: Ends, type_u8: u8, code_u8: u8, bytes5to8: [u8; 4], body: &[u8]) -> Vec<u8> {
    let checksum = match covered {
        Ends {
            src: IpAddr::V6(src),
            dst: IpAddr::V6(dst),
        } => Icmpv6Type::Unknown {
            type_u8,
            code_u8,
            bytes5to8,
        }
        .calc_checksum(src.octets(), dst.octets(), body)
        .unwrap(),
        _ => Icmpv4Type::Unknown {
            type_u8,
            code_u8,
            bytes5to8,
        }
        .calc_checksum(body),
    };
    let [high, low] = checksum.to_be_bytes();
    [&[type_u8, code_u8, high, low], bytes5to8.as_slice(), body].concat()
}

pub fn pseudo_header(ends: Ends, number: u8, length: usize) -> Sum16BitWords {
    let mut sum = Sum16BitWords::new();
    for address in [ends.src, ends.dst] {
        sum = match address {
            IpAddr::V4(address) => sum.add_slice(&address.octets()),
            IpAddr::V6(address) => sum.add_slice(&address.octets()),
        };
    }
    sum.add_4bytes((length as u32).to_be_bytes())
        .add_2bytes([0, number])
}

pub fn complement(sum: Sum16BitWords) -> u16 {
    sum.ones_complement().to_be()
}
