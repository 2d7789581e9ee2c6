//! The request of `netdevice(7)`'s calls, and the MAC address by two of them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::io::MacAddr;

/// A request that names `dev`, all else zero.
///
/// # Errors
/// `NotFound` if no device can have that name.
pub fn named(dev: &str) -> io::Result<libc::ifreq> {
    // SAFETY: an `ifreq` is plain integers, arrays and a union of such; all zero is a
    // valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if dev.is_empty() || dev.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::NotFound.into());
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(dev.bytes()) {
        *slot = byte as libc::c_char;
    }
    Ok(request)
}

/// Any socket will do for a call about a device: it names the network namespace.
pub fn any_socket() -> io::Result<OwnedFd> {
    let (kind, flags) = (SockType::Datagram, SockFlag::SOCK_CLOEXEC);
    Ok(socket(AddressFamily::Inet, kind, flags, None)?)
}

/// The MAC address of `dev`.
///
/// # Errors
/// `NotFound` if there is no such device; `Unsupported` if it is not Ethernet.
pub fn mac(dev: &str) -> io::Result<MacAddr> {
    Ok(MacAddr::from_octets(hardware(dev)?.1))
}

/// Changes it. Some drivers refuse while the device is up.
///
/// # Errors
/// As for [`mac`]; what else the driver says.
pub fn set_mac(dev: &str, mac: MacAddr) -> io::Result<()> {
    let (mut request, _) = hardware(dev)?;
    // SAFETY: SIOCGIFHWADDR has filled in this member; any octets are a valid address.
    let data = unsafe { &mut request.ifr_ifru.ifru_hwaddr.sa_data };
    for (slot, octet) in data.iter_mut().zip(mac.octets()) {
        *slot = octet as libc::c_char;
    }
    // SAFETY: the request is whole, and is only read.
    unsafe { sys::siocsifhwaddr(any_socket()?.as_raw_fd(), &raw const request) }.map_err(fault)?;
    Ok(())
}

fn fault(errno: Errno) -> io::Error {
    match errno {
        Errno::ENODEV => io::ErrorKind::NotFound.into(),
        other => other.into(),
    }
}

/// The answer of the kernel, and the six octets in it.
fn hardware(dev: &str) -> io::Result<(libc::ifreq, [u8; 6])> {
    let mut request = named(dev)?;
    let socket = any_socket()?;
    // SAFETY: the request is whole, and the kernel writes no more than that.
    unsafe { sys::siocgifhwaddr(socket.as_raw_fd(), &raw mut request) }.map_err(fault)?;
    // SAFETY: the kernel has filled in this member.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    if address.sa_family != libc::ARPHRD_ETHER {
        let text = format!("{dev} is not an Ethernet interface");
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let octets = std::array::from_fn(|n| address.sa_data[n] as u8);
    Ok((request, octets))
}

mod sys {
    // linux/sockios.h
    nix::ioctl_read_bad!(siocgifhwaddr, 0x8927, libc::ifreq);
    nix::ioctl_write_ptr_bad!(siocsifhwaddr, 0x8924, libc::ifreq);
}
