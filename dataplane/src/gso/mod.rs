//! Small packets become super-packets, and super-packets become small packets.
//!
//! Taking a packet into the kernel costs far more than rewriting it, and it costs nearly the same
//! for 64 KiB as for 64 bytes. So consecutive packets of one flow are handed over as one that the
//! kernel cuts again where it must: TCP segmentation offload and UDP segmentation offload, said in
//! the virtio-net header ([`Offload`](crate::frame::Offload)). [`Joiner`] finds the packets of a
//! batch that may go together and says which bytes to gather; no payload is copied. [`cut()`] does
//! what the kernel does with the result, for where there is no kernel that does it: a TUN without
//! the header, a kernel that refuses a kind, and the tests.
//!
//! Not in here: reading and writing, addresses (they are rewritten before), and what to do about a
//! refused write, except that [`Joiner::finish`] then offers the packets as they came.
//!
//! # Invariant
//! - Whoever receives the packets cannot tell that they were joined: cut again, they are byte for
//!   byte what came in. The one exception is the identification of an IPv4 packet that must not be
//!   fragmented, which means nothing (RFC 6864, section 4.1); the kernel's cutter numbers those
//!   from the first one on.
//! - Packets of one flow stay in order. Different flows may pass each other within a batch.
//! - A corrupted packet stays corrupted. Joining replaces checksums, so only packets are joined
//!   whose checksum is still to be filled in, or was found right by the kernel or by us; any other
//!   goes its way alone and untouched. [`cut()`] carries a wrong sum on into every piece.
//! - No bytes make it panic, and nothing allocates once a [`Joiner`] is made.
//!
//! # What is joined
//! The rules are those of the kernel's receive offload (`tcp_gro_receive` in
//! `net/ipv4/tcp_offload.c`, `udp_gro_receive_segment` in `net/ipv4/udp_offload.c`,
//! `inet_gro_receive`), but stricter where that one changes what arrives: nothing with SYN, FIN,
//! RST, URG or CWR, no UDP without checksum, and no checksum in a spelling that no sender writes
//! (`0xFFFF` in TCP and in an IPv4 header).
//!
//! # Limitations
//! - Only TCP and UDP directly behind an IPv4 header without options or a fixed IPv6 header.
//! - Packets are joined within a batch only; none waits for the next one.
//! - A packet that is a super-packet already is left as it is, and nothing is joined to it.
//! - A receiver in the kernel that takes UDP packets off a socket (VXLAN before Linux 6.8.5) may
//!   not take joined ones; [`Joinable`] turns a kind off.
//! - [`cut()`] wants a partial checksum in every super-packet, as virtio 1.2 (section 5.1.6.2)
//!   does. The kernel computes one anew where it is missing, which would hide corruption.
//! - BIG TCP and UDP fragmentation offload (UFO) are unknown here.
//!
//! RFCs: [768](https://www.rfc-editor.org/rfc/rfc768),
//! [1071](https://www.rfc-editor.org/rfc/rfc1071),
//! [3168](https://www.rfc-editor.org/rfc/rfc3168),
//! [6864](https://www.rfc-editor.org/rfc/rfc6864),
//! [8200](https://www.rfc-editor.org/rfc/rfc8200),
//! [9293](https://www.rfc-editor.org/rfc/rfc9293).

mod cut;
mod flow;
mod join;
mod run;
mod sound;

pub use cut::{CutError, cut};
pub use flow::Kind;
pub use join::{Joinable, Joiner, MAX_HEADER, Reply, Write};
pub use run::MAX_PACKETS;
