//! `matd`, the forwarder.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mat_dataplane::{config, daemon};
use tracing_subscriber::EnvFilter;

/// The forwarder: keeps the connections of instances that move.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Args {
    /// Configuration file.
    #[arg(long, default_value = "/etc/mat/matd.toml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Read a configuration, say what it means or what is wrong with it.
    CheckConfig {
        /// Configuration file.
        #[arg(long, default_value = "/etc/mat/matd.toml")]
        config: PathBuf,
    },
    /// Remove the TUN, routes, rules and state a stopped forwarder left for the
    /// homes attached to it.
    Cleanup {
        /// Configuration file.
        #[arg(long, default_value = "/etc/mat/matd.toml")]
        config: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_env("MAT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(std::io::stderr)
        .init();
    let result = match args.command {
        None => daemon::run(&args.config).await,
        Some(Command::Cleanup { config }) => daemon::cleanup(&config).await,
        Some(Command::CheckConfig { config }) => config::check(&config)
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
