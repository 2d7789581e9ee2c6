//! The data threads: packets, control messages and operations, one after another.
//!
//! The first thread has the agent's inputs and timers beside its TUN queue; with more
//! queues than one, each further one has a thread of its own. What the forwarding table
//! ([`crate::fib`]) knows they decide alone; for everything else they ask the agent,
//! one at a time. Others reach the agent through an [`EngineHandle`]; what it wants from
//! them comes out of a channel. Nothing here waits for anything but a queue, the inbox
//! and the agent's next timer.

mod sink;
mod worker;

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as inbox;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mat_proto::{Binding, Home, Locator};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::{mpsc, oneshot};

use super::meter::{Meter, add};
use super::tun::Tun;
use crate::agent::{Agent, Answer, Output, UpdateResult};
use crate::clock::{Now, Time};
use crate::counters::{Accounts, Counters};
use crate::fib::Fib;
pub use sink::Joins;
use worker::{Shared, Worker};

/// Batches handled before inbox and timers are looked at again: long enough to
/// spread that cost, short enough (32 x about 20 us for a super-packet, or for 64
/// small packets) to stay below a millisecond.
const ROUNDS: usize = 32;

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
    News(Home, Answer),
    Update(Home, Option<Binding>, UpdateResult),
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

    /// What was pushed.
    pub fn news(&self, home: Home, answer: Answer) {
        self.put(Input::News(home, answer));
    }

    /// The answer to [`Output::Update`].
    pub fn update(&self, home: Home, new: Option<Binding>, result: UpdateResult) {
        self.put(Input::Update(home, new, result));
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

/// Where packets come from and go to: a queue of a TUN, or a test's idea of one.
pub trait Device {
    /// Whether frames begin with the virtio-net header.
    fn vnet(&self) -> bool;

    /// Reads one frame; `None` if nothing is waiting.
    fn recv(&self, frame: &mut [u8]) -> io::Result<Option<usize>>;

    /// Writes one frame that lies in pieces, with its header if [`Device::vnet`].
    fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<()>;
}

impl Device for Tun {
    fn vnet(&self) -> bool {
        Tun::vnet(self)
    }

    fn recv(&self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        Tun::recv(self, frame)
    }

    fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        Tun::send(self, pieces)
    }
}

/// What others may look at while the data threads run.
#[derive(Clone, Debug)]
pub struct Gauges {
    /// The forwarding table, and what went through it.
    pub fib: Arc<Fib>,
    /// Packets and messages not simply forwarded, by cause.
    pub counters: Arc<Counters>,
    /// The same by whose they were.
    pub accounts: Arc<Accounts>,
    /// Each data thread's own counters.
    pub meters: Vec<Arc<Meter>>,
}

impl Gauges {
    /// What was joined at the start and is not any more, because the kernel refused it.
    pub fn forgone(&self) -> Vec<&'static str> {
        sink::forgone(&self.meters)
    }
}

/// Running data threads.
pub struct Engine {
    /// How to talk to the agent.
    pub handle: EngineHandle,
    /// What the agent wants done.
    pub wants: mpsc::UnboundedReceiver<Output>,
    /// The first thread, which ends after all others.
    pub thread: thread::JoinHandle<io::Result<()>>,
    /// What can be seen from outside.
    pub gauges: Gauges,
}

/// Starts a data thread for each queue of the TUN. There must be at least one.
pub fn start(queues: Vec<Tun>, joins: Joins, agent: Agent, clock: Clock) -> io::Result<Engine> {
    let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
    let wake = Arc::new(wake);
    let (sender, receiver) = inbox::sync_channel(INBOX);
    let (wanted, wants) = mpsc::unbounded_channel();
    let handle = EngineHandle {
        inbox: sender,
        wake: Arc::clone(&wake),
    };
    let meters: Vec<_> = queues.iter().map(|_| Arc::new(Meter::default())).collect();
    let gauges = Gauges {
        fib: Arc::clone(agent.fib()),
        counters: Arc::clone(agent.counters()),
        accounts: Arc::clone(agent.accounts()),
        meters: meters.clone(),
    };
    let shared = Arc::new(Shared {
        fib: Arc::clone(&gauges.fib),
        counters: Arc::clone(&gauges.counters),
        control_port: agent.config().control_port,
        agent: Mutex::new(agent),
        wanted,
    });
    let workers = queues
        .into_iter()
        .zip(meters)
        .map(|(queue, meter)| Worker::new(queue, joins, Arc::clone(&shared), meter));
    let mut workers = workers.collect::<Vec<_>>().into_iter();
    let first = workers.next();
    let first = first.ok_or_else(|| io::Error::other("a TUN without queues"))?;
    let others = Others::start(workers, clock, &handle)?;
    let mut first = First {
        worker: first,
        clock,
        inbox: receiver,
        wake,
        others,
    };
    let thread = thread::Builder::new()
        .name("mat-data".to_owned())
        .spawn(move || first.run())?;
    Ok(Engine {
        handle,
        wants,
        thread,
        gauges,
    })
}

/// The first data thread.
struct First {
    worker: Worker<Tun>,
    clock: Clock,
    inbox: inbox::Receiver<Input>,
    wake: Arc<EventFd>,
    others: Others,
}

impl First {
    fn run(&mut self) -> io::Result<()> {
        let ended = self.serve();
        let others = self.others.end();
        ended.and(others)
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            if !self.read_inbox() {
                return Ok(());
            }
            let now = self.clock.now();
            let shared = Arc::clone(self.worker.shared());
            let mut agent = shared.agent();
            agent.handle_timeout(now);
            self.worker.drain(&mut agent);
            drop(agent);
            let mut more = true;
            for _ in 0..ROUNDS {
                more = self.worker.pump(now)?;
                if !more {
                    break;
                }
            }
            if !more {
                let next = shared.agent().poll_timeout();
                self.sleep(next)?;
            }
        }
    }

    /// `false` if the thread is to end.
    fn read_inbox(&mut self) -> bool {
        let shared = Arc::clone(self.worker.shared());
        loop {
            let input = match self.inbox.try_recv() {
                Ok(input) => input,
                Err(inbox::TryRecvError::Empty) => return true,
                Err(inbox::TryRecvError::Disconnected) => return false,
            };
            let now = self.clock.now();
            let mut agent = shared.agent();
            let mut last = false;
            match input {
                Input::Lookup(home, answer) => agent.handle_lookup(now, home, answer),
                Input::News(home, answer) => agent.handle_news(now, home, answer),
                Input::Update(home, new, result) => {
                    agent.handle_update(now, home, new.as_ref(), result);
                }
                Input::Control(from, to, payload) => {
                    agent.handle_control(now, from, to, &payload);
                }
                Input::Uplink(locators) => agent.handle_uplink(now, locators),
                Input::Call(call) => call(&mut agent, now),
                Input::Last(call) => last = call(&mut agent, now),
            }
            self.worker.drain(&mut agent);
            if last {
                return false;
            }
        }
    }

    fn sleep(&mut self, next: Option<Time>) -> io::Result<()> {
        let wait = next.map_or(Duration::from_secs(1), |at| at.since(self.clock.now().time));
        // Rounded up: waking before the timer is due would spin.
        let ms = u16::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        wait_for(&self.worker, &self.wake, PollTimeout::from(ms))
    }
}

/// Sleeps until the worker's queue or `wake` has something.
fn wait_for(worker: &Worker<Tun>, wake: &EventFd, timeout: PollTimeout) -> io::Result<()> {
    add(&worker.meter().sleeps, 1);
    let mut fds = [
        PollFd::new(worker.device().as_fd(), PollFlags::POLLIN),
        PollFd::new(wake.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    if fds[1].any().unwrap_or(false) {
        // Nonblocking; empty only if somebody else read it, which nobody does.
        let _ = wake.read();
    }
    Ok(())
}

/// The data threads of further queues: packets, and nothing else.
struct Others {
    stop: Arc<AtomicBool>,
    threads: Vec<(Arc<EventFd>, thread::JoinHandle<io::Result<()>>)>,
}

impl Others {
    fn start(
        workers: impl Iterator<Item = Worker<Tun>>,
        clock: Clock,
        handle: &EngineHandle,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (n, mut worker) in workers.enumerate() {
            let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
            let wake = Arc::new(EventFd::from_value_and_flags(0, flags)?);
            let (stop, woken, handle) = (Arc::clone(&stop), Arc::clone(&wake), handle.clone());
            let mut serve = move || {
                while !stop.load(Ordering::Acquire) {
                    if !worker.pump(clock.now())? {
                        wait_for(&worker, &woken, PollTimeout::NONE)?;
                    }
                }
                Ok(())
            };
            let thread = thread::Builder::new()
                .name(format!("mat-data-{}", n + 1))
                .spawn(move || serve().inspect_err(|_| handle.stop()))?;
            threads.push((wake, thread));
        }
        Ok(Others { stop, threads })
    }

    /// Ends them all; the first error is the one worth reporting.
    fn end(&mut self) -> io::Result<()> {
        self.stop.store(true, Ordering::Release);
        let mut ended = Ok(());
        for (wake, thread) in self.threads.drain(..) {
            // Fails only if the counter is about to overflow: awake already.
            let _ = wake.write(1);
            let result = thread.join();
            let result = result.unwrap_or_else(|_| Err(io::Error::other("a data thread panicked")));
            ended = ended.and(result);
        }
        ended
    }
}

#[cfg(test)]
mod tests;
