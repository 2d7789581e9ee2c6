//! Random batches of mixed flows, joined and cut again.

use etherparse::checksum::Sum16BitWords;
use mat_dataplane::frame::Frame;
use mat_dataplane::gso::Kind;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::packets::*;

/// One packet of a batch, told by what sets it apart from the one before in its flow.
#[derive(Debug, Clone)]
struct Step {
    flow: usize,
    event: Event,
    size: usize,
    form: Form,
    push: bool,
    trailer: usize,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    None,
    /// Bytes or identifications are missing.
    Gap,
    /// What came before is still to come again.
    Again,
    Ttl,
    Class,
    Ack,
    Window,
    Option,
    Flag(u8),
    Fragmentable,
    /// Another protocol between the same addresses.
    Stranger,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Full,
    Partial,
    Valid,
    /// A byte of payload or, if there is none, of the checksum is wrong.
    Corrupt(u8),
    /// The sum of the pseudo-header is wrong.
    WrongPartial,
    /// The IPv4 header checksum is wrong, or the IPv6 packet complete.
    WrongHeader,
}

fn step() -> impl Strategy<Value = Step> {
    let event = prop_oneof![
        20 => Just(Event::None),
        1 => prop_oneof![
            Just(Event::Gap),
            Just(Event::Again),
            Just(Event::Ttl),
            Just(Event::Class),
            Just(Event::Ack),
            Just(Event::Window),
            Just(Event::Option),
            prop::sample::select(vec![FIN, SYN, RST, URG, ECE, CWR]).prop_map(Event::Flag),
            Just(Event::Fragmentable),
            Just(Event::Stranger),
        ],
    ];
    let size = prop_oneof![8 => Just(64usize), 1 => Just(63), 1 => Just(0), 1 => 1..200usize];
    let form = prop_oneof![
        6 => Just(Form::Full),
        4 => Just(Form::Partial),
        2 => Just(Form::Valid),
        1 => (1..=255u8).prop_map(Form::Corrupt),
        1 => Just(Form::WrongPartial),
        1 => Just(Form::WrongHeader),
    ];
    let push = prop::bool::weighted(0.05);
    (0..FLOWS, event, size, form, push, 0..3usize).prop_map(
        |(flow, event, size, form, push, trailer)| Step {
            flow,
            event,
            size,
            form,
            push,
            trailer,
        },
    )
}

const FLOWS: usize = 7;

/// Each kind, and some between the addresses of others.
fn flows() -> [Spec; FLOWS] {
    let like = |kind, port, host, dont_fragment| Spec {
        ports: (port, 443),
        host,
        dont_fragment,
        ..Spec::new(kind)
    };
    [
        like(Kind::Tcp4, 1, 1, true),
        like(Kind::Tcp4, 2, 1, false),
        like(Kind::Tcp6, 1, 1, true),
        like(Kind::Udp4, 1, 1, true),
        like(Kind::Udp4, 1, 2, false),
        like(Kind::Udp6, 1, 1, true),
        like(Kind::Udp6, 2, 1, true),
    ]
}

/// The frames of a batch, each with what is to arrive of it.
fn build(steps: &[Step]) -> Vec<(Frame, Vec<u8>)> {
    let mut flows = flows();
    steps
        .iter()
        .enumerate()
        .map(|(index, step)| {
            let next = &mut flows[step.flow];
            let mut stranger = false;
            match step.event {
                Event::None | Event::Again | Event::Flag(_) => {}
                Event::Gap => {
                    next.sequence = next.sequence.wrapping_add(64);
                    next.id = next.id.wrapping_add(1);
                }
                Event::Ttl => next.ttl ^= 1,
                Event::Class => next.class ^= 1,
                Event::Ack => next.ack += 1,
                Event::Window => next.window += 1,
                Event::Option => next.options[7] ^= 1,
                Event::Fragmentable => next.dont_fragment ^= true,
                Event::Stranger => stranger = true,
            }
            let mut spec = next.clone();
            if let Event::Flag(flag) = step.event {
                spec.flags |= flag;
            }
            if step.push {
                spec.flags |= PSH;
            }
            spec.payload = (0..step.size).map(|at| (at * 7 + index) as u8).collect();
            if !matches!(step.event, Event::Again) {
                next.sequence = next.sequence.wrapping_add(step.size as u32);
                next.id = next.id.wrapping_add(1);
            }
            let (mut frame, sent) = form(&spec, step.form);
            if stranger {
                let mut frame = spec.full();
                let at = if spec.is_v4() { 9 } else { 6 };
                frame.packet[at] = 50;
                let sent = frame.packet.clone();
                return (frame, sent);
            }
            frame.packet.extend(vec![0x55; step.trailer]);
            (frame, sent)
        })
        .collect()
}

/// The packet as it is handed over, and what is to arrive of it.
fn form(spec: &Spec, form: Form) -> (Frame, Vec<u8>) {
    let mut frame = spec.full();
    match form {
        Form::Full => {}
        Form::Partial => return (spec.partial(), spec.bytes()),
        Form::Valid => frame.offload.0[0] = 2,
        Form::Corrupt(change) => {
            let at = if spec.payload.is_empty() {
                spec.checksum()
            } else {
                frame.packet.len() - 1
            };
            frame.packet[at] ^= change;
        }
        Form::WrongPartial => {
            let mut frame = spec.partial();
            let at = spec.checksum();
            frame.packet[at] ^= 0x10;
            let mut sent = frame.packet.clone();
            let sum = Sum16BitWords::new().add_slice(&sent[spec.transport()..]);
            let checksum = match sum.ones_complement().to_be() {
                0 if !spec.is_tcp() => 0xFFFF,
                checksum => checksum,
            };
            sent[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
            return (frame, sent);
        }
        Form::WrongHeader if spec.is_v4() => frame.packet[10] ^= 0x10,
        Form::WrongHeader => {}
    }
    let sent = frame.packet.clone();
    (frame, sent)
}

/// Addresses, and for TCP and UDP the protocol and the ports.
fn place(packet: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let (addresses, protocol, transport) = if packet[0] >> 4 == 4 {
        (12..20, packet[9], 20)
    } else {
        (8..40, packet[6], 40)
    };
    let ports = [&[protocol], &packet[transport..transport + 4]].concat();
    let flow = matches!(protocol, 6 | 17).then_some(ports);
    (packet[addresses].to_vec(), flow)
}

/// Without what lies behind the IP packet.
fn trimmed(mut packet: Vec<u8>) -> Vec<u8> {
    let length = if packet[0] >> 4 == 4 {
        u16::from_be_bytes([packet[2], packet[3]])
    } else {
        40 + u16::from_be_bytes([packet[4], packet[5]])
    };
    packet.truncate(length.into());
    packet
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn every_flow_arrives_as_it_was_sent(steps in vec(step(), 0..160)) {
        let batch = build(&steps);
        let frames: Vec<_> = batch.iter().map(|(frame, _)| frame.clone()).collect();
        let written = join(&frames);
        for alone in written.iter().filter(|one| one.joined.is_none()) {
            prop_assert!(frames.contains(&alone.frame));
        }
        let arrived: Vec<_> = written.iter().flat_map(|one| wire(&one.frame)).map(trimmed).collect();
        let sent: Vec<_> = batch.into_iter().map(|(_, sent)| sent).collect();
        prop_assert_eq!(arrived.len(), sent.len());
        // The order of a flow, in which a packet of whatever flow between its addresses counts.
        for flow in flows() {
            let (addresses, ports) = place(&flow.bytes());
            let belongs = |packet: &&Vec<u8>| {
                let (between, of) = place(packet);
                between == addresses && (of.is_none() || of == ports)
            };
            let arrived = arrived.iter().filter(belongs);
            let sent: Vec<_> = sent.iter().filter(belongs).collect();
            prop_assert_eq!(arrived.clone().count(), sent.len());
            for (arrived, sent) in arrived.zip(sent) {
                prop_assert!(is_same(arrived, sent), "{:02x?}\n{:02x?}", arrived, sent);
            }
        }
    }

    #[test]
    fn groups_are_written_in_the_order_of_their_first_packets(steps in vec(step(), 0..80)) {
        let frames: Vec<_> = build(&steps).into_iter().map(|(frame, _)| frame).collect();
        let written = join(&frames);
        prop_assert!(written.is_sorted_by(|a, b| a.at < b.at), "{:?}", written);
    }
}
