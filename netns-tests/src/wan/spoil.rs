//! One wrong bit in a frame, pure.

use super::packet_socket::VNET_HEADER;

const ETHERNET: usize = 14;
const IPV6_HEADER: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Flips one bit of the TCP or UDP payload of a frame that begins with its virtio-net header;
/// `number` decides which. False, and nothing is changed, if there is no such payload, or if the
/// checksum is still to be computed (a partial checksum or a super-packet): whoever computes it
/// would vouch for the wrong bit. Fragments and packets with IPv6 extension headers are left alone.
pub(super) fn flip_payload_bit(frame: &mut [u8], number: u64) -> bool {
    let Some(payload) = payload(frame) else {
        return false;
    };
    let bit = number % (payload.len() as u64 * 8);
    let octet = payload.start + (bit / 8) as usize;
    frame[octet] ^= 1 << (bit % 8);
    true
}

/// Where the payload is, if it is not empty and covered by a complete checksum.
fn payload(frame: &[u8]) -> Option<std::ops::Range<usize>> {
    let (vnet, ethernet) = frame.split_at_checked(VNET_HEADER)?;
    // VIRTIO_NET_HDR_F_NEEDS_CSUM, and a GSO type other than none.
    if vnet[0] & 1 != 0 || vnet[1] != 0 {
        return None;
    }
    let packet = ethernet.get(ETHERNET..)?;
    let (header, end, protocol) = match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
        0x0800 => {
            let fragment = field(packet, 6)? & 0x3fff != 0;
            let header = usize::from(packet[0] & 15) * 4;
            let end = usize::from(field(packet, 2)?);
            (!fragment).then_some((header, end, *packet.get(9)?))?
        }
        0x86dd => {
            let end = IPV6_HEADER + usize::from(field(packet, 4)?);
            (IPV6_HEADER, end, *packet.get(6)?)
        }
        _ => return None,
    };
    // What is longer than the packet says is padding.
    let transport = packet.get(..end)?.get(header..)?;
    let skip = match protocol {
        TCP => usize::from(*transport.get(12)? >> 4) * 4,
        // Without a checksum nobody would notice.
        UDP if field(transport, 6)? != 0 => 8,
        _ => return None,
    };
    let start = VNET_HEADER + ETHERNET + header + skip;
    let end = VNET_HEADER + ETHERNET + end;
    (start < end).then_some(start..end)
}

fn field(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*octets.get(at)?, *octets.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header lengths: virtio-net and Ethernet, IPv4 or IPv6, then TCP (20) or UDP (8).
    fn frame(ipv6: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut transport = match protocol {
            TCP => vec![0; 20],
            _ => vec![0, 0, 0, 0, 0, 0, 0x12, 0x34],
        };
        if protocol == TCP {
            transport[12] = 5 << 4;
        }
        transport.extend(payload);
        let length = transport.len() as u16;
        let mut frame = vec![0; VNET_HEADER + ETHERNET];
        if ipv6 {
            frame[VNET_HEADER + 12..].copy_from_slice(&[0x86, 0xdd]);
            let mut header = vec![0; IPV6_HEADER];
            header[4..6].copy_from_slice(&length.to_be_bytes());
            header[6] = protocol;
            frame.extend(header);
        } else {
            frame[VNET_HEADER + 12..].copy_from_slice(&[0x08, 0x00]);
            let mut header = vec![0; 20];
            header[0] = 0x45;
            header[2..4].copy_from_slice(&(20 + length).to_be_bytes());
            header[9] = protocol;
            frame.extend(header);
        }
        frame.extend(transport);
        frame
    }

    #[test]
    fn exactly_one_bit_of_the_payload_changes_and_every_one_can() {
        for ipv6 in [false, true] {
            for protocol in [TCP, UDP] {
                let mut good = frame(ipv6, protocol, &[0; 3]);
                let payload = good.len() - 3..good.len();
                // Padding to the least length of Ethernet must stay as it is.
                good.extend([0; 6]);
                let mut seen = 0u32;
                for number in 0..24 {
                    let mut bad = good.clone();
                    assert!(flip_payload_bit(&mut bad, number));
                    assert_eq!(bad[..payload.start], good[..payload.start]);
                    assert_eq!(bad[payload.end..], good[payload.end..]);
                    let bits = &bad[payload.clone()];
                    seen |= u32::from_be_bytes([0, bits[0], bits[1], bits[2]]);
                    assert_eq!(bits.iter().map(|b| b.count_ones()).sum::<u32>(), 1);
                }
                assert_eq!(seen, 0xff_ffff);
            }
        }
    }

    #[test]
    fn what_nobody_could_notice_is_left_alone() {
        let good = frame(false, UDP, b"payload");
        let change = |at: usize, to: u8| {
            let mut frame = good.clone();
            frame[at] = to;
            frame
        };
        let ip = VNET_HEADER + ETHERNET;
        let mut without_checksum = good.clone();
        without_checksum[ip + 26..ip + 28].fill(0);
        for (what, frame) in [
            ("a partial checksum", change(0, 1)),
            ("a super-packet", change(1, 5)),
            ("a first fragment", change(ip + 6, 0x20)),
            ("a later fragment", change(ip + 7, 100)),
            ("another protocol", change(ip + 9, 1)),
            ("another ether type", change(VNET_HEADER + 12, 0x88)),
            ("no checksum at all", without_checksum),
            ("no payload", frame(true, TCP, b"")),
        ] {
            let mut same = frame.clone();
            assert!(!flip_payload_bit(&mut same, 5), "{what}");
            assert_eq!(same, frame, "{what}");
        }
    }

    #[test]
    fn a_frame_cut_anywhere_is_left_alone() {
        let whole = frame(true, TCP, b"payload");
        for length in 0..whole.len() {
            assert!(
                !flip_payload_bit(&mut whole[..length].to_vec(), 5),
                "{length}"
            );
        }
    }
}
