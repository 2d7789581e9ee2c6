//! Somebody off the path who can send anything from anywhere, and has seen everything that
//! was said before.

use std::collections::VecDeque;
use std::net::SocketAddr;

use mat_proto::auth::{Key, Token};
use mat_proto::message::{Flushed, Message, Pair, Relay};
use mat_proto::{Binding, Epoch, Home, Locator, Modes};

use crate::chance::Chance;
use crate::scenario::Lie;

/// Messages remembered.
const HEARD: usize = 500;

/// A control message with its addresses.
#[derive(Clone, Debug)]
pub struct Letter {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub payload: Vec<u8>,
}

/// Somebody who means harm.
#[derive(Debug)]
pub struct Hostile {
    chance: Chance,
    heard: VecDeque<Letter>,
}

impl Hostile {
    pub fn new(chance: Chance) -> Self {
        Hostile {
            chance,
            heard: VecDeque::new(),
        }
    }

    /// Something was said.
    pub fn hear(&mut self, letter: Letter) {
        if self.heard.len() == HEARD {
            self.heard.pop_front();
        }
        self.heard.push_back(letter);
    }

    /// A message for `to`, which is a locator in use; `homes` and `locators` are real.
    pub fn letter(
        &mut self,
        lie: Lie,
        to: Locator,
        homes: &[Home],
        locators: &[Locator],
    ) -> Option<Letter> {
        match lie {
            Lie::Replay => self.overheard(),
            Lie::Damage => {
                let mut letter = self.overheard()?;
                let bits = letter.payload.len() as u64 * 8;
                for _ in 0..self.chance.from(1, 3) {
                    let bit = self.chance.below(bits) as usize;
                    letter.payload[bit / 8] ^= 1 << (bit % 8);
                }
                Some(letter)
            }
            Lie::Forge => {
                let (from, message) = (self.pick(locators), self.message(homes, locators)?);
                let octets = if message.needs_mac() {
                    message.encode_signed(&Key::of_context(self.token(), self.token()))
                } else {
                    message.encode()
                };
                Some(letter(from, to, octets))
            }
            Lie::Flood => {
                let pair = self.pair(homes)?;
                let open = Message::Open {
                    pair,
                    versions: (1, 1),
                    modes: Modes::NATIVE,
                    resume: self.chance.once_in(2),
                    from_epoch: Epoch(self.chance.next() >> 20),
                    to_epoch: Epoch(self.chance.next() >> 20),
                    token: self.token(),
                    cookie: self.token(),
                };
                Some(letter(self.pick(locators), to, open.encode()))
            }
        }
    }

    fn overheard(&mut self) -> Option<Letter> {
        let count = self.heard.len() as u64;
        let at = (count > 0).then(|| self.chance.below(count))?;
        self.heard.get(at as usize).cloned()
    }

    fn message(&mut self, homes: &[Home], locators: &[Locator]) -> Option<Message> {
        let pair = self.pair(homes)?;
        let sequence = self.chance.next();
        let epoch = Epoch(self.chance.next() >> 20);
        Some(match self.chance.below(10) {
            0 => Message::Accept {
                pair,
                version: 1,
                modes: Modes::NATIVE,
                resume: true,
                from_epoch: epoch,
                token: self.token(),
                echo: self.token(),
            },
            1 => Message::Confirm { pair },
            2 => Message::Reject {
                pair,
                reason: mat_proto::message::Reason::NotServing,
                retry_after_ms: 0,
                echo: self.token(),
                cookie: self.token(),
            },
            3 => Message::Moved {
                pair,
                sequence,
                binding: Binding::single(pair.from, epoch, 30, self.pick(locators), 6283).ok()?,
            },
            4 => Message::Ack { pair, sequence },
            5 => Message::Probe { pair, sequence },
            6 => Message::Unknown,
            7 => Message::End { pair, epoch },
            8 => Message::Flushed(Flushed {
                home: pair.to,
                epoch,
                received: sequence as u32,
                delivered: sequence as u32,
                missing: Vec::new(),
            }),
            _ => Message::Relay(Relay {
                home: pair.to,
                epoch,
                hops: 1,
                id: 0,
                total: 100,
                offset: 0,
                bytes: vec![0x45; 100],
            }),
        })
    }

    fn pair(&mut self, homes: &[Home]) -> Option<Pair> {
        let from = self.pick(homes);
        let to = self.pick(homes);
        (from != to).then_some(Pair { from, to })
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.chance.below(of.len() as u64) as usize]
    }

    fn token(&mut self) -> Token {
        let mut token = [0; 16];
        self.chance.fill(&mut token);
        Token(token)
    }
}

fn letter(from: Locator, to: Locator, payload: Vec<u8>) -> Letter {
    Letter {
        from: SocketAddr::new(from.ip(), 6283),
        to: SocketAddr::new(to.ip(), 6283),
        payload,
    }
}
