//! Two changes to a network device, each as one netlink message (rtnetlink(7)).
//!
//! A fork of `ip` costs milliseconds; inside the gap of a move that is measured, one message does.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

const HEADER: usize = 16;
const ERROR_END: usize = HEADER + 4;

/// Sets the device of the calling thread's namespace up.
pub(crate) fn set_up(device: &str) -> Result<()> {
    set_link(device, None)
}

/// Moves the device of the calling thread's namespace into `target` and sets it up there.
/// The kernel does both for the one message, in this order.
pub(crate) fn move_and_set_up(device: &str, target: &File) -> Result<()> {
    set_link(device, Some(target))
}

fn set_link(device: &str, target: Option<&File>) -> Result<()> {
    let what = || format!("netlink: cannot change device {device}");
    let socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(libc::NETLINK_ROUTE)),
    )
    .with_context(what)?;
    socket
        .send(&set_link_message(device, target.map(AsRawFd::as_raw_fd))?)
        .with_context(what)?;
    let mut reply = [0; 512];
    let length = io::Read::read(&mut &socket, &mut reply).with_context(what)?;
    ensure!(length >= ERROR_END, "{}: reply of {length} bytes", what());
    let errno = i32::from_ne_bytes([reply[16], reply[17], reply[18], reply[19]]);
    if errno != 0 {
        bail!("{}: {}", what(), io::Error::from_raw_os_error(-errno));
    }
    Ok(())
}

fn set_link_message(device: &str, target: Option<i32>) -> Result<Vec<u8>> {
    ensure!(
        !device.is_empty() && device.len() < libc::IFNAMSIZ,
        "`{device}` is no device name: 1 to {} bytes are allowed",
        libc::IFNAMSIZ - 1
    );
    let up = libc::IFF_UP as u32;
    let mut message = vec![0; HEADER];
    // struct ifinfomsg: family, padding, type, index (0: by name), flags, mask of changed flags.
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&up.to_ne_bytes());
    message.extend_from_slice(&up.to_ne_bytes());
    let mut name = device.as_bytes().to_vec();
    name.push(0);
    push_attribute(&mut message, libc::IFLA_IFNAME, &name);
    if let Some(fd) = target {
        push_attribute(&mut message, libc::IFLA_NET_NS_FD, &fd.to_ne_bytes());
    }
    // struct nlmsghdr: length, type, flags, sequence number, sender.
    let length = message.len() as u32;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    message[0..4].copy_from_slice(&length.to_ne_bytes());
    message[4..6].copy_from_slice(&libc::RTM_SETLINK.to_ne_bytes());
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    Ok(message)
}

/// One attribute: length without padding, kind, value, padding to four bytes.
fn push_attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = 4 + value.len() as u16;
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_but_not_their_length() {
        let message = set_link_message("eth0", None).unwrap();
        // 16 header + 16 ifinfomsg + attribute of 4 + 5 bytes, padded to 12.
        assert_eq!(message.len(), 44);
        assert_eq!(message[0..4], 44u32.to_ne_bytes());
        assert_eq!(message[32..34], 9u16.to_ne_bytes());
    }

    #[test]
    fn a_name_too_long_for_the_kernel_is_refused() {
        assert!(set_link_message("sixteen-bytes-00", None).is_err());
    }
}
