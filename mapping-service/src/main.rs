//! mat-mapd, the mapping service.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mat_mapping::{config::Config, daemon};
use tracing_subscriber::EnvFilter;

/// The mapping service: an authoritative DNS server that knows where each home
/// address is now. Look up with dig, change with nsupdate, matctl or matd.
#[derive(Parser)]
#[command(name = "mat-mapd", version)]
struct Args {
    /// The configuration (documented in mat-mapd.example.toml).
    #[arg(long, value_name = "FILE", default_value = "/etc/mat/mat-mapd.toml")]
    config: PathBuf,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Say whether the configuration is right, and end.
    CheckConfig,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let quiet = "info,hickory_server=error,hickory_net=error,hickory_proto=error";
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| quiet.into()))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let result = match args.command {
        Some(Command::CheckConfig) => check(&args.config),
        None => serve(&args.config),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mat-mapd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(path: &std::path::Path) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    println!(
        "{}: zone {}, {} key(s): no mistakes found",
        path.display(),
        config.apex.origin,
        config.keys.len()
    );
    Ok(())
}

fn serve(path: &std::path::Path) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(daemon::serve(path))
}
