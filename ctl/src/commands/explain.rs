//! `matctl explain SRC DST`.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;

use futures_util::future::join_all;
use mat_dataplane::agent::{EventStatus, Explanation};
use serde_json::json;

use super::local_time::local;
use super::status::context_line;
use super::{SitesArg, block_on, say, say_json};

/// `matctl explain`
#[derive(Clone, Debug, clap::Args)]
pub struct ExplainArgs {
    /// Source address of the packet
    src: IpAddr,
    /// Destination address of the packet
    dst: IpAddr,
    /// Print the answers as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sites: SitesArg,
}

/// Asks every site what would become of a packet there.
///
/// # Errors
/// No usable configuration. Sites that do not answer are named, with exit code 1.
pub fn run(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let (sites, _) = args.sites.resolve()?;
    let (src, dst) = (args.src, args.dst);
    block_on(async {
        let asked = sites.iter().map(|site| async move {
            let answer = async { site.connect().await?.explain(src, dst).await }.await;
            (&site.name, answer)
        });
        let mut code = ExitCode::SUCCESS;
        let mut answers = Vec::new();
        for (name, answer) in join_all(asked).await {
            match answer {
                Ok(explanation) if args.json => {
                    answers.push(json!({ "site": name, "explanation": explanation }));
                }
                Ok(explanation) => say(&text(name, src, dst, &explanation))?,
                Err(error) => {
                    eprintln!("matctl: {error}");
                    answers.push(json!({ "site": name, "error": error.reason() }));
                    code = ExitCode::FAILURE;
                }
            }
        }
        if args.json {
            say_json(&answers)?;
        }
        Ok(code)
    })
}

fn text(site: &str, src: IpAddr, dst: IpAddr, explanation: &Explanation) -> String {
    let Explanation {
        verdict,
        reason,
        context,
        events,
    } = explanation;
    let mut text = format!("site {site}: {src} -> {dst}: {verdict}: {reason}");
    if let Some(context) = context {
        let _ = write!(text, "\n  context {}", context_line(context));
    }
    for event in events {
        let _ = write!(text, "\n  {}", event_line(event));
    }
    text
}

fn event_line(event: &EventStatus) -> String {
    let about = match event.peer {
        Some(peer) => format!("{} <-> {peer}", event.home),
        None => event.home.to_string(),
    };
    format!("{}  {about}: {}", local(event.unix_us), event.what)
}
