//! `matd`, the forwarder.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mat_dataplane::{config, daemon};
use tracing_subscriber::EnvFilter;

/// The forwarder: keeps the connections of instances that move.
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

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_env("MAT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let result = match args.command {
        None => daemon::run(&args.config).await,
        Some(Command::Cleanup) => daemon::cleanup(&args.config).await,
        Some(Command::CheckConfig) => config::check(&args.config)
            .map(|text| println!("{text}"))
            .map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("matd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
