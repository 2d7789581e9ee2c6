//! Prometheus text (exposition format 0.0.4) from what the data threads count.
//!
//! Reading disturbs no data thread: everything that grows with the number of pairs or
//! packets is read from counters that they share; the agent is asked for a handful of
//! numbers.
//!
//! # Limitations
//! Series of single pairs are given for the first [`MAX_PAIRS`] pairs only; what is left
//! out is said by `mat_pairs_omitted`. The sums of each home hold all of them.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use super::control::Control;
use super::engine::{Ended, Gauges};
use super::meter::{Histogram, MeterReading};
use crate::agent::Vitals;
use crate::counters::{Account, Party, Traffic};
use crate::fib::Tally;

/// Pairs with series of their own: more than a scraper enjoys, less than hurts it.
const MAX_PAIRS: usize = 10_000;

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
pub async fn serve(listener: TcpListener, control: Arc<Control>) -> std::io::Result<()> {
    let answer = async move || match text(&control).await {
        Ok(text) => Ok(text),
        Err(ended) => Err((StatusCode::SERVICE_UNAVAILABLE, ended.to_string())),
    };
    let router = Router::new().route("/metrics", get(answer));
    axum::serve(listener, router).await
}

/// All metrics of a running forwarder.
pub async fn text(control: &Control) -> Result<String, Ended> {
    let vitals = control.engine().call(|agent, _| agent.vitals()).await?;
    Ok(render(&control.gauges, &vitals))
}

/// All metrics.
pub fn render(gauges: &Gauges, vitals: &Vitals) -> String {
    let mut text = Text::default();
    about_agent(&mut text, vitals);
    about_threads(&mut text, gauges);
    text.family(
        "mat_not_forwarded_total",
        "counter",
        "Packets and messages not simply forwarded, by cause.",
        gauges
            .counters
            .iter()
            .map(|(cause, n)| (labels(&[("cause", &cause)]), n)),
    );
    about_pairs(&mut text, gauges);
    about_accounts(&mut text, &gauges.accounts.all());
    text.0
}

fn about_agent(text: &mut Text, vitals: &Vitals) {
    let reachable = u64::from(vitals.mapping_reachable);
    for (name, help, value) in [
        ("mat_homes", "Homes attached here.", vitals.homes as u64),
        (
            "mat_homes_serving",
            "Homes served here.",
            vitals.serving as u64,
        ),
        (
            "mat_contexts",
            "Contexts with peers.",
            vitals.contexts as u64,
        ),
        (
            "mat_held_bytes",
            "Bytes of packets that wait.",
            vitals.held_bytes as u64,
        ),
        (
            "mat_mapping_reachable",
            "Whether the mapping service answers.",
            reachable,
        ),
    ] {
        text.family(name, "gauge", help, [(String::new(), value)]);
    }
}

fn about_threads(text: &mut Text, gauges: &Gauges) {
    type Pick = fn(&MeterReading) -> u64;
    let readings: Vec<_> = gauges.meters.iter().map(|m| m.reading()).collect();
    let families: [(&str, &str, Pick); 11] = [
        ("reads", "Frames read from the TUN.", |m| m.reads),
        ("read_bytes", "Octets of packets read.", |m| m.read_bytes),
        ("super_reads", "Super-packets read.", |m| m.super_reads),
        ("forwarded", "Packets forwarded without the agent.", |m| {
            m.forwarded
        }),
        ("writes", "Frames written to the TUN.", |m| m.writes),
        ("write_bytes", "Octets of packets written.", |m| {
            m.write_bytes
        }),
        ("joined", "Packets joined with others.", |m| m.joined),
        ("joined_writes", "Frames they were written in.", |m| {
            m.joined_writes
        }),
        (
            "cut",
            "Super-packets cut because they could not be written whole.",
            |m| m.cut,
        ),
        ("batches", "Batches handled.", |m| m.batches),
        ("sleeps", "Times the thread went to sleep.", |m| m.sleeps),
    ];
    for (name, help, pick) in families {
        let samples = readings.iter().enumerate();
        text.family(
            &format!("mat_thread_{name}_total"),
            "counter",
            help,
            samples.map(|(n, reading)| (labels(&[("thread", &n)]), pick(reading))),
        );
    }
    let name = "mat_thread_latency_seconds";
    text.head(
        name,
        "histogram",
        "From the end of a batch's reading until it was written, sampled.",
    );
    for (n, reading) in readings.iter().enumerate() {
        let mut sum = 0;
        for (class, count) in reading.latency.classes.iter().enumerate() {
            sum += count;
            let bound = if class + 1 == Histogram::CLASSES {
                "+Inf".to_owned()
            } else {
                (f64::from(1u32 << class) / 1e6).to_string()
            };
            let labels = labels(&[("thread", &n), ("le", &bound)]);
            text.sample(&format!("{name}_bucket"), &labels, sum);
        }
        let labels = labels(&[("thread", &n)]);
        let seconds = reading.latency.sum_ns as f64 / 1e9;
        text.sample(&format!("{name}_sum"), &labels, seconds);
        text.sample(&format!("{name}_count"), &labels, sum);
    }
}

fn about_pairs(text: &mut Text, gauges: &Gauges) {
    type Pick = fn(&Tally) -> u64;
    let mut homes: BTreeMap<IpAddr, Tally> = BTreeMap::new();
    let mut pairs: Vec<((IpAddr, IpAddr), Tally)> = Vec::new();
    let mut omitted = 0u64;
    gauges.fib.each(|own, peer, tally| {
        let sum = homes.entry(own).or_default();
        add(&mut sum.sent, &tally.sent);
        add(&mut sum.received, &tally.received);
        if pairs.len() < MAX_PAIRS {
            pairs.push(((own, peer), tally));
        } else {
            omitted += 1;
        }
    });
    let families: [(&str, &str, Pick); 4] = [
        ("sent_packets", "Packets to peers.", |t| t.sent.packets),
        ("sent_bytes", "Octets to peers.", |t| t.sent.bytes),
        ("received_packets", "Packets from peers.", |t| {
            t.received.packets
        }),
        ("received_bytes", "Octets from peers.", |t| t.received.bytes),
    ];
    for (name, help, pick) in families {
        let of_home = |(own, tally): (&IpAddr, &Tally)| (labels(&[("home", own)]), pick(tally));
        let name = format!("mat_home_{name}_total");
        text.family(&name, "counter", help, homes.iter().map(of_home));
    }
    for (name, help, pick) in families {
        let samples = pairs.iter();
        let name = format!("mat_{name}_total");
        text.family(
            &name,
            "counter",
            help,
            samples
                .map(|((own, peer), tally)| (labels(&[("own", own), ("peer", peer)]), pick(tally))),
        );
    }
    let help = "Pairs of homes without series of their own.";
    text.family(
        "mat_pairs_omitted",
        "gauge",
        help,
        [(String::new(), omitted)],
    );
}

fn about_accounts(text: &mut Text, accounts: &[(Party, Arc<Account>)]) {
    let name = "mat_home_dropped_total";
    text.head(
        name,
        "counter",
        "Packets of a home, or of a pair, dropped, by cause.",
    );
    for (party, account) in accounts {
        for (cause, n) in account.dropped.iter() {
            text.sample(name, &party_labels(party, Some(cause)), n);
        }
    }
    let held = "Packets of a home, or of a pair, that were kept for a while.";
    let relayed = "Packets sent after an instance that has left.";
    type Pick = fn(&Account) -> u64;
    let families: [(&str, &str, Pick); 2] = [
        ("mat_home_held_total", held, |a| a.held.load(Relaxed)),
        ("mat_home_relayed_total", relayed, |a| {
            a.relayed.load(Relaxed)
        }),
    ];
    for (name, help, pick) in families {
        let accounts = accounts.iter();
        let samples = accounts.map(|(party, account)| (party_labels(party, None), pick(account)));
        text.family(name, "counter", help, samples.filter(|(_, n)| *n > 0));
    }
}

fn add(sum: &mut Traffic, traffic: &Traffic) {
    sum.packets += traffic.packets;
    sum.bytes += traffic.bytes;
}

fn party_labels((home, peer): &Party, cause: Option<&str>) -> String {
    let mut pairs: Vec<(&str, &dyn Display)> = vec![("home", home)];
    pairs.extend(peer.as_ref().map(|peer| ("peer", peer as &dyn Display)));
    pairs.extend(cause.as_ref().map(|cause| ("cause", cause as &dyn Display)));
    labels(&pairs)
}

/// `{name="value",...}`; no value here has a character that would need an escape.
fn labels(pairs: &[(&str, &dyn Display)]) -> String {
    let mut text = String::from("{");
    for (n, (name, value)) in pairs.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        let _ = write!(text, "{comma}{name}=\"{value}\"");
    }
    text.push('}');
    text
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn family(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = (String, u64)>,
    ) {
        self.head(name, kind, help);
        for (labels, value) in samples {
            self.sample(name, &labels, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Time;
    use crate::counters::Cause;
    use crate::fib::{Direction, Fib};
    use crate::io::meter::Meter;

    #[test]
    fn everything_counted_comes_out_as_prometheus_text() {
        let (fib, mut writer) = Fib::new(8, [1, 2, 3, 4]);
        let home = |n: u8| format!("192.0.2.{n}").parse().unwrap();
        for peer in [2, 3] {
            let slot = writer.claim(home(1), home(peer)).unwrap();
            fib.count(slot, Direction::Out, 2, 100 * u64::from(peer), Time(0));
        }
        let gauges = Gauges {
            fib,
            counters: Arc::default(),
            accounts: Arc::default(),
            meters: vec![Arc::new(Meter::default())],
        };
        gauges.counters.add(Cause::UnknownGso, 2);
        gauges
            .accounts
            .of((home(1), Some(home(2))))
            .dropped
            .count(Cause::HoldFull);
        gauges.accounts.of((home(1), None)).held.store(3, Relaxed);
        gauges.meters[0].latency.record(Duration::from_micros(3));
        let text = render(&gauges, &Vitals::default());
        for line in [
            "mat_not_forwarded_total{cause=\"unknown_gso\"} 2",
            "# TYPE mat_homes gauge\nmat_homes 0",
            "mat_home_sent_packets_total{home=\"192.0.2.1\"} 4",
            "mat_sent_bytes_total{own=\"192.0.2.1\",peer=\"192.0.2.3\"} 300",
            "mat_home_dropped_total{home=\"192.0.2.1\",peer=\"192.0.2.2\",cause=\"hold_full\"} 1",
            "mat_home_held_total{home=\"192.0.2.1\"} 3",
            "mat_thread_latency_seconds_bucket{thread=\"0\",le=\"0.000002\"} 0",
            "mat_thread_latency_seconds_bucket{thread=\"0\",le=\"0.000004\"} 1",
            "mat_thread_latency_seconds_bucket{thread=\"0\",le=\"+Inf\"} 1",
            "mat_thread_latency_seconds_sum{thread=\"0\"} 0.000003",
            "mat_pairs_omitted 0",
        ] {
            assert!(
                text.contains(&format!("{line}\n")),
                "{line} is not in\n{text}"
            );
        }
        for line in text.lines().filter(|line| !line.starts_with("# ")) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with("mat_"), "{line}");
            value.parse::<f64>().unwrap();
        }
    }
}
