//! Features of network devices, as `ethtool -K` switches them.
//!
//! What the kernel calls a feature has a name in a table of its own and a bit at the same
//! place (linux/ethtool.h): the name is looked up each time, for places differ from kernel
//! to kernel.

use std::io;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

// linux/ethtool.h
const GSTRINGS: u32 = 0x1b;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3a;
const SFEATURES: u32 = 0x3b;
const SS_FEATURES: u32 = 4;
const GSTRING_LEN: usize = 32;
/// Words of a block of GFEATURES: available, requested, active, never changed.
const BLOCK: usize = 4;

/// Whether `feature` of the device `dev` is wanted.
///
/// # Errors
/// `NotFound` if the kernel knows no such feature, `Unsupported` if it is none that can be
/// switched on this device.
pub fn read(dev: &str, feature: &str) -> io::Result<bool> {
    let (word, bit) = Features::of(dev)?.place(feature)?;
    let features = blocks(dev, word + 1)?;
    let block = &features[2 + word * BLOCK..][..BLOCK];
    if block[0] & bit == 0 || block[3] & bit != 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(block[1] & bit != 0)
}

/// Switches it.
///
/// # Errors
/// As for [`read`]; what else the driver says.
pub fn write(dev: &str, feature: &str, on: bool) -> io::Result<()> {
    read(dev, feature)?;
    let features = Features::of(dev)?;
    let (word, bit) = features.place(feature)?;
    let words = features.count.div_ceil(32);
    // Of each word: which bits are meant, and what they shall be.
    let mut request = vec![0; 2 + words * 2];
    request[..2].copy_from_slice(&[SFEATURES, words as u32]);
    request[2 + word * 2] = bit;
    request[2 + word * 2 + 1] = if on { bit } else { 0 };
    sys::call(dev, &mut request)
}

/// The names of all features.
struct Features {
    count: usize,
    names: Vec<u8>,
}

impl Features {
    fn of(dev: &str) -> io::Result<Self> {
        // A mask of 64 bits, and room for one answer.
        let mut info = [GSSET_INFO, 0, 1 << SS_FEATURES, 0, 0];
        sys::call(dev, &mut info)?;
        let count = info[4] as usize;
        let mut strings = vec![0; 3 + count * GSTRING_LEN / 4];
        strings[..2].copy_from_slice(&[GSTRINGS, SS_FEATURES]);
        sys::call(dev, &mut strings)?;
        let names = strings[3..].iter().flat_map(|word| word.to_ne_bytes());
        Ok(Features {
            count,
            names: names.collect(),
        })
    }

    /// Word and bit.
    fn place(&self, feature: &str) -> io::Result<(usize, u32)> {
        let mut names = self.names.chunks(GSTRING_LEN);
        let place = names.position(|name| {
            let name = name.split(|byte| *byte == 0).next();
            name == Some(feature.as_bytes())
        });
        let place = place.ok_or(io::ErrorKind::NotFound)?;
        Ok((place / 32, 1 << (place % 32)))
    }
}

/// At least `words` blocks of features behind two words of header.
fn blocks(dev: &str, words: usize) -> io::Result<Vec<u32>> {
    let mut answer = vec![0; 2 + words * BLOCK];
    answer[..2].copy_from_slice(&[GFEATURES, words as u32]);
    sys::call(dev, &mut answer)?;
    Ok(answer)
}

/// The one `ioctl(2)`. The only unsafe code here.
mod sys {
    use std::os::fd::AsRawFd;

    use super::{AddressFamily, SockFlag, SockType, io, socket};

    // linux/sockios.h
    nix::ioctl_readwrite_bad!(siocethtool, 0x8946, libc::ifreq);

    /// `request` begins with the command and has room for all of the answer: as many items
    /// as it says, or as GSSET_INFO has told.
    pub fn call(dev: &str, request: &mut [u32]) -> io::Result<()> {
        // SAFETY: an `ifreq` is plain integers, arrays and a union of such; all zero is a
        // valid value.
        let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
        if dev.len() >= ifreq.ifr_name.len() {
            return Err(io::ErrorKind::NotFound.into());
        }
        for (slot, byte) in ifreq.ifr_name.iter_mut().zip(dev.bytes()) {
            *slot = byte as libc::c_char;
        }
        ifreq.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
        // Any socket will do: it names the network namespace.
        let (kind, flags) = (SockType::Datagram, SockFlag::SOCK_CLOEXEC);
        let socket = socket(AddressFamily::Inet, kind, flags, None)?;
        // SAFETY: `ifreq` is whole, and what it points to lives as long as the call; the
        // commands of this file write no more than their callers made room for.
        unsafe { siocethtool(socket.as_raw_fd(), &raw mut ifreq) }?;
        Ok(())
    }
}
