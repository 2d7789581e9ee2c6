//! Why a packet cannot be read, or cannot be rewritten: one variant per cause, so that drops can
//! be counted by cause.

use thiserror::Error;

/// A packet that is not what its IP header claims. It is never forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Error)]
pub enum Malformed {
    /// Not a single byte.
    #[error("the packet is empty")]
    Empty,
    /// The version is neither 4 nor 6.
    #[error("the IP version is neither 4 nor 6")]
    Version,
    /// Fewer bytes than a fixed IP header has.
    #[error("the packet ends within its IP header")]
    ShortHeader,
    /// The IPv4 header claims to be shorter than 20 bytes or longer than its packet.
    #[error("the IPv4 header length is impossible")]
    HeaderLength,
    /// The IP header claims more bytes than there are.
    #[error("the packet is shorter than its IP header says")]
    Truncated,
    /// An IPv4 option has an impossible length or pointer.
    #[error("an IPv4 option does not fit its header")]
    Options,
    /// An IPv6 extension header runs past the end of the packet, or of its first fragment
    /// (RFC 7112 wants the whole chain there).
    #[error("an IPv6 extension header runs past the end of the packet")]
    Extension,
    /// More IPv6 extension headers than any honest packet has.
    #[error("there are too many IPv6 extension headers")]
    ExtensionCount,
    /// An IPv6 packet longer than 65575 bytes (RFC 2675).
    #[error("IPv6 jumbograms are not supported")]
    Jumbogram,
}

impl Malformed {
    /// Every cause, in a stable order, for counters.
    pub const ALL: [Malformed; 9] = [
        Malformed::Empty,
        Malformed::Version,
        Malformed::ShortHeader,
        Malformed::HeaderLength,
        Malformed::Truncated,
        Malformed::Options,
        Malformed::Extension,
        Malformed::ExtensionCount,
        Malformed::Jumbogram,
    ];

    /// A stable name for counters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Malformed::Empty => "empty",
            Malformed::Version => "ip_version",
            Malformed::ShortHeader => "short_ip_header",
            Malformed::HeaderLength => "ip_header_length",
            Malformed::Truncated => "truncated",
            Malformed::Options => "ip_options",
            Malformed::Extension => "truncated_extension_header",
            Malformed::ExtensionCount => "too_many_extension_headers",
            Malformed::Jumbogram => "jumbogram",
        }
    }
}

/// A packet that cannot be rewritten. It is left as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Error)]
pub enum Refusal {
    /// A new address is of another family than the packet.
    #[error("a new address is of another family than the packet")]
    FamilyMismatch,
    /// The headers were parsed from another packet.
    #[error("the headers were parsed from another packet")]
    ForeignHeaders,
    /// An Authentication Header covers the addresses (RFC 4302): no rewriting can be right.
    #[error("an authentication header protects the addresses")]
    Ah,
    /// A routing header of unknown type with segments left: what the checksum covers is unknown.
    #[error("a routing header of unknown type has segments left")]
    RoutingType,
    /// A first fragment that ends before its transport checksum does.
    #[error("the first fragment is too short to hold its checksum")]
    ShortFirstFragment,
    /// A whole packet that ends before its transport checksum does.
    #[error("the packet is too short to hold its transport header")]
    ShortTransport,
    /// New addresses for a quoted packet, but the packet quotes none that can be read.
    #[error("the packet quotes no other packet")]
    NoQuote,
}

impl Refusal {
    /// Every cause, in a stable order, for counters.
    pub const ALL: [Refusal; 7] = [
        Refusal::FamilyMismatch,
        Refusal::ForeignHeaders,
        Refusal::Ah,
        Refusal::RoutingType,
        Refusal::ShortFirstFragment,
        Refusal::ShortTransport,
        Refusal::NoQuote,
    ];

    /// A stable name for counters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Refusal::FamilyMismatch => "family_mismatch",
            Refusal::ForeignHeaders => "foreign_headers",
            Refusal::Ah => "authentication_header",
            Refusal::RoutingType => "routing_header_type",
            Refusal::ShortFirstFragment => "short_first_fragment",
            Refusal::ShortTransport => "short_transport",
            Refusal::NoQuote => "no_quote",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn counter_names_are_distinct_and_in_snake_case() {
        let names: Vec<&str> = (Malformed::ALL.iter().map(|reason| reason.as_str()))
            .chain(Refusal::ALL.iter().map(|reason| reason.as_str()))
            .collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        for name in names {
            assert!(
                name.bytes()
                    .all(|byte| byte == b'_' || byte.is_ascii_lowercase()),
                "{name}"
            );
        }
    }
}
