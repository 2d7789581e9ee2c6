//! Links and addresses as they come and go.

use std::time::Duration;

use mat_dataplane::io::netlink::{NetEvent, watch};
use tokio::sync::mpsc::Receiver;

use crate::netns::{in_namespace, ip};

/// Reads until `wanted` has come.
async fn until(events: &mut Receiver<NetEvent>, wanted: impl Fn(&NetEvent) -> bool) -> NetEvent {
    let limit = Duration::from_secs(10);
    loop {
        let event = tokio::time::timeout(limit, events.recv()).await;
        let event = event.expect("the event in time").expect("an open channel");
        if wanted(&event) {
            return event;
        }
    }
}

#[test]
fn links_and_addresses_are_reported_as_they_change() {
    in_namespace(async || {
        ip("link add old type veth peer name old-peer");
        ip("address add 198.51.100.1/24 dev old");
        let mut events = watch().await.unwrap();
        let lo = until(
            &mut events,
            |e| matches!(e, NetEvent::LinkAppeared { name, .. } if name == "lo"),
        )
        .await;
        assert!(matches!(lo, NetEvent::LinkAppeared { index: 1, .. }));
        let address = |interface: &str, ip: &str| NetEvent::AddressAdded {
            interface: interface.to_owned(),
            ip: ip.parse().unwrap(),
        };
        let wanted = address("old", "198.51.100.1");
        until(&mut events, |e| *e == wanted).await;

        ip("link add v1 type veth peer name i1");
        until(
            &mut events,
            |e| matches!(e, NetEvent::LinkAppeared { name, .. } if name == "v1"),
        )
        .await;
        ip("link set i1 up");
        ip("link set v1 up");
        until(&mut events, |e| {
            *e == NetEvent::LinkUp {
                name: "v1".to_owned(),
            }
        })
        .await;
        ip("address add 2001:db8::1/64 dev v1 nodad");
        let wanted = address("v1", "2001:db8::1");
        until(&mut events, |e| *e == wanted).await;
        ip("address del 2001:db8::1/64 dev v1");
        until(
            &mut events,
            |e| matches!(e, NetEvent::AddressRemoved { ip, .. } if ip.to_string() == "2001:db8::1"),
        )
        .await;
        ip("link set i1 down");
        until(&mut events, |e| {
            *e == NetEvent::LinkDown {
                name: "v1".to_owned(),
            }
        })
        .await;
        ip("link set v1 down");
        ip("link set v1 name v2");
        until(&mut events, |e| {
            *e == NetEvent::LinkGone {
                name: "v1".to_owned(),
            }
        })
        .await;
        until(
            &mut events,
            |e| matches!(e, NetEvent::LinkAppeared { name, .. } if name == "v2"),
        )
        .await;
        ip("link del v2");
        until(&mut events, |e| {
            *e == NetEvent::LinkGone {
                name: "v2".to_owned(),
            }
        })
        .await;
    });
}

#[test]
fn a_slow_reader_still_learns_the_final_state() {
    in_namespace(async || {
        let mut events = watch().await.unwrap();
        // More changes than any buffer between the kernel and us may hold.
        let batch: String = (0..3000)
            .map(|n| {
                let address = format!("dev lo 198.18.{}.{}/32", n / 250, n % 250);
                format!("address add {address}\naddress del {address}\n")
            })
            .collect();
        let temp = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(temp.path(), batch).unwrap();
        ip(&format!("-batch {}", temp.path().display()));
        ip("address add 198.51.100.9/32 dev lo");
        until(
            &mut events,
            |e| matches!(e, NetEvent::AddressAdded { ip, .. } if ip.to_string() == "198.51.100.9"),
        )
        .await;
    });
}
