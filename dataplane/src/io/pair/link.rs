//! What the gateway on duty tells the other one: its state whenever that changes, and
//! otherwise that it is still there. Over TCP, encrypted and authenticated with the secret
//! that both have (Noise, revision 34, `NNpsk0`): the state holds every key of the site.
//!
//! Each message: two octets of length, then so many of ciphertext; in clear one octet that
//! says what it is ([`Kind`]), and for a state a part of it in JSON.
//!
//! # Limitations
//! The state is told whole each time, so with many thousands of contexts it is told less
//! often. What the other one does not know yet when it takes over, peers open again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use snow::{Builder, HandshakeState, StatelessTransportState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::pair::{BEAT, SILENCE};
use mat_proto::Locator;

/// What encrypts it.
pub type Secret = [u8; 32];

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_SHA256";
/// Of a Noise message (section 3), tag included.
const MOST: usize = 65_535;
const TAG: usize = 16;
/// Hand-shakes carry a key and a tag.
const HELLO: usize = 256;
/// Half a million contexts; more is no state.
const LARGEST: usize = 256 << 20;
/// A state that changes all the time is told so often at most, or as often as it takes to
/// keep the link idle most of the time.
const STATE_INTERVAL: Duration = Duration::from_millis(100);

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// Its sender is there.
    Beat = 0,
    /// Part of a state, and not the last one.
    Part = 1,
    /// The last part.
    Last = 2,
    /// Its sender is no longer on duty.
    Bye = 3,
}

const KINDS: [Kind; 4] = [Kind::Beat, Kind::Part, Kind::Last, Kind::Bye];

/// What a follower is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The other one is on duty.
    Beat,
    /// What it knows.
    State(Vec<u8>),
    /// It is no longer on duty.
    Bye,
}

/// What is told to followers.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// The state in JSON, once there is one.
    pub state: Option<Arc<Vec<u8>>>,
    /// No longer on duty: the last thing that is told.
    pub bye: bool,
}

/// What a gateway is known by to the other one.
#[derive(Clone, Copy, Debug)]
pub struct Me<'a> {
    /// What both have.
    pub secret: &'a Secret,
    /// What stands for this one alone.
    pub locator: Locator,
}

/// Follows the gateway on duty at `peer` until the connection ends.
///
/// # Errors
/// It cannot be reached, is somebody else, or has fallen silent.
pub async fn follow(peer: SocketAddr, me: Me<'_>, mut told: impl FnMut(Told)) -> io::Result<()> {
    let stream = timeout(SILENCE, TcpStream::connect(peer)).await??;
    let hands = builder(me.secret)
        .build_initiator()
        .map_err(io::Error::other)?;
    let shaking = shake(stream, hands, true, me.locator);
    let (mut reader, mut writer) = timeout(SILENCE, shaking).await??;
    let mut state = Vec::new();
    let listening = async {
        loop {
            let (kind, part) = timeout(SILENCE, reader.receive()).await??;
            match kind {
                Kind::Beat => told(Told::Beat),
                Kind::Bye => {
                    told(Told::Bye);
                    return Ok(());
                }
                Kind::Part | Kind::Last if state.len() + part.len() > LARGEST => {
                    return Err(nonsense("a state that never ends"));
                }
                Kind::Part => state.extend(part),
                Kind::Last => {
                    state.extend(part);
                    told(Told::State(std::mem::take(&mut state)));
                }
            }
        }
    };
    tokio::select! {
        ended = listening => ended,
        ended = beats(&mut writer) => ended,
    }
}

/// Shakes hands with the other one, if it is on duty too.
///
/// # Errors
/// It is not, as it should be; or, [`io::ErrorKind::InvalidData`], it is somebody else.
pub async fn greet(peer: SocketAddr, me: Me<'_>) -> io::Result<()> {
    let stream = timeout(SILENCE, TcpStream::connect(peer)).await??;
    let hands = builder(me.secret).build_initiator();
    let hands = hands.map_err(io::Error::other)?;
    timeout(SILENCE, shake(stream, hands, true, me.locator)).await??;
    Ok(())
}

/// Tells a follower that has connected; what `followed` gives is kept as long as it is
/// certain that it is there: an old hand-shake said once more is not enough.
///
/// # Errors
/// It is somebody else, or has gone.
pub async fn lead<G>(
    stream: TcpStream,
    me: Me<'_>,
    mut news: watch::Receiver<News>,
    followed: impl FnOnce() -> G,
) -> io::Result<()> {
    let hands = builder(me.secret)
        .build_responder()
        .map_err(io::Error::other)?;
    let shaking = shake(stream, hands, false, me.locator);
    let (mut reader, mut writer) = timeout(SILENCE, shaking).await??;
    timeout(SILENCE, reader.receive()).await??;
    let _followed = followed();
    let listening = async {
        loop {
            timeout(SILENCE, reader.receive()).await??;
        }
    };
    let telling = async {
        let mut beats = interval(BEAT);
        let mut next = Instant::now();
        let mut untold = true;
        loop {
            tokio::select! {
                changed = news.changed(), if !untold => {
                    changed.map_err(|_| nonsense("nobody has news any more"))?;
                    untold = true;
                }
                () = sleep_until(next), if untold => {
                    untold = false;
                    let News { state, bye } = news.borrow_and_update().clone();
                    let begun = Instant::now();
                    if let Some(state) = state {
                        writer.state(&state).await?;
                    }
                    if bye {
                        return writer.send(Kind::Bye, &[]).await;
                    }
                    next = begun + STATE_INTERVAL.max(8 * begun.elapsed());
                }
                _ = beats.tick() => writer.send(Kind::Beat, &[]).await?,
            }
        }
    };
    tokio::select! {
        ended = listening => ended,
        ended = telling => ended,
    }
}

fn builder(secret: &Secret) -> Builder<'_> {
    let pattern = PATTERN.parse().expect("a pattern of the library's own");
    Builder::new(pattern)
        .psk(0, secret)
        .expect("a key of the right length at a place of the pattern's")
}

/// One message each way, with what stands for its sender; then both know that the other one
/// has the secret.
async fn shake(
    stream: TcpStream,
    mut hands: HandshakeState,
    first: bool,
    locator: Locator,
) -> io::Result<(Reader, Writer)> {
    let own = locator.to_string();
    let mut other = [0; HELLO];
    let mut double = false;
    // What is told is small, and waited for.
    stream.set_nodelay(true)?;
    let (mut from, mut to) = stream.into_split();
    let mut buffer = [0; HELLO];
    for ours in [first, !first] {
        if ours {
            let length = hands
                .write_message(own.as_bytes(), &mut buffer)
                .map_err(io::Error::other)?;
            to.write_u16(length as u16).await?;
            to.write_all(&buffer[..length]).await?;
        } else {
            let length = usize::from(from.read_u16().await?);
            let hello = buffer
                .get_mut(..length)
                .ok_or_else(|| nonsense("no hand-shake"))?;
            from.read_exact(hello).await?;
            let read = hands.read_message(hello, &mut other);
            let read = read.map_err(|_| nonsense("its `pair.secret` is another one"))?;
            double = other[..read] == *own.as_bytes();
        }
    }
    if double {
        let what = "its `pair.locator` is ours: give each gateway its own";
        return Err(nonsense(what));
    }
    let noise = hands.into_stateless_transport_mode();
    let noise = Arc::new(noise.map_err(io::Error::other)?);
    let reader = Reader {
        from,
        noise: Arc::clone(&noise),
        nonce: 0,
        cipher: vec![0; MOST],
        clear: vec![0; MOST],
    };
    let writer = Writer {
        to,
        noise,
        nonce: 0,
        clear: Vec::with_capacity(MOST),
        cipher: vec![0; MOST + 2],
    };
    Ok((reader, writer))
}

struct Reader {
    from: OwnedReadHalf,
    noise: Arc<StatelessTransportState>,
    nonce: u64,
    cipher: Vec<u8>,
    clear: Vec<u8>,
}

impl Reader {
    async fn receive(&mut self) -> io::Result<(Kind, &[u8])> {
        let length = usize::from(self.from.read_u16().await?);
        let cipher = &mut self.cipher[..length];
        self.from.read_exact(cipher).await?;
        let read = self.noise.read_message(self.nonce, cipher, &mut self.clear);
        let length = read.map_err(|_| nonsense("a message that is not the other gateway's"))?;
        self.nonce += 1;
        let known = |(first, rest): (&u8, _)| {
            let kind = KINDS.into_iter().find(|kind| *kind as u8 == *first)?;
            Some((kind, rest))
        };
        let message = self.clear[..length].split_first().and_then(known);
        message.ok_or_else(|| nonsense("a message of another version"))
    }
}

struct Writer {
    to: OwnedWriteHalf,
    noise: Arc<StatelessTransportState>,
    nonce: u64,
    clear: Vec<u8>,
    cipher: Vec<u8>,
}

impl Writer {
    async fn state(&mut self, state: &[u8]) -> io::Result<()> {
        let parts = state.chunks(MOST - TAG - 1);
        let last = parts.len().saturating_sub(1);
        for (n, part) in parts.enumerate() {
            let kind = if n == last { Kind::Last } else { Kind::Part };
            self.send(kind, part).await?;
        }
        Ok(())
    }

    /// Within [`SILENCE`], or it is not heard in time anyway.
    async fn send(&mut self, kind: Kind, part: &[u8]) -> io::Result<()> {
        self.clear.clear();
        self.clear.push(kind as u8);
        self.clear.extend(part);
        let (length, cipher) = self.cipher.split_at_mut(2);
        let written = self.noise.write_message(self.nonce, &self.clear, cipher);
        let written = written.map_err(io::Error::other)?;
        self.nonce += 1;
        length.copy_from_slice(&(written as u16).to_be_bytes());
        let message = &self.cipher[..2 + written];
        timeout(SILENCE, self.to.write_all(message)).await?
    }
}

async fn beats(writer: &mut Writer) -> io::Result<()> {
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        writer.send(Kind::Beat, &[]).await?;
    }
}

fn nonsense(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    const SECRET: Secret = [7; 32];

    fn me(secret: &Secret, last: u8) -> Me<'_> {
        let locator = Locator::new([198, 51, 100, last].into()).unwrap();
        Me { secret, locator }
    }

    async fn pair(
        secrets: [Secret; 2],
        second: u8,
        news: watch::Receiver<News>,
    ) -> (io::Result<()>, io::Result<()>, Vec<Told>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        let leading = async {
            let (stream, _) = listener.accept().await?;
            lead(stream, me(&secrets[0], 1), news, || {}).await
        };
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let following = follow(peer, me(&secrets[1], second), |told| {
            sender.send(told).unwrap()
        });
        let (led, followed) = tokio::join!(leading, following);
        let mut told = Vec::new();
        while let Ok(one) = receiver.try_recv() {
            told.push(one);
        }
        (led, followed, told)
    }

    #[tokio::test]
    async fn a_state_of_any_size_arrives_whole_and_then_the_good_bye() {
        for size in [0, 1, MOST - TAG - 1, MOST - TAG, 1_000_000] {
            let octets: Vec<u8> = (0..size).map(|n| n as u8).collect();
            let state = Some(Arc::new(octets.clone())).filter(|s| !s.is_empty());
            let (_news, receiver) = watch::channel(News {
                state: state.clone(),
                bye: true,
            });
            let (led, followed, mut told) = pair([SECRET, SECRET], 2, receiver).await;
            assert!(led.is_ok() && followed.is_ok(), "{led:?} {followed:?}");
            told.retain(|one| *one != Told::Beat);
            let state = state.map(|state| Told::State(state.to_vec()));
            let wanted: Vec<_> = state.into_iter().chain([Told::Bye]).collect();
            assert!(told == wanted, "{size}");
        }
    }

    #[tokio::test]
    async fn whoever_has_another_secret_learns_nothing() {
        for secrets in [[SECRET, [8; 32]], [[8; 32], SECRET]] {
            let (_news, receiver) = watch::channel(News {
                state: Some(Arc::new(vec![1; 100])),
                bye: true,
            });
            let (led, followed, told) = pair(secrets, 2, receiver).await;
            assert!(led.is_err() && followed.is_err(), "{led:?} {followed:?}");
            assert_eq!(told, []);
        }
    }

    #[tokio::test]
    async fn two_that_stand_for_the_same_are_told_so() {
        let (_news, receiver) = watch::channel(News {
            state: Some(Arc::new(vec![1; 100])),
            bye: true,
        });
        let (led, followed, told) = pair([SECRET, SECRET], 1, receiver).await;
        for ended in [led, followed] {
            let text = ended.unwrap_err().to_string();
            assert!(text.contains("`pair.locator` is ours"), "{text}");
        }
        assert_eq!(told, []);
    }

    /// Noise of any kind is refused and neither waited for nor kept.
    #[tokio::test]
    async fn strangers_are_turned_away() {
        for hello in [
            &[0xff; 300][..],
            &[0, 0],
            &[0, 10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
            &[1],
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let peer = listener.local_addr().unwrap();
            let (_news, receiver) = watch::channel(News::default());
            let leading = async {
                let (stream, _) = listener.accept().await?;
                lead::<()>(stream, me(&SECRET, 1), receiver, || panic!("a stranger")).await
            };
            let talking = async {
                let mut stream = TcpStream::connect(peer).await?;
                stream.write_all(hello).await?;
                let mut rest = Vec::new();
                let _end = stream.read_to_end(&mut rest).await;
                io::Result::Ok(rest)
            };
            let (led, rest) = tokio::join!(leading, talking);
            assert!(led.is_err());
            assert!(rest.unwrap().is_empty());
        }
    }
}
