//! `matctl status`: every site asked at the same time, shown one after the other.

mod records;
mod text;

use std::process::ExitCode;
use std::time::Duration;

use futures_util::future::join_all;
use mat_dataplane::io::api::Report;
use mat_mapping::client::MapClient;
use mat_proto::{Binding, Home};
use serde_json::{Value, json};

use super::{SitesArg, block_on, say, say_json};
use crate::config::Config;
use crate::site::{Site, SiteError};

pub(super) use text::context_line;

/// A forwarder that does not answer must not hold up what the others say.
const PATIENCE: Duration = Duration::from_secs(3);

/// `matctl status`
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    /// Print the answers as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sites: SitesArg,
}

/// Shows what the forwarders do, and records that no site of those asked serves.
///
/// # Errors
/// No usable configuration. What does not answer is named, with exit code 1.
pub fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let (sites, config) = args.sites.resolve()?;
    let mapping = config.as_ref().and_then(|config| config.mapping.clone());
    block_on(async {
        let (answers, bindings) = futures_util::join!(
            join_all(sites.iter().map(ask)),
            bindings(mapping.as_ref(), config.as_ref())
        );
        let failed = answers.iter().any(|(_, answer)| answer.is_err());
        for (_, answer) in &answers {
            if let Err(error) = answer {
                eprintln!("matctl: {error}");
            }
        }
        let reports: Vec<(&str, &Report)> = answers
            .iter()
            .filter_map(|(site, answer)| Some((site.name.as_str(), answer.as_ref().ok()?)))
            .collect();
        let stray = bindings.map(|bindings| Ok(records::not_attached(&bindings?, &reports)));
        let stray: Option<Result<_, String>> = stray;
        if let Some(Err(error)) = &stray {
            eprintln!("matctl: records cannot be compared: {error}");
        }
        if args.json {
            let sites: Vec<Value> = answers.iter().map(site_json).collect();
            let mut value = json!({ "sites": sites });
            match &stray {
                Some(Ok(stray)) => value["not_attached"] = json!(stray),
                Some(Err(error)) => value["records_error"] = json!(error),
                None => {}
            }
            say_json(&value)?;
        } else {
            for (name, report) in &reports {
                say(&text::site(name, report))?;
            }
            for record in stray.iter().flatten().flatten() {
                say(&text::not_attached(record))?;
            }
        }
        let failed = failed || matches!(stray, Some(Err(_)));
        Ok(if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    })
}

type Answer<'a> = (&'a Site, Result<Report, SiteError>);

async fn ask(site: &Site) -> Answer<'_> {
    let status = async { site.connect().await?.status().await };
    let answer = tokio::time::timeout(PATIENCE, status).await;
    let slow = |_| {
        Err(SiteError::Slow {
            site: site.name.clone(),
            waited: PATIENCE,
        })
    };
    (site, answer.unwrap_or_else(slow))
}

/// What the mapping service holds: all of the zone, or, if we may not transfer it, what is
/// registered for the instances of the configuration. `None` without a mapping service.
async fn bindings(
    mapping: Option<&MapClient>,
    config: Option<&Config>,
) -> Option<Result<Vec<Binding>, String>> {
    let mapping = mapping?;
    let refused = match mapping.list().await {
        Ok(bindings) => {
            // That all homes of a prefix share one is in nobody's interest alone.
            let single = bindings
                .into_iter()
                .filter(|(whose, _)| whose.prefix().is_none());
            return Some(Ok(single.map(|(_, binding)| binding).collect()));
        }
        Err(error) => error.to_string(),
    };
    let instances = config.map_or(&[][..], |config| &config.instances);
    let homes: Vec<Home> = instances.iter().flat_map(|i| i.homes.clone()).collect();
    if homes.is_empty() {
        return Some(Err(refused));
    }
    let lookups = join_all(homes.into_iter().map(|home| mapping.get(home))).await;
    let found = lookups
        .into_iter()
        .filter_map(|lookup| lookup.map(|lookup| lookup.binding).transpose())
        .collect::<Result<Vec<_>, _>>();
    Some(found.map_err(|error| error.to_string()))
}

fn site_json((site, answer): &Answer<'_>) -> Value {
    let socket = site.socket.display().to_string();
    match answer {
        Ok(report) => json!({ "name": site.name, "socket": socket, "report": report }),
        Err(error) => json!({ "name": site.name, "socket": socket, "error": error.reason() }),
    }
}
