//! `matd`, the forwarder.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mat_dataplane::io::inherit::Inherited;
use mat_dataplane::{config, daemon};
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

/// The forwarder: keeps the connections of instances that move.
///
/// Without a command it runs until SIGTERM or SIGINT. SIGHUP reads the
/// configuration again. SIGUSR2 upgrades in place: once the program's file has
/// been replaced, the new program takes over in the same process, and no packet
/// is lost.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration file.
    #[arg(long, global = true, default_value = "/etc/mat/matd.toml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Read a configuration, say what it means or what is wrong with it.
    CheckConfig,
    /// Remove the TUN, routes, rules and state a stopped forwarder left for the
    /// homes attached to it.
    Cleanup,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_env("MAT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("matd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let config = &args.config;
    match args.command {
        None => {
            // SAFETY: nothing before this line opens a descriptor, and there is
            // no other thread that could.
            let inherited = unsafe { Inherited::take() };
            Runtime::new()?.block_on(daemon::run(config, inherited))
        }
        Some(Command::Cleanup) => Runtime::new()?.block_on(daemon::cleanup(config)),
        Some(Command::CheckConfig) => {
            println!("{}", config::check(config)?);
            Ok(())
        }
    }
}
