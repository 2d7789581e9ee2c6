//! The data thread: one TUN, one agent, one packet after another.
//!
//! Everything that decides about packets happens here and strictly in order.
//! Others reach the agent through an [`EngineHandle`]; what the agent wants from
//! them comes out of a channel. Nothing here waits for anything but the TUN, the
//! inbox and the agent's next timer.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc as inbox;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mat_proto::{Home, Locator};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::{mpsc, oneshot};

use super::tun::Tun;
use super::vnet::{Gso, MAX_FRAME, VNET_HEADER};
use crate::agent::{Agent, Answer, Output, UpdateResult, Verdict};
use crate::clock::{Now, Time};
use crate::counters::Cause;
use crate::frame::{Frame, Offload};

/// Packets handled before inbox and timers are looked at again: long enough to
/// spread that cost, short enough (64 x about 20 us for a super-packet) to stay
/// well below a millisecond or two.
const BATCH: usize = 64;

/// Inputs that may wait. Only control messages from sockets can come faster than
/// they are handled, and those are dropped then: their senders repeat them.
const INBOX: usize = 8192;

/// The clock of a forwarder; its monotonic origin is the start of the process.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        Clock {
            origin: Instant::now(),
        }
    }

    /// Both clocks.
    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        Now {
            time: Time(self.origin.elapsed().as_micros() as u64),
            unix_us: unix.unwrap_or_default().as_micros() as u64,
        }
    }
}

/// A request to the agent, run on the data thread.
type Call = Box<dyn FnOnce(&mut Agent, Now) + Send>;
/// One that says whether it is the last.
type LastCall = Box<dyn FnOnce(&mut Agent, Now) -> bool + Send>;

enum Input {
    Lookup(Home, Answer),
    Update(Home, UpdateResult),
    Control(SocketAddr, IpAddr, Vec<u8>),
    Uplink(Vec<Locator>),
    Call(Call),
    Last(LastCall),
}

/// How everybody else talks to the data thread.
#[derive(Clone)]
pub struct EngineHandle {
    inbox: inbox::SyncSender<Input>,
    wake: Arc<EventFd>,
}

/// The data thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the data thread has ended")]
pub struct Ended;

impl EngineHandle {
    /// The answer to [`Output::Lookup`].
    pub fn lookup(&self, home: Home, answer: Answer) {
        self.put(Input::Lookup(home, answer));
    }

    /// The answer to [`Output::Update`].
    pub fn update(&self, home: Home, result: UpdateResult) {
        self.put(Input::Update(home, result));
    }

    /// A control message from a socket.
    pub fn control(&self, from: SocketAddr, to: IpAddr, payload: Vec<u8>) {
        if self
            .inbox
            .try_send(Input::Control(from, to, payload))
            .is_ok()
        {
            self.wake();
        }
    }

    /// The addresses of the uplink.
    pub fn uplink(&self, locators: Vec<Locator>) {
        self.put(Input::Uplink(locators));
    }

    /// Runs `f` with the agent and gives back what it returns.
    pub async fn call<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Agent, Now) -> T + Send + 'static,
    ) -> Result<T, Ended> {
        let (reply, answer) = oneshot::channel();
        self.put(Input::Call(Box::new(move |agent, now| {
            // The caller may have gone; that is its own affair.
            let _ = reply.send(f(agent, now));
        })));
        answer.await.map_err(|_| Ended)
    }

    /// Runs `f` with the agent, and ends the data thread right behind it if `f`
    /// gives something back: not one more packet is read then, and the thread has
    /// ended when this returns.
    pub async fn finish<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Agent, Now) -> Option<T> + Send + 'static,
    ) -> Result<Option<T>, Ended> {
        let (reply, answer) = oneshot::channel();
        self.put(Input::Last(Box::new(move |agent, now| {
            let result = f(agent, now);
            let last = result.is_some();
            // As in `call`.
            let _ = reply.send(result);
            last
        })));
        let result = answer.await.map_err(|_| Ended)?;
        if result.is_some() {
            // Refused once the thread has let go of everything it had.
            let _ = self.call(|_, _| ()).await;
        }
        Ok(result)
    }

    /// Ends the data thread.
    pub fn stop(&self) {
        self.put(Input::Last(Box::new(|_, _| true)));
    }

    fn put(&self, input: Input) {
        // Fails only once the thread has ended, which `call` reports.
        let _ = self.inbox.send(input);
        self.wake();
    }

    fn wake(&self) {
        // Fails only if the counter is about to overflow: awake already.
        let _ = self.wake.write(1);
    }
}

/// Starts the data thread. What it wants done comes out of the receiver.
pub fn start(
    tun: Tun,
    agent: Agent,
    clock: Clock,
) -> io::Result<(
    EngineHandle,
    mpsc::UnboundedReceiver<Output>,
    thread::JoinHandle<io::Result<()>>,
)> {
    let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
    let wake = Arc::new(wake);
    let (sender, receiver) = inbox::sync_channel(INBOX);
    let (wanted, wants) = mpsc::unbounded_channel();
    let mut engine = Engine {
        tun,
        agent,
        clock,
        inbox: receiver,
        wake: Arc::clone(&wake),
        wanted,
    };
    let thread = thread::Builder::new()
        .name("mat-data".to_owned())
        .spawn(move || engine.run())?;
    let handle = EngineHandle {
        inbox: sender,
        wake,
    };
    Ok((handle, wants, thread))
}

struct Engine {
    tun: Tun,
    agent: Agent,
    clock: Clock,
    inbox: inbox::Receiver<Input>,
    wake: Arc<EventFd>,
    wanted: mpsc::UnboundedSender<Output>,
}

impl Engine {
    fn run(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; MAX_FRAME];
        loop {
            if !self.read_inbox() {
                return Ok(());
            }
            self.agent.handle_timeout(self.clock.now());
            self.write_outputs();
            let more = self.read_batch(&mut buffer)?;
            if !more {
                self.sleep()?;
            }
        }
    }

    /// `false` if the thread is to end.
    fn read_inbox(&mut self) -> bool {
        loop {
            let input = match self.inbox.try_recv() {
                Ok(input) => input,
                Err(inbox::TryRecvError::Empty) => return true,
                Err(inbox::TryRecvError::Disconnected) => return false,
            };
            let now = self.clock.now();
            match input {
                Input::Lookup(home, answer) => self.agent.handle_lookup(now, home, answer),
                Input::Update(home, result) => self.agent.handle_update(now, home, result),
                Input::Control(from, to, payload) => {
                    self.agent.handle_control(now, from, to, &payload);
                }
                Input::Uplink(locators) => self.agent.handle_uplink(now, locators),
                Input::Call(call) => call(&mut self.agent, now),
                Input::Last(call) => {
                    if call(&mut self.agent, now) {
                        self.write_outputs();
                        return false;
                    }
                }
            }
            self.write_outputs();
        }
    }

    /// `true` if there may be more to read.
    fn read_batch(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let vnet = self.tun.vnet();
        let now = self.clock.now();
        for _ in 0..BATCH {
            let received = match self.tun.recv(buffer) {
                Ok(Some(received)) => received,
                Ok(None) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The device is down for a moment: somebody is reconfiguring it.
                Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => return Ok(false),
                Err(error) => return Err(error),
            };
            if let Gso::Unknown(_) = received.frame.gso {
                self.agent.count(Cause::UnknownGso);
                continue;
            }
            let frame = &mut buffer[..received.len];
            let verdict = if vnet {
                let (header, packet) = frame.split_at_mut(VNET_HEADER);
                let mut offload = Offload::default();
                offload.0.copy_from_slice(header);
                self.agent.handle_packet(now, &offload, packet)
            } else {
                self.agent.handle_packet(now, &Offload::default(), frame)
            };
            if verdict == Verdict::Send {
                let sent = self.tun.send(&buffer[..received.len]);
                self.note_sent(sent);
            } else {
                self.write_outputs();
            }
        }
        Ok(true)
    }

    fn write_outputs(&mut self) {
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::Write(frame) => self.write(&frame),
                // The receiver ends after this thread.
                other => drop(self.wanted.send(other)),
            }
        }
    }

    fn write(&mut self, frame: &Frame) {
        let plain = frame.offload == Offload::default();
        let sent = if plain {
            self.tun.send_packet(&frame.packet)
        } else if self.tun.vnet() {
            self.tun.send(&frame.to_octets())
        } else {
            return self.agent.count(Cause::OffloadMissing);
        };
        self.note_sent(sent);
    }

    fn note_sent(&mut self, sent: io::Result<()>) {
        if sent.is_err() {
            self.agent.count(Cause::WriteRefused);
        }
    }

    fn sleep(&mut self) -> io::Result<()> {
        let wait = self
            .agent
            .poll_timeout()
            .map_or(Duration::from_secs(1), |at| at.since(self.clock.now().time));
        // Rounded up: waking before the timer is due would spin.
        let ms = u16::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        let mut fds = [
            PollFd::new(self.tun.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::from(ms)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if fds[1].any().unwrap_or(false) {
            // Nonblocking; empty only if somebody else read it, which nobody does.
            let _ = self.wake.read();
        }
        Ok(())
    }
}
