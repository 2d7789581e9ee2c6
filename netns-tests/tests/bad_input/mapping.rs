//! A mapping service that is not there.

use std::time::Duration;

use anyhow::Result;
use mat_netns::testbed::{Options, Testbed};
use mat_netns::wait_until;
use serde_json::json;

use crate::common::{api, sockets};

const SOON: Duration = Duration::from_secs(15);

#[test]
fn without_mapping_service_matd_starts_says_so_and_comes_good_by_itself() -> Result<()> {
    let mut bed = Testbed::new(Options::new()?)?;
    let user = bed.instance("user", 20, "c")?;
    bed.mapd.kill()?;
    bed.site("a").matd.stop(Duration::from_secs(5))?;
    bed.restart_matd("a")?;
    let web = bed.unattached("web", 10, "a")?;
    let socket = bed.site("a").socket.clone();
    // Everybody else would be cut off.
    let body = json!({ "home": web.home, "interface": "eth0" });
    let (status, answer) = api::request(&socket, "POST", "attach", &body)?;
    let error = answer["error"].as_str().unwrap_or_default();
    assert!(status == 400 && error.contains("is the uplink"), "{answer}");
    let body = json!({ "home": web.home, "interface": web.interface });
    let (status, answer) = api::request(&socket, "POST", "attach", &body)?;
    let error = answer["error"].as_str().unwrap_or_default();
    assert!((500..600).contains(&status), "{status} {answer}");
    assert!(error.contains(&web.home), "{error}");
    let mapping = api::get(&socket, "status")?["mapping"].clone();
    assert_eq!(mapping["reachable"], false, "{mapping}");
    let fault = mapping["fault"].as_str().unwrap_or_default();
    assert!(fault.contains("203.0.113.53:53"), "{fault}");
    let printed = bed.matctl("a", &["status"])?;
    assert!(printed.contains("203.0.113.53:53"), "{printed}");
    // What is known goes on, what is not known is not declared unreachable.
    let held = sockets::connect(&user.host, format!("{}:9", web.home).parse()?);
    let held = held.unwrap_err().downcast::<std::io::Error>()?;
    assert_eq!(held.kind(), std::io::ErrorKind::TimedOut, "{held}");

    bed.restart_mapd()?;
    let path = format!("homes/{}", web.home);
    wait_until(SOON, format!("{} to be served", web.home), || {
        (api::get(&socket, &path).ok()?["state"] == "serving").then_some(())
    })?;
    wait_until(SOON, "an answer", || {
        user.host.pings(&web.home).ok()?.then_some(())
    })?;
    sockets::transfer(&user.host, &web.host, &web.home, 100_000)?;
    let mapping = api::get(&socket, "status")?["mapping"].clone();
    assert_eq!(mapping["reachable"], true, "{mapping}");
    bed.lab.end()
}
