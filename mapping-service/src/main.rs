//! mat-mapd, the mapping service.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use mat_mapping::config::{Config, address_or_prefix};
use mat_mapping::{daemon, dnssec::Signer, offline};
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
    /// Print the DS record of the zone for its parent, a trust anchor for `delv -a`, and the DNSKEY
    /// record, which is the anchor that `matd` takes; a line each.
    Ds,
    /// Take a zone file into the zone, all of it or nothing; mat-mapd must not run.
    ///
    /// Each set of the file replaces the one of its name and type. The SOA and NS records of the
    /// zone itself are those of the configuration. Epochs never fall: a file with older bindings
    /// than the zone has is refused.
    Import {
        /// The zone file
        file: PathBuf,
    },
    /// Print who has changed the binding of a home, or of those of a prefix, from what to what: since
    /// the journal was last compacted. mat-mapd may run.
    History {
        /// A home address or a prefix; without it, all
        homes: Option<String>,
    },
    /// Print the zone as a zone file; mat-mapd must not run (one that runs is read with `dig AXFR`
    /// and a key with transfer = true).
    Export,
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
        Some(Command::Ds) => ds(&args.config),
        Some(Command::Import { file }) => import(&args.config, &file),
        Some(Command::History { homes }) => history(&args.config, homes.as_deref()),
        Some(Command::Export) => print(|out| offline::export(&args.config, out)),
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

fn ds(path: &std::path::Path) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    let Some(key) = config.dnssec else {
        anyhow::bail!("{}: has no [dnssec], so nothing is signed", path.display());
    };
    println!("{}", Signer::new(key, &config.apex).ds()?);
    Ok(())
}

fn import(config: &std::path::Path, file: &std::path::Path) -> anyhow::Result<()> {
    println!("{}", offline::import(config, file)?);
    Ok(())
}

fn history(config: &std::path::Path, homes: Option<&str>) -> anyhow::Result<()> {
    let parse = |text: &str| {
        address_or_prefix(text).with_context(|| {
            format!("{text} is no home address and no prefix; write 192.0.2.10 or 192.0.2.0/24")
        })
    };
    let homes = homes.map(parse).transpose()?;
    print(|out| offline::history(config, homes, out))
}

type Out = std::io::BufWriter<std::io::StdoutLock<'static>>;

fn print(write: impl FnOnce(&mut Out) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let written = write(&mut out).and_then(|()| Ok(out.flush()?));
    match written {
        // Whoever reads it has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        other => other,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn serve(path: &std::path::Path) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(daemon::serve(path))
}
