//! What the demo says.

use mat_netns::testbed::{Instance, Testbed};

use crate::measure::Progress;
use crate::moves::MoveOutcome;
use crate::report::Report;
use crate::report::schema::Move;

pub(super) fn title(ipv6: bool, rtt: f64) {
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    println!(
        "A container moves to another subnet in the middle of a transfer: {family}, {rtt} ms round trip\n"
    );
}

pub(super) fn lab(testbed: &Testbed, web: &Instance, user: &Instance) {
    let at = |name: &str| testbed.site(name).host.namespace_name().to_owned();
    println!(
        "   web  {:<18}                     user {}\n\
         \x20       {:<18}                          {}\n\
         \x20  site a  198.51.100.0/26    ── router ──   site c  198.51.100.128/26\n\
         \x20  site b  198.51.100.64/26   ──   │\n\
         \x20                             mat-mapd 203.0.113.53\n\
         \x20  namespaces: {}, {}, {}\n",
        web.home,
        user.home,
        web.home6,
        user.home6,
        at("a"),
        at("b"),
        at("c"),
    );
    println!(
        "   {:>6}  {:>9}  {:>9}   UDP at 1 kHz each way",
        "time", "to web", "from web"
    );
}

pub(super) fn progress(p: &Progress) {
    let lost = p.udp_up_lost + p.udp_down_lost;
    let gap = p.udp_up_longest_gap_ms.max(p.udp_down_longest_gap_ms);
    println!(
        "   {:>5.1}s  {:>4.0} Mb/s  {:>4.0} Mb/s   longest gap {gap:>5.1} ms, missing {lost}{}",
        p.t_ms as f64 / 1000.0,
        p.up_mbps,
        p.down_mbps,
        if p.stalled { "   (stalled)" } else { "" }
    );
}

pub(super) fn move_begins(instance: &str, from: &str, to: &str) {
    println!("\n   >> {instance} moves from site {from} to site {to}");
}

pub(super) fn move_ended(outcome: &MoveOutcome) {
    let entry = Move::from(outcome);
    println!(
        "   >> done: {:.1} ms between leaving {} and serving at {}, of which {:.1} ms for the \
         mapping service; peers followed within {:.1} ms; epoch {}\n",
        entry.blackout_ms,
        entry.from,
        entry.to,
        entry.map_update_ms,
        entry.peers_switched_ms,
        entry.epoch_after
    );
}

pub(super) fn verdict(report: &Report, ok: bool, rtt: f64) {
    let bound = 100.0 + 2.0 * rtt;
    let ms = |value: Option<f64>| value.map_or("not known".to_owned(), |v| format!("{v:.0} ms"));
    if ok {
        let moves = match report.moves.len() {
            0 => "; nothing moved".to_owned(),
            2 => " both moves, byte for byte".to_owned(),
            n => format!(" {n} moves, byte for byte"),
        };
        println!("Every connection survived{moves}.");
    } else {
        println!("NOT every connection survived intact: see the table.");
    }
    println!(
        "Longest TCP stall {}, longest UDP gap {} (aim: {bound:.0} ms).",
        ms(report.tcp.longest_stall_ms),
        ms(Some(report.udp.longest_gap_ms))
    );
}

pub(super) fn keep(testbed: &Testbed) {
    println!("\nThe lab stays until Ctrl-C. Look around, for example:");
    for site in &testbed.sites {
        println!(
            "   matctl status --socket {}      # site {}",
            site.socket.display(),
            site.spec.name
        );
    }
    let ns = testbed.site("a").host.namespace_name();
    println!("   ip netns exec {ns} ip route show table 100");
    println!(
        "   ip netns exec {} dig @203.0.113.53 10.2.0.192.h4.map.example SVCB",
        testbed.map.namespace_name()
    );
}
