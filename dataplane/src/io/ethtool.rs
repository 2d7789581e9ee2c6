//! Features of network devices, as `ethtool -K` switches them.
//!
//! What the kernel calls a feature has a name in a table of its own and a bit at the same
//! place (linux/ethtool.h): the name is looked up each time, for places differ from kernel
//! to kernel.

use std::io;

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
    Place::of(dev, feature)?.wanted(dev)
}

/// Switches it.
///
/// # Errors
/// As for [`read`]; what else the driver says.
pub fn write(dev: &str, feature: &str, on: bool) -> io::Result<()> {
    let place = Place::of(dev, feature)?;
    place.wanted(dev)?;
    let Place { words, word, bit } = place;
    // Of each word: which bits are meant, and what they shall be.
    let mut request = vec![0; 2 + words * 2];
    request[..2].copy_from_slice(&[SFEATURES, words as u32]);
    request[2 + word * 2..][..2].copy_from_slice(&[bit, if on { bit } else { 0 }]);
    sys::call(dev, &mut request)
}

/// Where a feature is among all.
struct Place {
    /// That all features take.
    words: usize,
    /// The one with this feature.
    word: usize,
    bit: u32,
}

impl Place {
    fn of(dev: &str, feature: &str) -> io::Result<Self> {
        // A mask of 64 bits, and room for one answer.
        let mut info = [GSSET_INFO, 0, 1 << SS_FEATURES, 0, 0];
        sys::call(dev, &mut info)?;
        let count = info[4] as usize;
        let mut strings = vec![0; 3 + count * GSTRING_LEN / 4];
        strings[..2].copy_from_slice(&[GSTRINGS, SS_FEATURES]);
        sys::call(dev, &mut strings)?;
        let names: Vec<u8> = strings[3..].iter().flat_map(|w| w.to_ne_bytes()).collect();
        let place = names.chunks(GSTRING_LEN).position(|name| {
            let name = name.split(|byte| *byte == 0).next();
            name == Some(feature.as_bytes())
        });
        let place = place.ok_or(io::ErrorKind::NotFound)?;
        Ok(Place {
            words: count.div_ceil(32),
            word: place / 32,
            bit: 1 << (place % 32),
        })
    }

    /// Whether it is wanted; an error if it cannot be switched.
    fn wanted(&self, dev: &str) -> io::Result<bool> {
        let mut answer = vec![0; 2 + self.words * BLOCK];
        answer[..2].copy_from_slice(&[GFEATURES, self.words as u32]);
        sys::call(dev, &mut answer)?;
        let block = &answer[2 + self.word * BLOCK..][..BLOCK];
        let [available, requested, _, never_changed] = block else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if available & !never_changed & self.bit == 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(requested & self.bit != 0)
    }
}

/// The one `ioctl(2)`. The only unsafe code here.
mod sys {
    use std::os::fd::AsRawFd;

    use super::io;
    use crate::io::ifreq;

    // linux/sockios.h
    nix::ioctl_readwrite_bad!(siocethtool, 0x8946, libc::ifreq);

    /// `request` begins with the command and has room for all of the answer: as many items
    /// as it says, or as GSSET_INFO has told.
    pub fn call(dev: &str, request: &mut [u32]) -> io::Result<()> {
        let mut ifreq = ifreq::named(dev)?;
        ifreq.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
        let socket = ifreq::any_socket()?;
        // SAFETY: `ifreq` is whole, and what it points to lives as long as the call; the
        // commands of this file write no more than their callers made room for.
        unsafe { siocethtool(socket.as_raw_fd(), &raw mut ifreq) }?;
        Ok(())
    }
}
