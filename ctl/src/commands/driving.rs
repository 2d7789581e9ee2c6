//! What moves instances themselves, as `matctl move` and `matctl evacuate` are told.

use anyhow::{Context, bail};

use crate::config::Instance;
use crate::moves::{Driver, ExecDriver, NetnsDriver, NoDriver};
use crate::site::Site;

/// The choice of a driver; part of both commands' arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct DriverArgs {
    /// What moves the instance itself; without it `exec` if --exec is given, else `netns` if both
    /// sites have a namespace
    #[arg(long, value_enum)]
    driver: Option<DriverKind>,
    /// Command (for sh) that moves the instance; it finds MAT_INSTANCE, MAT_HOMES, MAT_FROM and
    /// MAT_TO in its environment; MAT_ROLL_BACK=1, and these two changed over, when it is to take
    /// the instance back
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
}

/// What moves the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DriverKind {
    /// The host end of its veth changes network namespace
    Netns,
    /// The command given with --exec
    Exec,
    /// Nothing: somebody else moves it
    None,
}

impl DriverArgs {
    /// The driver for one instance; `interface` is the host end of its veth, if known.
    pub fn driver(
        &self,
        instance: &Instance,
        interface: Option<&str>,
        from: &Site,
        to: &Site,
    ) -> anyhow::Result<Box<dyn Driver>> {
        let kind = match (self.driver, &self.exec) {
            (Some(kind), _) => kind,
            (None, Some(_)) => DriverKind::Exec,
            (None, None) if from.netns.is_some() && to.netns.is_some() => DriverKind::Netns,
            (None, None) => bail!(
                "what is to move {} itself? say --exec COMMAND, or --driver none if somebody else \
                 does (--driver netns needs `netns` at both sites)",
                instance.name
            ),
        };
        Ok(match (kind, &self.exec) {
            (DriverKind::Exec, Some(command)) => {
                Box::new(ExecDriver::new(command, &instance.name, &instance.homes))
            }
            (DriverKind::Exec, None) => bail!("--driver exec needs the command: --exec COMMAND"),
            (_, Some(_)) => bail!("--exec is only for --driver exec"),
            (DriverKind::None, None) => Box::new(NoDriver),
            (DriverKind::Netns, None) => {
                let interface = interface.with_context(|| {
                    format!(
                        "driver netns needs the host end of its veth: add interface = \"...\" to \
                         [[instance]] {}",
                        instance.name
                    )
                })?;
                Box::new(NetnsDriver::new(interface, from, to)?)
            }
        })
    }
}
