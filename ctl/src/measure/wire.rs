//! What client and server say to each other (pure).
//!
//! Every TCP connection begins with a [`Preamble`] of fixed length which says what it is for.
//! The control connection goes on with one JSON message a line:
//!
//! ```text
//! client                              server
//! Hello(plan)                    ->
//!                                <-   Ready(clock) | Refused(reason)
//! (opens the data connections)   ->
//!                                <-   Attached
//! Go(time zero)                  ->
//! (both send and receive; Stop ends the run early)
//!                                <-   Result(side)
//! ```
//!
//! Probes are fixed-size datagrams. Each carries what its sender has received so far, so that
//! the progress of both directions is known on both sides without more messages.

use serde::{Deserialize, Serialize};

use super::outcome::Side;

/// Raised when client and server would misunderstand each other.
pub const VERSION: u32 = 1;
/// Longest run.
pub const MAX_DURATION_MS: u64 = 3_600_000;
/// Fastest probe.
pub const MAX_UDP_RATE_HZ: u32 = 10_000;
/// Largest crowd of connections.
pub const MAX_CONNECTIONS: u32 = 10_000;
/// Longest stall limit.
pub const MAX_STALL_LIMIT_MS: u64 = 600_000;

const TCP_MAGIC: [u8; 8] = *b"matmeas1";
const UDP_MAGIC: [u8; 4] = *b"mtp1";

/// What a TCP connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Agreement before, results after.
    Control,
    /// The bulk stream from client to server.
    Up,
    /// The bulk stream from server to client.
    Down,
    /// One of the crowd of quiet connections.
    Member(u32),
}

/// The first bytes of every TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// The client's random number for this run.
    pub session: u64,
    /// What the connection is for.
    pub role: Role,
}

impl Preamble {
    /// Length on the wire in bytes.
    pub const LEN: usize = 21;

    /// Wire form.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let (kind, index) = match self.role {
            Role::Control => (0, 0),
            Role::Up => (1, 0),
            Role::Down => (2, 0),
            Role::Member(index) => (3, index),
        };
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&TCP_MAGIC);
        out[8..16].copy_from_slice(&self.session.to_be_bytes());
        out[16] = kind;
        out[17..].copy_from_slice(&index.to_be_bytes());
        out
    }

    /// Reads the wire form; `None` if it is not one.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Option<Self> {
        if bytes[..8] != TCP_MAGIC {
            return None;
        }
        let index = u32::from_be_bytes(bytes[17..].try_into().ok()?);
        let role = match bytes[16] {
            0 => Role::Control,
            1 => Role::Up,
            2 => Role::Down,
            3 if index < MAX_CONNECTIONS => Role::Member(index),
            _ => return None,
        };
        Some(Self {
            session: u64::from_be_bytes(bytes[8..16].try_into().ok()?),
            role,
        })
    }
}

/// One UDP probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The run.
    pub session: u64,
    /// 0, 1, 2, ... in each direction.
    pub number: u64,
    /// When it was sent, in microseconds after time zero.
    pub sent_us: u64,
    /// Probes its sender misses so far.
    pub missing: u64,
    /// Longest gap its sender has seen so far, in microseconds.
    pub longest_gap_us: u64,
    /// Distinct probes its sender has received so far.
    pub received: u64,
}

impl Probe {
    /// Length on the wire in bytes.
    pub const LEN: usize = 52;

    /// Wire form.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..4].copy_from_slice(&UDP_MAGIC);
        for (slot, value) in out[4..].chunks_exact_mut(8).zip(self.fields()) {
            slot.copy_from_slice(&value.to_be_bytes());
        }
        out
    }

    /// Reads the wire form; `None` if it is not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::LEN || bytes[..4] != UDP_MAGIC {
            return None;
        }
        let mut fields = [0; 6];
        for (field, slot) in fields.iter_mut().zip(bytes[4..].chunks_exact(8)) {
            *field = u64::from_be_bytes(slot.try_into().ok()?);
        }
        let [session, number, sent_us, missing, longest_gap_us, received] = fields;
        Some(Self {
            session,
            number,
            sent_us,
            missing,
            longest_gap_us,
            received,
        })
    }

    fn fields(&self) -> [u64; 6] {
        [
            self.session,
            self.number,
            self.sent_us,
            self.missing,
            self.longest_gap_us,
            self.received,
        ]
    }
}

/// What is to be measured; the client decides, the server checks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Length of the run.
    pub duration_ms: u64,
    /// Probes a second in each direction.
    pub udp_rate_hz: u32,
    /// Pace of each bulk stream; `None` sends as fast as TCP allows.
    pub tcp_rate_mbps: Option<f64>,
    /// Size of the crowd of quiet connections.
    pub connections: u32,
    /// A connection without progress for so long is dead.
    pub stall_limit_ms: u64,
    /// Seed of the payload from client to server.
    pub seed_up: u64,
    /// Seed of the payload from server to client.
    pub seed_down: u64,
    /// UDP port of the client.
    pub udp_port: u16,
}

impl Plan {
    /// Says what is wrong with the plan and what would be right.
    pub fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(format!("{name} {value} is outside {low}..{high}"))
            }
        };
        within("duration in ms", self.duration_ms, 100, MAX_DURATION_MS)?;
        let rate = u64::from(self.udp_rate_hz);
        within("UDP rate in Hz", rate, 1, u64::from(MAX_UDP_RATE_HZ))?;
        let connections = u64::from(self.connections);
        within("connections", connections, 0, u64::from(MAX_CONNECTIONS))?;
        let limit = self.stall_limit_ms;
        within("stall limit in ms", limit, 100, MAX_STALL_LIMIT_MS)?;
        match self.tcp_rate_mbps {
            Some(rate) if !(0.1..=1e6).contains(&rate) => {
                Err(format!("TCP rate in Mbit/s {rate} is outside 0.1..1000000"))
            }
            _ => Ok(()),
        }
    }

    /// One more than the highest probe number the run can reach.
    pub fn probe_limit(&self) -> u64 {
        self.duration_ms * u64::from(self.udp_rate_hz) / 1000 + 1
    }
}

/// From client to server on the control connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Opens the session.
    Hello {
        /// [`VERSION`] of the client.
        version: u32,
        /// What is to be measured.
        plan: Plan,
    },
    /// All is set; the client begins now.
    Go {
        /// Time zero in Unix microseconds of the *server's* clock.
        zero_unix_us: u64,
    },
    /// Ends the run now.
    Stop,
}

/// From server to client on the control connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The plan is accepted.
    Ready {
        /// The server's clock in Unix microseconds.
        unix_us: u64,
    },
    /// The plan is not accepted.
    Refused {
        /// Why, for the user.
        reason: String,
    },
    /// All data connections of the plan have come in.
    Attached,
    /// The server's view of the run.
    Result {
        /// What it has seen.
        side: Box<Side>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn preambles_come_back(session: u64, kind in 0..4u8, index in 0..MAX_CONNECTIONS) {
            let role = match kind { 0 => Role::Control, 1 => Role::Up, 2 => Role::Down, _ => Role::Member(index) };
            let preamble = Preamble { session, role };
            prop_assert_eq!(Preamble::decode(&preamble.encode()), Some(preamble));
        }

        #[test]
        fn probes_come_back(fields: [u64; 6]) {
            let [session, number, sent_us, missing, longest_gap_us, received] = fields;
            let probe = Probe { session, number, sent_us, missing, longest_gap_us, received };
            prop_assert_eq!(Probe::decode(&probe.encode()), Some(probe));
        }

        #[test]
        fn no_bytes_panic(preamble: [u8; Preamble::LEN], probe in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Preamble::decode(&preamble);
            let _ = Probe::decode(&probe);
        }
    }

    #[test]
    fn a_plan_beyond_the_limits_is_refused_by_name() {
        let plan = Plan {
            duration_ms: 1000,
            udp_rate_hz: 1000,
            tcp_rate_mbps: None,
            connections: 0,
            stall_limit_ms: 10_000,
            seed_up: 1,
            seed_down: 2,
            udp_port: 3,
        };
        assert_eq!(plan.check(), Ok(()));
        let refused = |plan: Plan| plan.check().expect_err("must be refused");
        let long = Plan {
            duration_ms: MAX_DURATION_MS + 1,
            ..plan.clone()
        };
        assert!(refused(long).contains("duration in ms 3600001"));
        let fast = Plan {
            tcp_rate_mbps: Some(f64::NAN),
            ..plan.clone()
        };
        assert!(refused(fast).contains("TCP rate"));
        let many = Plan {
            connections: MAX_CONNECTIONS + 1,
            ..plan
        };
        assert!(refused(many).contains("connections 10001"));
    }
}
