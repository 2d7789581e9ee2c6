//! Nodes: machines that have their home addresses themselves, with a forwarder inside.
//!
//! Each has a link of its own to the router, with a /28 and a /64:
//!
//! ```text
//!   router .1 ──── .2 node          198.51.100.192/28, 2001:db8:d0::/64 for the first, and so on
//!                  .9, .10 and ::101 to ::103 are its pool, if its locators are dedicated
//! ```

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::{HOMES, START, Testbed, locator_prefixes, start_matd, toml_list};
use crate::{Host, Process};

/// Everything a node can have as a locator.
pub const NODE_LOCATORS: [&str; 2] = ["198.51.100.192/26", "2001:db8:d0::/46"];

/// Secret of the key of all nodes.
pub(super) const NODE_SECRET: &str = "ZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGQ=";

/// Where a node gets its locators from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locators {
    /// A pool on the uplink's subnet.
    Dedicated,
    /// The uplink's own addresses.
    Exclusive,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    /// Where its processes run.
    pub host: Host,
    /// Its home address.
    pub home: String,
    /// Its IPv6 home address.
    pub home6: String,
    /// The address of its uplink.
    pub address: String,
    /// The IPv6 address of its uplink.
    pub address6: String,
    /// Its forwarder.
    pub matd: Process,
    /// Control socket of the forwarder.
    pub socket: PathBuf,
}

impl Testbed {
    /// Makes the node in `place` 0 to 3, starts its forwarder and waits until it is served.
    pub fn node(&self, name: &str, number: u8, place: u8, locators: Locators) -> Result<Node> {
        ensure!(place < 4, "there are places 0 to 3 for nodes");
        let host = self.lab.host(name)?;
        let (base, port) = (192 + 16 * place, format!("n{place}"));
        let (v4, v6) = ("198.51.100", format!("2001:db8:d{place}:"));
        let node = |n: u8| format!("{v4}.{}", base + n);
        match self.options().wan() {
            Some(wan) => drop(self.lab.wan(&host, "eth0", &self.router, &port, wan)?),
            None => self.lab.link(&host, "eth0", &self.router, &port)?,
        }
        self.router.ip(&format!(
            "addr add {}/28 dev {port}
             addr add {v6}:1/64 dev {port} nodad",
            node(1)
        ))?;
        host.ip(&format!(
            "addr add {}/28 dev eth0
             route add default via {}
             addr add {v6}:2/64 dev eth0 nodad
             route add default via {v6}:1",
            node(2),
            node(1)
        ))?;
        let (home, home6) = (format!("192.0.2.{number}"), format!("2001:db8:1::{number}"));
        let given = match locators {
            Locators::Dedicated => {
                let pool = [format!("{}/30", node(8)), format!("{v6}:100/126")];
                format!("pool = {}", toml_list(&pool))
            }
            Locators::Exclusive => "exclusive = true".to_owned(),
        };
        let socket = self.lab.dir().join(format!("matd-{name}.sock"));
        let config = self.lab.write(
            &format!("matd-{name}.toml"),
            format!(
                "site = \"{name}\"\nplacement = \"guest\"\nuplink = \"eth0\"\n\
                 control_socket = \"{}\"\nstate_dir = \"{}\"\n\
                 [homes]\nprefixes = {}\n\
                 [locators]\nprefixes = {}\n{given}\n\
                 [mapping]\nservers = [\"203.0.113.53:53\"]\nzone = \"map.example.\"\n\
                 trust = \"tsig\"\n\
                 key = {{ name = \"nodes.\", algorithm = \"hmac-sha256\", \
                 secret = \"{NODE_SECRET}\" }}\n\
                 [[instance]]\nhome = \"{home}\"\n\
                 [[instance]]\nhome = \"{home6}\"\n{}",
                socket.display(),
                self.lab.dir().join(format!("state-{name}")).display(),
                toml_list(&HOMES),
                toml_list(&locator_prefixes()),
                self.options().extra,
            ),
        )?;
        let matd = start_matd(&host, self.options(), &config, &socket)?;
        for home in [&home, &home6] {
            matd.wait_for_log(&format!("{home}: serving at"), START)?;
        }
        Ok(Node {
            host,
            home,
            home6,
            address: node(2),
            address6: format!("{v6}:2"),
            matd,
            socket,
        })
    }
}
