//! A gateway that stands by for another one.

use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::net::if_::if_nametoindex;
use tokio::signal::unix::{SignalKind, signal};

use super::{agent_config, entropy, identity};
use crate::agent::Agent;
use crate::config::Config;
use crate::io::api::{self, PairDuty, Report};
use crate::io::engine::Clock;
use crate::io::pair::Pair;
use crate::io::server::Server;
use crate::io::service;
use crate::io::steering::{Claims, Steering};
use crate::pair::Duty;
use crate::upgrade::{Program, unblock_signals};

/// What a gateway that stood by is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is on duty.
    OnDuty,
    /// Somebody wants it to end.
    End,
    /// Its configuration or its program has been replaced.
    Again,
}

/// Waits for its turn; then the state of the one before it is in the first of the files. In the
/// second of them is what the other one tells. `path` is where the configuration is from.
pub(super) async fn wait(
    (path, config): (&Path, &Config),
    program: &Program,
    pair: &Pair,
    listener: &UnixListener,
    (state, copy): (&Path, &Path),
) -> anyhow::Result<Turn> {
    let mut duty = pair.duty();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut upgrade = signal(SignalKind::user_defined2())?;
    unblock_signals()?;
    let mut server: Option<Server> = None;
    loop {
        let now = *duty.borrow_and_update();
        match (now, &server) {
            (Duty::Active, None) => return Ok(Turn::OnDuty),
            (Duty::Active, Some(_)) => break,
            (Duty::Standby, None) => {
                silence(config, state).await?;
                if copy.exists() {
                    pair.inform();
                }
                tracing::info!("site {}: standing by for {}", config.site, pair.peer());
                let router = api::standby_router(report(config));
                server = Some(Server::start(listener.try_clone()?, router)?);
                service::ready();
            }
            _ => {}
        }
        tokio::select! {
            _ = terminate.recv() => return Ok(Turn::End),
            _ = interrupt.recv() => return Ok(Turn::End),
            _ = hangup.recv() => {}
            _ = upgrade.recv() => {}
            _ = duty.changed() => continue,
        }
        // There is nothing that must not end.
        match program.check(path).await {
            // The other one is on duty.
            Ok(()) if Config::load(path, None).is_ok_and(|new| new.pair.is_none()) => {
                tracing::error!(
                    "goes on as it was: without [pair] it would serve beside {}; to do that, end it \
                 and start it anew",
                    pair.peer()
                )
            }
            Ok(()) => return Ok(Turn::Again),
            Err(error) => tracing::error!("goes on as it was: {error:#}"),
        }
    }
    if let Some(mut server) = server {
        server.stop();
    }
    if copy.exists() {
        std::fs::rename(copy, state)?;
    }
    tracing::info!("site {}: taking over from {}", config.site, pair.peer());
    Ok(Turn::OnDuty)
}

/// Resolves when this gateway is no longer on duty; never without a pair.
pub(super) async fn relieved(pair: Option<&Pair>) {
    if let Some(pair) = pair {
        let mut duty = pair.duty();
        // It ends with the process.
        let _ = duty.wait_for(|duty| *duty != Duty::Active).await;
        tracing::warn!("{} is on duty now: standing by", pair.peer());
    } else {
        std::future::pending().await
    }
}

/// What was known on duty is a copy from now on, unless the other one has told more already.
pub(super) fn lay_aside(state: &Path) -> std::io::Result<()> {
    let copy = state.with_file_name(super::COPY_FILE);
    match std::fs::rename(state, copy) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Nothing that an earlier life has left in the kernel is to answer for the site.
async fn silence(config: &Config, file: &Path) -> anyhow::Result<()> {
    if if_nametoindex(config.tun.name.as_str()).is_ok() {
        let mut steering = Steering::take(config, &config.tun.name).await?;
        steering.down(&Claims::default()).await?;
    }
    // Until the other one tells more, that is the best there is.
    Ok(lay_aside(file)?)
}

/// The status of a forwarder that does nothing.
fn report(config: &Config) -> Report {
    let clock = Clock::start();
    let idle = Agent::new(agent_config(config), clock.now(), entropy);
    let path = "none: standing by".to_owned();
    Report {
        identity: identity(config, path, Some(PairDuty::Standby)),
        status: idle.status(clock.now()),
        threads: Vec::new(),
        push: Vec::new(),
    }
}
