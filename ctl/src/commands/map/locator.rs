//! Locators as they are written on the command line, and shown.

use std::net::SocketAddr;
use std::str::FromStr;

use mat_proto::{CONTROL_PORT, Entry, Locator, Priority};

/// `LOCATOR` or `LOCATOR:PORT`; an IPv6 locator with a port stands in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocatorPort {
    /// The locator.
    pub locator: Locator,
    /// The control port there; the usual one unless said otherwise.
    pub port: u16,
}

impl FromStr for LocatorPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ip, port) = match text.parse::<SocketAddr>() {
            Ok(address) => (address.ip(), address.port()),
            Err(_) => match text.parse() {
                Ok(ip) => (ip, CONTROL_PORT),
                Err(_) => {
                    return Err("is not a locator; write 198.51.100.7, 198.51.100.7:6283, \
                                2001:db8::7 or [2001:db8::7]:6283"
                        .to_owned());
                }
            },
        };
        if port == 0 {
            return Err("port 0 cannot be used".to_owned());
        }
        let locator = Locator::new(ip).map_err(|error| error.to_string())?;
        Ok(LocatorPort { locator, port })
    }
}

/// An entry of a binding: `198.51.100.7`, with what is not usual about it. Of homes that share it,
/// with the length of the prefix of locators that begins there.
pub(super) fn entry(entry: &Entry, length: Option<u8>) -> String {
    let mut text = entry.locator.to_string();
    if let Some(length) = length {
        text += &format!("/{length}");
        if entry.port != CONTROL_PORT {
            text += &format!(" port {}", entry.port);
        }
    } else if entry.port != CONTROL_PORT {
        text = SocketAddr::new(entry.locator.ip(), entry.port).to_string();
    }
    if entry.priority != Priority::ACTIVE {
        text += " (standby)";
    }
    if entry.modes != mat_proto::Modes::NATIVE {
        text += &format!(" [{}]", entry.modes);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_optional_in_both_families() {
        let cases = [
            ("198.51.100.7", "198.51.100.7", CONTROL_PORT),
            ("198.51.100.7:7000", "198.51.100.7", 7000),
            ("2001:db8::7", "2001:db8::7", CONTROL_PORT),
            ("[2001:db8::7]:7000", "2001:db8::7", 7000),
        ];
        for (text, ip, port) in cases {
            let locator = ip.parse().unwrap();
            assert_eq!(text.parse(), Ok(LocatorPort { locator, port }), "{text}");
        }
        for text in [
            "",
            "site-b",
            "198.51.100.7:0",
            "127.0.0.1",
            "198.51.100.7:66000",
        ] {
            assert!(text.parse::<LocatorPort>().is_err(), "{text}");
        }
    }
}
