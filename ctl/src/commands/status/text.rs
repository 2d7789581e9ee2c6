//! A status as people read it. Pure, but for the time zone.

use std::fmt::Write as _;

use mat_dataplane::agent::{ContextStatus, OwnStatus};
use mat_dataplane::io::api::{PairDuty, Report};

use super::records::NotAttached;
use crate::commands::local_time::local;

fn said(duty: PairDuty) -> &'static str {
    match duty {
        PairDuty::Active => "on duty",
        PairDuty::Alone => "on duty, AND NOBODY STANDS BY",
        PairDuty::Standby => "standing by",
    }
}

/// All about one site.
pub(super) fn site(name: &str, report: &Report) -> String {
    let (identity, status) = (&report.identity, &report.status);
    let mut lines = vec![format!(
        "site {name}: {} ({}), matd {}, pid {}",
        identity.placement, identity.path, identity.version, identity.pid
    )];
    if let Some(duty) = identity.duty {
        lines.push(format!("  one of two gateways: {}", said(duty)));
    }
    if identity.site != name {
        lines.push(format!("  calls itself site {}", identity.site));
    }
    if identity.duty == Some(PairDuty::Standby) {
        return lines.join("\n");
    }
    lines.push(format!("  mapping service: {}", mapping(report)));
    if status.homes.is_empty() {
        lines.push("  no home is attached".to_owned());
    }
    lines.extend(
        status
            .homes
            .iter()
            .map(|own| format!("  home {}", home_line(own))),
    );
    for (home, locator) in &status.not_attached {
        lines.push(format!(
            "  not attached: {home}: peers look for it at {locator}, but it is not attached here; \
             nothing is delivered"
        ));
    }
    if status.contexts.is_empty() {
        lines.push("  no context with a mobile peer".to_owned());
    }
    let contexts = status.contexts.iter();
    lines.extend(contexts.map(|context| format!("  context {}", context_line(context))));
    lines.push(
        "  peers that are not mobile are reached by pass: the source alone is rewritten, and \
         a move breaks those connections"
            .to_owned(),
    );
    if status.held_bytes > 0 {
        lines.push(format!("  {} bytes of packets wait", status.held_bytes));
    }
    let counted: Vec<String> = status
        .counters
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(cause, count)| format!("{cause} {count}"))
        .collect();
    if !counted.is_empty() {
        lines.push(format!("  not simply forwarded: {}", counted.join(", ")));
    }
    lines.join("\n")
}

/// A record that names a place where the instance is not.
pub(super) fn not_attached(record: &NotAttached) -> String {
    let NotAttached {
        home,
        epoch,
        locator,
        attached,
    } = record;
    let names = match locator {
        Some(locator) => format!("names {locator}"),
        None => "names no locator in use".to_owned(),
    };
    let mut text = format!(
        "record {home}: not attached: epoch {epoch} {names}, and no site that was asked serves \
         it there"
    );
    for place in attached {
        let _ = write!(text, "; it is {} at {}", place.state, place.site);
    }
    text
}

fn mapping(report: &Report) -> String {
    let mapping = &report.status.mapping;
    let fault = mapping.fault.as_deref().unwrap_or("no reason known");
    let mut text = match (mapping.reachable, mapping.fault_since_unix_us) {
        (true, _) => "answers".to_owned(),
        (false, Some(since)) => format!("UNREACHABLE since {}: {fault}", local(since)),
        (false, None) => format!("UNREACHABLE: {fault}"),
    };
    match (report.identity.trust.as_str(), mapping.authenticated) {
        (trust, true) => {
            let _ = write!(text, ", trust {trust}");
        }
        ("network", false) => text.push_str(
            ", ANSWERS ARE NOT AUTHENTICATED and count all the same (trust network): whoever is on \
             the path can move instances",
        ),
        ("dnssec", false) => text.push_str(
            ", ANSWERS ARE NOT PROVED and do not count (trust dnssec); compare `anchor` with what \
             `mat-mapd ds` prints",
        ),
        (trust, false) => {
            let _ = write!(
                text,
                ", ANSWERS ARE NOT AUTHENTICATED and do not count (trust {trust}); compare the key \
                 on both sides"
            );
        }
    }
    for push in &report.push {
        let _ = match &push.away {
            None => write!(text, ", pushes {} homes", push.subscriptions),
            Some(why) => write!(text, ", NO PUSH ({why})"),
        };
        if report.push.len() > 1 {
            let _ = write!(text, " of {}", push.zone);
        }
    }
    text
}

fn home_line(own: &OwnStatus) -> String {
    let mut text = format!("{}: {}", own.home, own.state);
    match (own.locator, own.registered_at) {
        (Some(locator), _) => {
            let _ = write!(text, " at {locator}");
        }
        (None, Some(elsewhere)) => {
            let _ = write!(text, " (its binding names {elsewhere})");
        }
        (None, None) => {}
    }
    let _ = write!(text, ", epoch {}", own.epoch);
    if let Some(link) = &own.link {
        let _ = write!(text, ", behind {}", link.interface);
        if let Some(mac) = &link.mac {
            let _ = write!(text, " ({mac})");
        }
    }
    if own.outside {
        text.push_str(", IN NO HOME PREFIX: nothing of it is forwarded");
    }
    if !own.ready {
        text.push_str(", its link is not ready");
    }
    if own.held_bytes > 0 {
        let _ = write!(text, ", {} bytes wait", own.held_bytes);
    }
    if let Some(switch) = own.switch.filter(|switch| switch.peers > 0) {
        let _ = write!(
            text,
            ", last move: {} of {} peers followed",
            switch.acknowledged, switch.peers
        );
        if let Some(us) = switch.last_ack_us {
            let _ = write!(text, ", the last after {} ms", ms(us));
        }
    }
    text
}

/// One context in one line.
pub(in crate::commands) fn context_line(context: &ContextStatus) -> String {
    let mut text = format!(
        "{} <-> {}: {}, {}",
        context.own, context.peer, context.state, context.mode
    );
    match (context.local, context.remote) {
        (Some(local), Some(remote)) => {
            let _ = write!(text, ", {local} <-> {remote}");
        }
        (_, Some(remote)) => {
            let _ = write!(text, ", to {remote}");
        }
        _ => {}
    }
    let _ = write!(
        text,
        ", epoch {}, lease {:.0} s",
        context.epoch,
        context.lease_ms as f64 / 1000.0
    );
    if let Some(us) = context.round_trip_us {
        let _ = write!(text, ", rtt {} ms", ms(us));
    }
    let (out, into) = (&context.sent, &context.received);
    let _ = write!(
        text,
        ", sent {} packets {}, received {} packets {}",
        out.packets,
        size(out.bytes),
        into.packets,
        size(into.bytes)
    );
    if context.held > 0 {
        let _ = write!(text, ", {} packets wait", context.held);
    }
    text
}

fn ms(us: u64) -> String {
    format!("{:.1}", us as f64 / 1000.0)
}

/// Octets with a decimal unit.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["kB", "MB", "GB", "TB"].into_iter();
    let mut unit = "B";
    while value >= 1000.0
        && let Some(next) = units.next()
    {
        value /= 1000.0;
        unit = next;
    }
    match unit {
        "B" => format!("{bytes} B"),
        _ => format!("{value:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1_500), "1.5 kB");
        assert_eq!(size(2_000_000_000_000), "2.0 TB");
        assert_eq!(size(5_000_000_000_000_000), "5000.0 TB");
    }
}
