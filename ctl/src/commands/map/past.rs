//! `matctl map history`.
//!
//! # Limitations
//! It shows the latest that one answer holds, some 500.

use std::process::ExitCode;

use ipnet::IpNet;

use super::super::{ConfigArg, block_on, say, say_json};
use super::{client, homes};

/// `matctl map history`
#[derive(Clone, Debug, clap::Args)]
pub struct HistoryArgs {
    /// Only of this home address, or of those of this prefix
    #[arg(value_name = "HOME|PREFIX", value_parser = homes)]
    homes: Option<IpNet>,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(args: HistoryArgs) -> anyhow::Result<ExitCode> {
    let map = client(&args.config)?;
    block_on(async {
        let told = map.past(args.homes).await?;
        if told.older {
            eprintln!(
                "matctl: older changes are known and do not fit the answer; `mat-mapd history` on \
                 its machine has them"
            );
        }
        if args.json {
            say_json(&told.steps)?;
        } else if told.steps.is_empty() {
            say("no change that the mapping service remembers")?;
        } else {
            told.steps
                .iter()
                .try_for_each(|step| say(&step.to_string()))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
