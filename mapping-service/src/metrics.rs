//! Prometheus text (exposition format 0.0.4) of what the mapping service counts.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::push::Push;
use crate::server::counters::Counters;
use crate::writer::Shared;

/// The socket for scrapers, which answers `GET /metrics`.
///
/// # Errors
/// The text says why it cannot be made and what to do.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| {
        format!("metrics_listen = \"{address}\": {error}; choose another address or port")
    })
}

/// Serves metrics, and nothing else, until the process ends.
///
/// # Errors
/// The socket fails.
pub(crate) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    push: Arc<Push>,
) -> std::io::Result<()> {
    let answer = move || async move { text(&shared, &counters, &push) };
    axum::serve(listener, Router::new().route("/metrics", get(answer))).await
}

/// All metrics.
fn text(shared: &Shared, counters: &Counters, push: &Push) -> String {
    let mut text = String::new();
    let (names, locators, serial) =
        shared.read(|zone| (zone.names(), zone.locators(), zone.serial()));
    let gauges = [
        ("names", "Names in the zone.", names as u64),
        ("locators", "Locators registered.", locators as u64),
        ("serial", "Serial of the zone.", u64::from(serial)),
        (
            "journal_bytes",
            "Octets of the journal.",
            shared.journal_bytes(),
        ),
        (
            "subscriptions",
            "Sets that somebody wants to hear of.",
            push.subscriptions() as u64,
        ),
    ];
    for (name, help, value) in gauges {
        // Writing into a String does not fail.
        let _ = write!(
            text,
            "# HELP mat_map_{name} {help}\n# TYPE mat_map_{name} gauge\nmat_map_{name} {value}\n"
        );
    }
    text += "# HELP mat_map_events_total What happened, by cause.\n\
             # TYPE mat_map_events_total counter\n";
    for (cause, count) in counters.all() {
        // Writing into a String does not fail.
        let _ = writeln!(text, "mat_map_events_total{{cause=\"{cause}\"}} {count}");
    }
    text
}
