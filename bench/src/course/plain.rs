//! The veth alone, and a kernel that forwards.

use anyhow::Result;

use super::{Course, Device, Pair, Site};
use crate::contender::Contender;
use crate::plan::Family;

/// Nothing in between.
pub fn direct(site: &Site, contender: &'static Contender) -> Result<Course> {
    let ends = site.ends(contender)?;
    let carrier = Device {
        host: ends.left.clone(),
        name: "eth0",
        direction: "tx",
    };
    Ok(ends.course(contender, String::new(), &site.underlay(), carrier))
}

/// ```text
///   left ── eth0 ── near  router  far ── eth0 ── right
/// ```
///
/// The wide-area link, if there is one, is the second of the two.
pub fn router(site: &Site, contender: &'static Contender) -> Result<Course> {
    let left = site.host(contender, "left")?;
    let router = site.host(contender, "router")?;
    let right = site.host(contender, "right")?;
    site.lab.link(&left, "eth0", &router, "near")?;
    let wan = site.connect((&router, "far"), (&right, "eth0"))?;
    router.forwarding()?;
    let Pair { left: from, .. } = site.underlay();
    let (near, far, to, len) = match site.family {
        Family::Ipv4 => ("198.51.100.1", "203.0.113.1", "203.0.113.3", 24),
        Family::Ipv6 => ("2001:db8:2::1", "2001:db8:3::1", "2001:db8:3::3", 64),
    };
    let nodad = site.nodad();
    router.ip(&format!(
        "addr add {near}/{len} dev near {nodad}
         addr add {far}/{len} dev far {nodad}"
    ))?;
    for (host, address, gateway) in [(&left, from, near), (&right, to, far)] {
        host.ip(&format!(
            "addr add {address}/{len} dev eth0 {nodad}
             route add default via {gateway}"
        ))?;
    }
    let carrier = Device {
        host: router.clone(),
        name: "near",
        direction: "rx",
    };
    Ok(Course {
        contender,
        about: String::new(),
        from,
        to,
        carrier: Box::new(carrier),
        ports: vec![
            (left.clone(), "eth0"),
            (router.clone(), "near"),
            (router, "far"),
            (right.clone(), "eth0"),
        ],
        left,
        right,
        wan,
    })
}
