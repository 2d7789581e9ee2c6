//! The TUN device: packets in, packets out, and what the kernel leaves for us to
//! do with them ([`crate::frame`]).
//!
//! The device is persistent: it, and every route to it, outlives the process, so
//! that a restart loses no route and leaks no packet with an unrewritten address.
//! A [`Tun`] is one queue of it: a descriptor, non-blocking; reading and writing need no
//! `&mut`. With several queues the kernel spreads flows over them, and a flow that changes
//! its queue may be reordered: see ARCHITECTURE.md, "Threads".

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::config::TunConfig;
use crate::frame;

const DEVICE: &str = "/dev/net/tun";
/// A killed owner's descriptor is closed within milliseconds; a living owner
/// keeps it, and waiting longer would only delay saying so.
const BUSY_PATIENCE: Duration = Duration::from_millis(500);
const BUSY_PAUSE: Duration = Duration::from_millis(5);

// linux/if_tun.h
const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO4: libc::c_uint = 0x02;
const TUN_F_TSO6: libc::c_uint = 0x04;
const TUN_F_TSO_ECN: libc::c_uint = 0x08;
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;

/// What the kernel was persuaded to leave undone for us, best first.
const OFFLOADS: [(Offload, libc::c_uint); 2] = [
    (
        Offload::TcpUdp,
        TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6,
    ),
    (
        Offload::Tcp,
        TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN,
    ),
];

/// Why there is no TUN device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The kernel or the container has no TUN.
    #[error(
        "{DEVICE} is missing; load the module (modprobe tun), or in a container pass the device in, or: mkdir -p /dev/net && mknod -m 0666 {DEVICE} c 10 200"
    )]
    NoDevice,
    /// The device node may not be opened.
    #[error("{DEVICE} may not be opened: {0}; run matd as root, or allow it: chmod 0666 {DEVICE}")]
    Forbidden(io::Error),
    /// Creating network devices is not allowed.
    #[error(
        "creating the TUN device {name} is not permitted: {cause}; run matd as root or with CAP_NET_ADMIN"
    )]
    NotPermitted {
        /// The device.
        name: String,
        /// What the system said.
        cause: io::Error,
    },
    /// Another process has the device.
    #[error(
        "the TUN device {0} is in use by another process, probably another matd; stop it (only one can serve a network namespace)"
    )]
    Busy(String),
    /// An interface of this name exists and is of another kind.
    #[error(
        "the interface {0} exists and is not a TUN device matd can use; remove it (ip link del {0}) or choose another `tun.name`"
    )]
    NotATun(String),
    /// An inherited descriptor that cannot be used.
    #[error("the inherited descriptor is not the TUN device {name} as configured: {what}")]
    Foreign {
        /// The device.
        name: String,
        /// What it is instead.
        what: String,
    },
    /// The name is no interface name.
    #[error("{0:?} is not an interface name; use 1 to 15 bytes for `tun.name`")]
    Name(String),
    /// Anything else.
    #[error("the TUN device {name}: {doing}: {cause}")]
    Io {
        /// The device.
        name: String,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        cause: io::Error,
    },
}

/// Work the kernel leaves in the packets it hands us, and takes back from us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Partial checksums, TCP super-packets and batches of UDP datagrams.
    TcpUdp,
    /// Partial checksums and TCP super-packets (before Linux 6.2).
    Tcp,
    /// The header is there, and says nothing.
    HeaderOnly,
    /// Plain packets of at most the MTU.
    None,
}

/// An open TUN device.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
    offload: Offload,
}

impl Tun {
    /// Opens a queue of the device of `config`, creating it if need be, and makes it
    /// persistent. If the kernel refuses an offload the next lower one is used.
    ///
    /// A device that is busy is tried again for half a second.
    pub fn open(config: &TunConfig) -> Result<Self, TunError> {
        let file = match claim(&config.name, flags(config)) {
            Err(TunError::NotATun(name)) => {
                // Perhaps it is one, of one queue where several are wanted, or the reverse.
                let other = flags(config) ^ libc::IFF_MULTI_QUEUE;
                let old = claim(&name, other).map_err(|_| TunError::NotATun(name.clone()))?;
                sys::set_persist(&old, false).map_err(fault(&name, "making it anew"))?;
                drop(old);
                claim(&name, flags(config))?
            }
            claimed => claimed?,
        };
        Self::equip(file, config)
    }

    /// Goes on with a descriptor that another process opened as the device of
    /// `config`. The packets that wait in it are kept; offloads are negotiated
    /// again.
    ///
    /// # Errors
    /// [`TunError::Foreign`] if it is something else, another device, one that
    /// has been removed, or one whose packets have another form than `config`
    /// wants, which cannot be changed any more. It is closed then.
    pub fn adopt(descriptor: OwnedFd, config: &TunConfig) -> Result<Self, TunError> {
        let name = &config.name;
        let foreign = |what: String| TunError::Foreign {
            name: name.clone(),
            what,
        };
        let file = File::from(descriptor);
        let (device, found) =
            sys::identify(&file).map_err(|error| foreign(format!("it is none ({error})")))?;
        if device != *name {
            return Err(foreign(format!("it is {device:?}")));
        }
        let (found, wanted) = (found & !libc::IFF_PERSIST, kind(flags(config)));
        if found != wanted {
            let text = format!("its flags are {found:#x} where {wanted:#x} is wanted");
            return Err(foreign(text));
        }
        // Whoever kept it may have changed that.
        fcntl(&file, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))
            .map_err(|error| fault(name, "making it non-blocking")(error.into()))?;
        Self::equip(file, config)
    }

    /// What an open device needs beyond being open.
    fn equip(file: File, config: &TunConfig) -> Result<Self, TunError> {
        let name = &config.name;
        sys::set_persist(&file, true).map_err(fault(name, "making it persistent"))?;
        // What an earlier owner has asked for goes on with the device: without the header
        // nobody would learn what the kernel has left undone.
        sys::set_offload(&file, 0).map_err(fault(name, "resetting its offloads"))?;
        let offload = if config.offload {
            negotiate(&file).map_err(fault(name, "setting the header length"))?
        } else {
            Offload::None
        };
        Ok(Self {
            file,
            name: name.clone(),
            offload,
        })
    }

    /// Removes the persistent device; nothing happens if there is none. Fails
    /// with [`TunError::Busy`] while somebody has it open.
    pub fn destroy(name: &str) -> Result<(), TunError> {
        let file = match claim(name, 0) {
            Err(TunError::NotATun(_)) => claim(name, libc::IFF_MULTI_QUEUE)?,
            claimed => claimed?,
        };
        sys::set_persist(&file, false).map_err(fault(name, "making it temporary"))
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether frames begin with the virtio header.
    pub fn vnet(&self) -> bool {
        self.offload != Offload::None
    }

    /// Which offloads are active.
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// One line for the log: which path is active.
    pub fn describe(&self) -> String {
        let path = match self.offload {
            Offload::TcpUdp => "virtio header, checksum + TCP + UDP segmentation offload",
            Offload::Tcp => "virtio header, checksum + TCP segmentation offload",
            Offload::HeaderOnly => "virtio header, no offload (refused by the kernel)",
            Offload::None => "plain packets, no offload",
        };
        format!("tun {}: {path}", self.name)
    }

    /// Reads one frame into `frame`, which should hold [`MAX_FRAME`](crate::frame::MAX_FRAME)
    /// octets (what does not fit is cut off by the kernel). `None` if nothing is waiting.
    pub fn recv(&self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.file).read(frame) {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes one frame that lies in pieces: a packet with its header before it if
    /// [`Tun::vnet`].
    ///
    /// # Errors
    /// `InvalidInput` means that the kernel refuses this packet or its header;
    /// others will still be taken. `WouldBlock`: its queue is full.
    pub fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        // A TUN takes a packet whole or not at all.
        match (&self.file).write_vectored(pieces)? {
            written if written == length => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn flags(config: &TunConfig) -> libc::c_int {
    let vnet = if config.offload {
        libc::IFF_VNET_HDR
    } else {
        0
    };
    let queues = if config.queues > 1 {
        libc::IFF_MULTI_QUEUE
    } else {
        0
    };
    vnet | queues
}

/// Layer 3, no header of its own before the packet, and what else is asked for.
fn kind(more: libc::c_int) -> libc::c_int {
    libc::IFF_TUN | libc::IFF_NO_PI | more
}

/// Opens the clone device and binds it to the interface `name`.
fn claim(name: &str, flags: libc::c_int) -> Result<File, TunError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(DEVICE)
        .map_err(|error| match error.raw_os_error() {
            // ENODEV, ENXIO: the node is there and nothing is behind it.
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::NoDevice,
            _ => TunError::Forbidden(error),
        })?;
    let request =
        sys::Request::new(name, kind(flags)).ok_or_else(|| TunError::Name(name.to_owned()))?;
    let deadline = Instant::now() + BUSY_PATIENCE;
    loop {
        let Err(error) = request.bind(&file) else {
            return Ok(file);
        };
        match error.raw_os_error() {
            Some(libc::EBUSY) if Instant::now() < deadline => std::thread::sleep(BUSY_PAUSE),
            Some(libc::EBUSY) => return Err(TunError::Busy(name.to_owned())),
            Some(libc::EINVAL) => return Err(TunError::NotATun(name.to_owned())),
            Some(libc::EPERM) => {
                return Err(TunError::NotPermitted {
                    name: name.to_owned(),
                    cause: error,
                });
            }
            _ => return Err(fault(name, "attaching to it")(error)),
        }
    }
}

/// Tries the offloads, best first.
fn negotiate(file: &File) -> io::Result<Offload> {
    // A device that persisted may still have another program's header length.
    sys::set_header_length(file, frame::Offload::LEN)?;
    let accepted = OFFLOADS
        .into_iter()
        .find(|(_, bits)| sys::set_offload(file, *bits).is_ok());
    Ok(accepted.map_or(Offload::HeaderOnly, |(offload, _)| offload))
}

/// `doing` failed on the device `name`.
fn fault(name: &str, doing: &'static str) -> impl FnOnce(io::Error) -> TunError {
    let name = name.to_owned();
    move |cause| TunError::Io { name, doing, cause }
}

/// The `ioctl(2)` calls of linux/if_tun.h. The only unsafe code here.
mod sys {
    use super::{AsRawFd, File, io};
    use crate::io::ifreq;

    nix::ioctl_write_ptr_bad!(
        tun_set_iff,
        nix::request_code_write!(b'T', 202, 4),
        libc::ifreq
    );
    nix::ioctl_write_int_bad!(tun_set_persist, nix::request_code_write!(b'T', 203, 4));
    nix::ioctl_read_bad!(
        tun_get_iff,
        nix::request_code_read!(b'T', 210, 4),
        libc::ifreq
    );
    nix::ioctl_write_int_bad!(tun_set_offload, nix::request_code_write!(b'T', 208, 4));
    nix::ioctl_write_ptr_bad!(
        tun_set_vnet_hdr_sz,
        nix::request_code_write!(b'T', 216, 4),
        libc::c_int
    );

    /// Name and flags of the device to attach to.
    pub struct Request(libc::ifreq);

    impl Request {
        /// `None` if `name` does not fit.
        pub fn new(name: &str, flags: libc::c_int) -> Option<Self> {
            let mut request = ifreq::named(name).ok()?;
            request.ifr_ifru.ifru_flags = flags as libc::c_short;
            Some(Self(request))
        }

        pub fn bind(&self, file: &File) -> io::Result<()> {
            let mut copy = self.0;
            // SAFETY: `file` is open, and TUNSETIFF reads one whole `ifreq`; it
            // writes the name back, hence the copy of its own.
            unsafe { tun_set_iff(file.as_raw_fd(), &raw mut copy) }?;
            Ok(())
        }
    }

    /// Name and flags of the device that `file` is attached to.
    pub fn identify(file: &File) -> io::Result<(String, libc::c_int)> {
        // SAFETY: an `ifreq` is plain integers, arrays and a union of such; all zero is
        // a valid value.
        let mut answer: libc::ifreq = unsafe { std::mem::zeroed() };
        // SAFETY: `file` is open, and TUNGETIFF writes one whole `ifreq`.
        unsafe { tun_get_iff(file.as_raw_fd(), &raw mut answer) }?;
        let name = answer.ifr_name.iter().map(|byte| *byte as u8);
        let name: Vec<u8> = name.take_while(|byte| *byte != 0).collect();
        // SAFETY: TUNGETIFF fills in the flags, and any bits are valid flags.
        let flags = unsafe { answer.ifr_ifru.ifru_flags };
        let flags = libc::c_int::from(flags as u16);
        Ok((String::from_utf8_lossy(&name).into_owned(), flags))
    }

    pub fn set_persist(file: &File, on: bool) -> io::Result<()> {
        // SAFETY: `file` is open; the argument is a plain integer.
        unsafe { tun_set_persist(file.as_raw_fd(), on.into()) }?;
        Ok(())
    }

    pub fn set_offload(file: &File, bits: libc::c_uint) -> io::Result<()> {
        // SAFETY: `file` is open; the argument is a plain integer.
        unsafe { tun_set_offload(file.as_raw_fd(), bits as libc::c_int) }?;
        Ok(())
    }

    pub fn set_header_length(file: &File, length: usize) -> io::Result<()> {
        let length = length as libc::c_int;
        // SAFETY: `file` is open, and TUNSETVNETHDRSZ reads one `int`.
        unsafe { tun_set_vnet_hdr_sz(file.as_raw_fd(), &raw const length) }?;
        Ok(())
    }
}
