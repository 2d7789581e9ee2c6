//! Rewriting: one IP packet's addresses become others, and everything computed from them stays
//! right.
//!
//! A forwarder that replaces home addresses by locators (and back) must leave no trace for the
//! two ends to stumble over: not in the IPv4 header checksum, not in the transport checksum, not
//! inside the packet that an ICMP error quotes. This module does that and nothing else, for IPv4
//! and IPv6, in O(1) per packet: checksums are updated, never recomputed (RFC 1624).
//!
//! Not in here: *which* addresses to write (the tables decide), hop limits (never touched), the
//! virtio-net header (only its consequence, [`ChecksumState`]), reassembly, and any I/O.
//!
//! # Invariant
//! No bytes make it panic, it allocates nothing, and [`rewrite()`] either does all of a
//! [`Translation`] or refuses and leaves the packet as it was. A packet whose checksums were right
//! stays right; one whose checksums were wrong stays wrong by the same amount, so that corruption
//! is never papered over. Rewriting there and back gives the same bytes, except that a zero may
//! change its spelling where no correct sender writes it so: a checksum of `0xFFFF` outside UDP and
//! UDP-Lite comes back as `0x0000`, a partial one of `0x0000` as `0xFFFF`. [`exercise()`] checks all
//! this on any bytes; fuzz targets and the corpus go through it.
//!
//! # Which checksum covers which address
//! The pseudo-header of RFC 9293, RFC 768, RFC 3828, RFC 4340 and RFC 4443 holds the packet's
//! *final* destination and *first* source, which are not always those of the IP header:
//! - An IPv6 routing header (types 0, 2 and 4) with segments left, or an IPv4 source route not yet
//!   used up: the final destination is inside the route (RFC 8200, section 8.1; RFC 1122, section
//!   3.2.1.8). A new destination then changes the IPv4 header checksum and nothing else. Other
//!   routing types with segments left are refused, since nothing says what the checksum covers.
//! - An IPv6 Home Address option (RFC 6275, section 11.3.1): the checksum holds the address in the
//!   option, so a new source does not touch it.
//!
//! The addresses inside such routes and options are left as they are.
//!
//! # Limitations
//! - IPv4 header checksums are carried on, not verified; a receiver finds them wrong as before.
//! - Jumbograms (RFC 2675) and BIG TCP's zero lengths are refused as malformed.
//! - Only TCP, UDP, UDP-Lite, DCCP, ICMP, ICMPv6 and the Mobility Header are known to hold a
//!   checksum. The other users of a pseudo-header (HIP, OSPFv3 and PIM over IPv6) are not updated.
//! - A compressed SRv6 segment in the destination address itself (RFC 9800) looks like an ordinary
//!   destination and is treated as one.
//! - The packet quoted by an ICMP error is assumed to have had complete checksums. Who answers a
//!   packet whose checksum no card has filled in yet (a sender's own kernel, or
//!   [`build::unreachable`]) quotes a meaningless one, which nobody verifies; it stays meaningless.
//! - A quoted Authentication Header is stepped over: only a packet that is to be delivered is refused
//!   for having one.
//! - The checksum of a transport inside ESP cannot be seen. It is right again where the original
//!   addresses are restored, and wrong where they are not.
//! - Addresses that a payload repeats (FTP, SIP) are the application's: an end point only ever
//!   sees home addresses, so there is nothing to correct.
//!
//! RFCs: [791](https://www.rfc-editor.org/rfc/rfc791),
//! [792](https://www.rfc-editor.org/rfc/rfc792),
//! [1122](https://www.rfc-editor.org/rfc/rfc1122),
//! [1624](https://www.rfc-editor.org/rfc/rfc1624),
//! [3828](https://www.rfc-editor.org/rfc/rfc3828),
//! [4340](https://www.rfc-editor.org/rfc/rfc4340),
//! [4443](https://www.rfc-editor.org/rfc/rfc4443),
//! [4884](https://www.rfc-editor.org/rfc/rfc4884),
//! [6275](https://www.rfc-editor.org/rfc/rfc6275),
//! [8200](https://www.rfc-editor.org/rfc/rfc8200),
//! [8754](https://www.rfc-editor.org/rfc/rfc8754).

pub mod build;
pub mod checksum;
mod exercise;
mod ip;
pub mod plain;
mod reason;
mod translate;
mod transport;
pub mod view;

pub use build::BuildError;
pub use exercise::exercise;
pub use ip::{Fragment, Routing, RoutingKind};
pub use mat_proto::Family;
pub use reason::{Malformed, Refusal};
pub use translate::{ChecksumState, Quoted, Translation, rewrite};
pub use transport::protocol;
pub use view::{Headers, Packet, Quote, TcpFlags};
