//! Transport headers and payloads, each with its checksum computed in full by etherparse.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{Icmpv4Type, Icmpv6Type, TcpHeader, UdpHeader};
use mat_dataplane::rewrite::{Family, protocol};

use crate::packets::Ends;

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
    pub fn checksum_offset(&self, family: Family) -> Option<usize> {
        match self {
            Body::Tcp { .. } => Some(16),
            Body::Udp { .. } | Body::UdpLite { .. } | Body::Dccp { .. } => Some(6),
            Body::Mobility { .. } => Some(4),
            Body::Echo { .. } | Body::Error { .. } if family == Family::V6 => Some(2),
            Body::Echo { .. } | Body::Error { .. } | Body::Other { .. } => None,
        }
    }

    /// Transport header and payload, checksum complete.
    pub fn segment(&self, covered: Ends) -> Vec<u8> {
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
