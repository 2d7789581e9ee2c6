//! What takes the instance itself from one site to the other.
//!
//! A driver that fails has left the instance where it was: only then can a move be undone without
//! asking what state it is in.

use std::process::Command;

use anyhow::{Context, bail};
use mat_proto::Home;

use crate::site::Site;

/// Moves an instance between sites, which are given by name. Blocks until it has moved.
pub trait Driver: Send {
    /// What it is called in reports.
    fn name(&self) -> &str;

    /// Stops the instance before its state is taken from the old site, where the driver can: what
    /// it sends while it has no link is lost otherwise.
    ///
    /// # Errors
    /// It could not; the instance runs on.
    fn freeze(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Whether the instance stands still from [`Driver::freeze`] on, and is there in a moment:
    /// the binding then changes while it is on its way. Otherwise a driver that fails costs
    /// nothing, and the binding changes afterwards.
    fn stands_still(&self) -> bool {
        false
    }

    /// Lets it run again, wherever it is now. Harmless if it runs.
    fn thaw(&mut self) {}

    /// Takes the instance from `from` to `to`.
    ///
    /// # Errors
    /// It could not; the instance is still at `from`.
    fn relocate(&mut self, from: &str, to: &str) -> anyhow::Result<()>;

    /// Takes the instance back to `from` after [`Driver::relocate`] has succeeded, because what
    /// comes after it failed.
    ///
    /// # Errors
    /// It could not; the instance is still at `to`.
    fn bring_back(&mut self, from: &str, to: &str) -> anyhow::Result<()>;
}

/// Somebody else moves the instance, or both sites reach it already.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDriver;

impl Driver for NoDriver {
    fn name(&self) -> &str {
        "none"
    }

    fn relocate(&mut self, _from: &str, _to: &str) -> anyhow::Result<()> {
        Ok(())
    }

    fn bring_back(&mut self, _from: &str, _to: &str) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Containers and sites that are network namespaces of this machine: the host end of the
/// instance's veth changes namespace.
#[derive(Clone, Debug)]
pub struct NetnsDriver {
    interface: String,
    namespaces: [(String, String); 2],
}

impl NetnsDriver {
    /// A driver between two sites; `interface` is the host end of the instance's veth.
    ///
    /// # Errors
    /// A site has no namespace.
    pub fn new(interface: &str, from: &Site, to: &Site) -> anyhow::Result<Self> {
        let namespace = |site: &Site| -> anyhow::Result<(String, String)> {
            let netns = site.netns.clone().with_context(|| {
                format!(
                    "driver netns needs the network namespace of site {0}: \
                     add netns = \"...\" to [[site]] {0}",
                    site.name
                )
            })?;
            Ok((site.name.clone(), netns))
        };
        Ok(NetnsDriver {
            interface: interface.to_owned(),
            namespaces: [namespace(from)?, namespace(to)?],
        })
    }

    fn carry(&self, from: &str, to: &str) -> anyhow::Result<()> {
        let (from, to) = (self.namespace(from)?, self.namespace(to)?);
        mat_netns::move_device(&self.interface, from, to)?;
        Ok(())
    }

    fn namespace(&self, site: &str) -> anyhow::Result<&str> {
        let found = self.namespaces.iter().find(|(name, _)| name == site);
        let (_, netns) = found.with_context(|| format!("no namespace known of site {site}"))?;
        Ok(netns)
    }
}

impl Driver for NetnsDriver {
    fn name(&self) -> &str {
        "netns"
    }

    fn stands_still(&self) -> bool {
        true
    }

    fn relocate(&mut self, from: &str, to: &str) -> anyhow::Result<()> {
        self.carry(from, to)
    }

    fn bring_back(&mut self, from: &str, to: &str) -> anyhow::Result<()> {
        self.carry(to, from)
    }
}

/// The user's own command, run by `sh -c` with `MAT_INSTANCE`, `MAT_HOMES` (separated by spaces),
/// `MAT_FROM` and `MAT_TO`; to bring an instance back it is run once more with the two sites
/// changed over and `MAT_ROLL_BACK=1`. It must exit with 0 if and only if it has moved the
/// instance.
#[derive(Clone, Debug)]
pub struct ExecDriver {
    command: String,
    instance: String,
    homes: String,
}

impl ExecDriver {
    /// A driver that runs `command` for this instance.
    pub fn new(command: &str, instance: &str, homes: &[Home]) -> Self {
        let homes: Vec<String> = homes.iter().map(Home::to_string).collect();
        ExecDriver {
            command: command.to_owned(),
            instance: instance.to_owned(),
            homes: homes.join(" "),
        }
    }

    fn run(&self, from: &str, to: &str, roll_back: bool) -> anyhow::Result<()> {
        let mut command = Command::new("sh");
        command
            .args(["-c", &self.command])
            .env("MAT_INSTANCE", &self.instance)
            .env("MAT_HOMES", &self.homes)
            .env("MAT_FROM", from)
            .env("MAT_TO", to)
            .env_remove("MAT_ROLL_BACK");
        if roll_back {
            command.env("MAT_ROLL_BACK", "1");
        }
        let what = || format!("`{}`", self.command);
        let status = command.status().with_context(what)?;
        if !status.success() {
            bail!("{} ended with {status}", what());
        }
        Ok(())
    }
}

impl Driver for ExecDriver {
    fn name(&self) -> &str {
        "exec"
    }

    fn relocate(&mut self, from: &str, to: &str) -> anyhow::Result<()> {
        self.run(from, to, false)
    }

    fn bring_back(&mut self, from: &str, to: &str) -> anyhow::Result<()> {
        self.run(to, from, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(name: &str, netns: Option<&str>) -> Site {
        Site {
            other_socket: None,
            name: name.to_owned(),
            socket: "/nonexistent".into(),
            netns: netns.map(str::to_owned),
        }
    }

    #[test]
    fn a_command_learns_what_to_do_and_what_to_undo() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let command = format!(
            "echo \"$MAT_INSTANCE $MAT_FROM $MAT_TO [$MAT_HOMES] ${{MAT_ROLL_BACK:-0}}\" >> {}",
            log.display()
        );
        let homes = [
            "192.0.2.10".parse().unwrap(),
            "2001:db8::a".parse().unwrap(),
        ];
        let mut driver = ExecDriver::new(&command, "web", &homes);
        driver.relocate("a", "b").unwrap();
        driver.bring_back("a", "b").unwrap();
        assert_eq!(
            std::fs::read_to_string(log).unwrap(),
            "web a b [192.0.2.10 2001:db8::a] 0\nweb b a [192.0.2.10 2001:db8::a] 1\n"
        );
    }

    #[test]
    fn a_command_that_fails_is_named() {
        let mut driver = ExecDriver::new("exit 3", "web", &[]);
        let error = driver.relocate("a", "b").unwrap_err().to_string();
        assert_eq!(error, "`exit 3` ended with exit status: 3");
    }

    #[test]
    fn sites_need_namespaces() {
        let error = NetnsDriver::new("v1", &site("a", Some("x")), &site("b", None)).unwrap_err();
        assert!(error.to_string().contains("[[site]] b"), "{error}");
    }
}
