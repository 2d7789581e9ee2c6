//! `matctl`: the words of the command line, each with the module that does the work.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mat_ctl::commands::attach::{AttachArgs, DetachArgs};
use mat_ctl::commands::evacuate::EvacuateArgs;
use mat_ctl::commands::explain::ExplainArgs;
use mat_ctl::commands::map::MapCommand;
use mat_ctl::commands::moving::MoveArgs;
use mat_ctl::commands::status::StatusArgs;
use mat_ctl::commands::{attach, evacuate, explain, map, moving, status};
use mat_ctl::measure::MeasureCommand;
use mat_ctl::report::ReportArgs;
use mat_ctl::{demo, measure, report};

/// Moves instances, looks inside forwarders, changes bindings, measures what a move does.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Move an instance to another site while its connections live on
    Move(MoveArgs),
    /// Move everything that a site serves to another one
    Evacuate(EvacuateArgs),
    /// Attach an instance to a site
    Attach(AttachArgs),
    /// Detach an instance from a site, and withdraw its binding
    Detach(DetachArgs),
    /// Show what the forwarders do
    Status(StatusArgs),
    /// Say what would become of a packet, and what happened to its two ends lately
    Explain(ExplainArgs),
    /// Read and change bindings
    #[command(subcommand)]
    Map(MapCommand),
    /// Measure what moves do to connections
    #[command(subcommand)]
    Measure(MeasureCommand),
    /// Show a measurement
    Report(ReportArgs),
    /// Show the whole system at work in network namespaces of this machine
    Demo(demo::DemoArgs),
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Move(args) => moving::run(args),
        Command::Evacuate(args) => evacuate::run(args),
        Command::Attach(args) => attach::attach(args),
        Command::Detach(args) => attach::detach(args),
        Command::Status(args) => status::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Map(command) => map::run(command),
        Command::Measure(command) => measure::run(command),
        Command::Report(args) => report::run(args),
        Command::Demo(args) => demo::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("matctl: {error:#}");
        ExitCode::FAILURE
    })
}
