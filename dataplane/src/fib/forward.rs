//! A packet through the forwarding table: what a data thread does with nearly all of them.

use super::{Direction, Fib, Pairs, Probe, Slot};
use crate::clock::Time;
use crate::frame::Offload;
use crate::rewrite::ChecksumState;
use crate::rewrite::plain::{self, Ends, Plain, Shape};

/// A packet that may be in the table. Searching in three steps, each for all packets of a
/// batch before the next one, lets their memory accesses overlap.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    plain: Plain,
    probe: Probe,
}

impl Candidate {
    /// `None` if the packet is none the table is for: then the agent decides.
    /// `control_port` is the port whose packets are the agent's.
    #[inline]
    pub fn of(fib: &Fib, packet: &[u8], control_port: u16) -> Option<Self> {
        let plain = Plain::parse(packet, control_port)?;
        let probe = match &plain {
            Plain::V4(_, ends) => fib.v4.probe(ends),
            Plain::V6(_, ends) => fib.v6.probe(ends),
        };
        Some(Candidate { plain, probe })
    }

    /// The second step, also for all packets before the third: [`Candidate::forward`].
    #[inline]
    pub fn fetch(&self, fib: &Fib) {
        match &self.plain {
            Plain::V4(..) => fib.v4.fetch(&self.probe),
            Plain::V6(..) => fib.v6.fetch(&self.probe),
        }
    }

    /// Rewrites the packet if the table knows its pair, and says whose it is. It is not
    /// counted yet. `packet` is the one that [`Candidate::of`] was given.
    #[inline]
    pub fn forward(
        &self,
        fib: &Fib,
        offload: &Offload,
        packet: &mut [u8],
        now: Time,
    ) -> Option<(Slot, Direction)> {
        let state = offload.checksum_state_at(self.plain.transport());
        match &self.plain {
            Plain::V4(shape, ends) => {
                let hit = self.rewrite(&fib.v4, *shape, ends, state, packet, now)?;
                Some((Slot::v4(hit.0), hit.1))
            }
            Plain::V6(shape, ends) => {
                let hit = self.rewrite(&fib.v6, *shape, ends, state, packet, now)?;
                Some((Slot::v6(hit.0), hit.1))
            }
        }
    }

    #[inline]
    fn rewrite<const W: usize>(
        &self,
        pairs: &Pairs<W>,
        shape: Shape,
        ends: &Ends<W>,
        state: ChecksumState,
        packet: &mut [u8],
        now: Time,
    ) -> Option<(u32, Direction)> {
        let found = pairs.resolve(&self.probe, ends, now)?;
        plain::rewrite(packet, shape, &found.new, found.delta, state);
        Some((found.id, found.direction))
    }
}
